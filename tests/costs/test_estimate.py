"""What a training step will cost, against arithmetic and memory counted by hand."""

import pytest
import tensorflow as tf

from keras_mdm import LevelSpec, Phase, build_nested_unet
from keras_mdm.costs.describe import count_flop, count_parameters
from keras_mdm.costs.estimate import (
    estimate_training,
    order_of_execution,
    peak_memory,
    table,
    trace_step,
)
from keras_mdm.costs.unallocated import unallocated
from keras_mdm.models.recompute import set_recompute

INNER = LevelSpec(8, channels=(32,), blocks=(1,), attention=(1,), use_mid_block=False)
LEVELS = [INNER, LevelSpec(16, channels=(16, 32), blocks=(1, 1), attention=(0, 0), groups=16)]


def make_unet(phase):
    return build_nested_unet(phase.levels, num_classes=10)


@pytest.fixture(scope="module")
def unet():
    with unallocated():
        return build_nested_unet(LEVELS, num_classes=10)


def test_peak_of_a_graph_that_is_small_enough_to_do_by_hand():
    @tf.function(autograph=False)
    def graph(x):
        a = tf.matmul(x, x)  # 400 bytes
        b = tf.matmul(a, x)
        b = tf.reshape(tf.exp(b), (100,))  # over b, and under another name
        unused = tf.matmul(x, x)
        del unused
        c = tf.concat([b, b], axis=0)  # 800 bytes; b goes
        return tf.reduce_sum(c) + tf.reduce_sum(a)

    traced = graph.get_concrete_function(tf.TensorSpec((10, 10)))
    results = traced.graph.outputs
    # At the concatenation b, the result, and of a the sum.
    assert peak_memory(order_of_execution(results), results) == 1204


def test_a_training_step_takes_three_passes_but_for_gradients_of_the_data(unet):
    forward = sum(count_flop(unet).values())
    flop, _ = trace_step(unet, {"16": 1})
    # The convolutions on the data, 3 to 16 and to 32 channels, pass no gradient on.
    data = 2 * 9 * 3 * (16 * 16 * 16 + 32 * 8 * 8)
    # Nor do the inputs of the dense layers on the time.
    assert 0 <= (3 * forward - data - flop) / forward < 1e-3


def test_rows_of_a_batch_reach_their_levels_only(unet):
    both, _ = trace_step(unet, {"16": 3})
    inner, _ = trace_step(unet, {"8": 2, "16": 1})
    one, _ = trace_step(unet, {"16": 1})
    assert one < inner < both
    assert both == pytest.approx(3 * one, rel=1e-3)


@pytest.mark.slow
def test_recomputation_costs_arithmetic_and_saves_memory(unet):
    flop, memory = trace_step(unet, {"16": 8})
    try:
        set_recompute(unet, True)
        more, less = trace_step(unet, {"16": 8})
    finally:
        set_recompute(unet, False)
    assert less < 0.8 * memory and 1.1 * flop < more < 1.4 * flop
    # Nothing was left behind in the network.
    assert trace_step(unet, {"16": 8}) == (flop, memory)


def test_phases():
    phases = [
        Phase(LEVELS[:1], steps=10, batch_size=8),
        Phase(LEVELS, steps=20, batch_size=12, freeze=["8"]),
    ]
    first, second = estimate_training(phases, make_unet, flop_per_second=1e9, averages=2)
    assert second["groups"] == {"8": 4, "16": 8}
    for row in (first, second):
        memory = row["memory"]
        assert memory["weights"] == 4 * row["parameters"] == memory["averages"] / 2
        assert memory["total"] == sum(memory[key] for key in memory if key != "total")
        assert row["hours"] == pytest.approx(row["steps"] * row["gflop"] / 0.7 / 3600)
    assert first["memory"]["gradients"] == first["memory"]["weights"]
    parts = count_parameters(make_unet(phases[1]))
    outer = sum(count for name, count in parts.items() if name.startswith("level_16"))
    assert second["memory"]["gradients"] == 4 * outer  # the inner one is frozen
    split = estimate_training(phases, make_unet, flop_per_second=1e9, devices=2, micro_batches=2)
    # Half of the arithmetic and, of the batch, a quarter at a time.
    assert split[0]["gflop"] == pytest.approx(first["gflop"] / 2, rel=1e-3)
    share = split[0]["memory"]["activations"] / first["memory"]["activations"]
    assert share == pytest.approx(0.25, abs=0.05)
    assert table([first, second]).splitlines()[2].startswith("| 8 | 10 x 8 |")


def test_bad_input_is_refused_before_anything_is_built():
    phases = [Phase(LEVELS[:1], steps=10, batch_size=6)]
    for options, match in [
        ({"micro_batches": 4}, "smallest batch that works: 4; the next from 6: 8"),
        ({"recompute": ["64"]}, "recompute"),
        ({"devices": 0}, "devices"),
        ({"flop_per_second": 0.0}, "flop_per_second=0.0"),
    ]:
        with pytest.raises(ValueError, match=match):
            estimate_training(phases, lambda phase: pytest.fail("built"), **options)


def test_a_network_must_have_the_levels_of_its_phase():
    phases = [Phase(LEVELS, steps=10, batch_size=6)]
    with pytest.raises(ValueError, match=r"levels \('8', '16'\).*levels=\('8',\)"):
        estimate_training(phases, lambda phase: build_nested_unet(LEVELS[:1], num_classes=2))

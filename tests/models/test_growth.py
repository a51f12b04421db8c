"""Growing and cutting networks, and what initial weights depend on."""

import functools

import numpy as np
import pytest

from keras_mdm import LevelSpec, cut, grow
from keras_mdm.models.resolve import extend, resolve

from .networks import (
    CLIP,
    INNER,
    LARGER,
    LARGER_CLIP,
    TEXT,
    make_inputs,
    only,
    randomize,
    small,
)

GROWTHS = {
    "image to image": ([], LARGER),
    "image to clip": ([], CLIP),
    "clip to larger clip": ([CLIP], LARGER_CLIP),
    "clip to longer clip": ([CLIP], LevelSpec(8, 4, blocks=(1, 1))),
    "two at once": ([], [LARGER, LevelSpec(32, blocks=(1, 1))]),
    "image and clip at once": ([], [LARGER, LARGER_CLIP]),
}
each_growth = pytest.mark.parametrize("growth", GROWTHS)


@functools.cache
def grown_pair(growth):
    """A network with random weights, and the one grown around it."""
    around, added = GROWTHS[growth]
    unet = small(around, **TEXT)
    return unet, grow(unet, added)


@each_growth
def test_growing_leaves_the_inner_outputs_unchanged(growth):
    """To the bit, whatever the inner weights are; the inner layers are the same objects."""
    unet, grown = grown_pair(growth)
    inputs = make_inputs(grown)
    before, after = unet(only(inputs, unet)), grown(inputs)
    for level in unet.levels:
        assert np.abs(before[level]).max() > 1e-2
        np.testing.assert_array_equal(after[level], before[level])
    for name, layer in unet.parts.items():
        assert grown.parts[name] is layer
    assert set(grown.parts) > set(unet.parts)


def test_growth_with_random_outer_weights_needs_only_the_adapter_to_be_zero():
    unet = small(**TEXT)
    grown = grow(unet, LARGER)
    down = grown.parts["level_16_down"]
    inputs = make_inputs(grown)
    before = unet(only(inputs, unet))["8"]
    randomize(grown.parts["level_16_up"], seed=5)
    randomize(down, seed=6)
    assert np.abs(grown(inputs)["8"] - before).max() > 1e-3
    for variable in down.in_adapter.weights:
        variable.assign(np.zeros(variable.shape))
    np.testing.assert_array_equal(grown(inputs)["8"], before)


@pytest.mark.parametrize("growth", ["image to clip", "clip to larger clip", "two at once"])
def test_a_grown_network_starts_like_one_built_at_once(growth):
    """First values depend on the seed and the layer's path, not on what was built before."""
    around, added = GROWTHS[growth]
    settings = {**TEXT, "seed": 3}
    grown = grow(small(around, random=False, **settings), added)
    at_once = [*around, *(added if isinstance(added, list) else [added])]
    built = small(at_once, random=False, **settings)
    assert grown.spec == built.spec
    for one, two in zip(grown.weights, built.weights, strict=True):
        assert one.path == two.path
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("inner", [64, LevelSpec(64, channels=(64,))])
def test_width_reaches_levels_that_are_added_later(inner):
    """Whether the innermost channels follow from the width or were given."""
    for width in (0.5, 2.0):
        at_once = resolve([inner, 128, 256], width=width)
        assert extend(resolve([inner], width=width), [128, 256]) == at_once
        assert extend(extend(resolve([inner], width=width), [128]), [256]) == at_once


def test_seeds_decide_the_weights():
    one, two, other = (small([LARGER], random=False, seed=seed) for seed in (1, 1, 2))
    for first, second in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(first, second)
    kernels = [
        (np.array(first), np.array(second))
        for first, second in zip(one.weights, other.weights, strict=True)
        if first.name in ("kernel", "bias") and np.any(first)
    ]
    assert len(kernels) > 10
    assert not any(np.array_equal(first, second) for first, second in kernels)


def test_no_two_layers_start_alike():
    unet = small([LARGER, LevelSpec(32, blocks=(1, 1))], random=False, **TEXT)
    kernels = [np.array(v) for v in unet.weights if v.name == "kernel" and np.any(v)]
    seen = {kernel.tobytes() for kernel in kernels}
    assert len(seen) == len(kernels)


@each_growth
def test_cutting_undoes_growing(growth):
    unet, grown = grown_pair(growth)
    back = cut(grown, unet.levels[-1])
    assert back.levels == unet.levels
    assert back.spec == unet.spec
    assert back.parts == unet.parts  # the same objects
    inputs = make_inputs(unet)
    before, after = unet(inputs), back(inputs)
    for level in unet.levels:
        np.testing.assert_array_equal(after[level], before[level])


def test_cutting_a_trained_network_drops_what_flows_inwards():
    """With weights other than zero in the adapters, the inner network alone answers differently."""
    unet = small([LARGER], **TEXT)
    inner = cut(unet, "8")
    inputs = make_inputs(unet)
    assert np.abs(inner(only(inputs, inner))["8"] - unet(inputs)["8"]).max() > 1e-3


def test_training_the_grown_network_trains_the_inner_one():
    unet = small()
    grown = grow(unet, LARGER)
    inputs = make_inputs(unet)
    before = np.array(unet(inputs)["8"])
    grown.parts["level_8"].conv_out.bias.assign_add(np.ones(3))
    np.testing.assert_allclose(unet(inputs)["8"], before + 1.0, rtol=0, atol=1e-6)


def test_errors_name_the_level():
    unet = small([LARGER], random=False)
    with pytest.raises(ValueError, match="inner_level='16', level='16'"):
        grow(unet, 16)
    with pytest.raises(ValueError, match="inner_level='16', level='8'"):
        grow(unet, 8)
    with pytest.raises(ValueError, match="inner_level='16', level='4x32'"):
        grow(unet, (4, 32))
    with pytest.raises(ValueError, match="level='32'"):
        cut(unet, "32")
    assert cut(unet, "16").levels == unet.levels


def test_an_added_level_may_be_a_specification():
    spec = LevelSpec(16, channels=(64, 32), blocks=(1, 1), micro_conditions={"score": 0.5})
    grown = grow(small(), spec)
    assert grown.spec.levels[-1].channels == (64, 32)
    assert "score" in grown.input_names
    assert grown.spec.levels[0].channels == INNER.channels

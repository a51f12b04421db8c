"""Two replicas equal one device, and the comparison would notice if they did not."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import (
    PLAIN_INNER,
    TEXT_WIDTH,
    Record,
    arrays,
    as_dataset,
    make_batch,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.optimizers import SGD, Adam
from keras_mdm.training import steps

STEPS, ROWS = 4, 6
CLIP_NORM = 0.3


class Run:
    """What one training run did."""

    levels = (PLAIN_INNER, outer(16))

    def __init__(self, strategy, optimizer, *, weighting="none", sample=False, per_execution=1):
        rng = np.random.default_rng(1)
        size = self.levels[-1].size
        batches = [make_batch(rng, ROWS, size=size) for _ in range(STEPS)]
        if sample:
            for step, batch in enumerate(batches):
                batch["sample"] = 1000 + np.arange(ROWS, dtype="int64") + step * ROWS
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            model = MatryoshkaDiffusion(
                tiny_unet(self.levels, text_width=TEXT_WIDTH),
                residual={"16": 0.3} if len(self.levels) > 1 else False,
                cond_dropout=0.4,
                loss_weighting=weighting,
                null_text=np.ones((2, TEXT_WIDTH)),
                seed=3,
            )
            model.compile(optimizer=optimizer(), steps_per_execution=per_execution)
        self.model = model
        self.before = arrays(model.unet.trainable_variables)
        record = Record(weights=True)
        model.fit(as_dataset(batches), epochs=1, verbose=0, callbacks=[record])
        self.after = arrays(model.unet.trainable_variables)
        self.averages = arrays(model.ema.averages)
        self.weights = record.weights
        self.losses = np.array([logs["loss"] for logs in record.logs])
        names = [f"loss_{level.name}" for level in self.levels]
        self.by_level = np.array([[logs[name] for name in names] for logs in record.logs])
        self.norms = np.array([logs["gradient_norm"] for logs in record.logs])


def norm(values):
    return np.sqrt(sum(float(np.sum(np.square(value, dtype="float64"))) for value in values))


def difference(a, b, start):
    """Distance between two ends, relative to the distance moved."""
    apart = norm([x - y for x, y in zip(a, b, strict=True)])
    return apart / norm([x - y for x, y in zip(a, start, strict=True)])


def compare(one, two):
    """(losses, gradient norms, weights, averages): the largest relative differences."""
    last = slice(len(one.losses) // len(two.losses) - 1, None, len(one.losses) // len(two.losses))
    return (
        np.max(np.abs(two.losses / one.losses[last] - 1)),
        np.max(np.abs(two.norms / one.norms[last] - 1)),
        difference(one.after, two.after, one.before),
        difference(one.averages, two.averages, one.before),
    )


LIMITS = np.array([1e-5, 1e-5, 1e-4, 1e-4])


def sgd():
    return SGD(0.05, clip_norm=None)


def adam():
    # The epsilon keeps elements whose gradient is rounding noise from moving at full speed.
    return Adam(1e-3, epsilon=1e-5, clip_norm=CLIP_NORM)


@pytest.fixture(scope="module")
def sgd_alone():
    return Run(None, sgd)


@pytest.fixture(scope="module")
def adam_alone():
    return Run(None, adam, weighting="vdm", sample=True)


@pytest.mark.slow
def test_sgd_on_two_replicas_equals_one_device(sgd_alone, two_replicas):
    double = Run(two_replicas, sgd)
    assert np.all(np.array(compare(sgd_alone, double)) < LIMITS), compare(sgd_alone, double)
    np.testing.assert_allclose(double.by_level, sgd_alone.by_level, rtol=1e-5)
    # The copies of a weight and of an average stayed equal.
    for variable in [*double.model.unet.trainable_variables, *double.model.ema.averages]:
        first, second = variable.value.values
        np.testing.assert_array_equal(first, second)


def test_adam_with_clipping_and_weighted_loss_on_two_replicas_equals_one_device(
    adam_alone, two_replicas
):
    assert np.all(adam_alone.norms > CLIP_NORM)  # or the clipping is not tested
    double = Run(two_replicas, adam, weighting="vdm", sample=True)
    assert np.all(np.array(compare(adam_alone, double)) < LIMITS), compare(adam_alone, double)


@pytest.mark.slow  # with mixed batches: tests/runs/test_continuing.py
def test_two_steps_per_execution_on_two_replicas_equal_one(sgd_alone, two_replicas):
    double = Run(two_replicas, sgd, per_execution=2)
    assert len(double.losses) == STEPS // 2
    assert np.all(np.array(compare(sgd_alone, double)) < LIMITS), compare(sgd_alone, double)


# The comparison fails when ... (on one level, which is enough for that)


class Small(Run):
    levels = (PLAIN_INNER,)


def clipped(kind=SGD, clip_norm=CLIP_NORM):
    return lambda: kind(0.05, clip_norm=clip_norm)


@pytest.fixture(scope="module")
def small_alone():
    run = Small(None, clipped())
    assert np.all(run.norms > CLIP_NORM)
    return run


def test_it_passes_where_nothing_is_broken(small_alone, two_replicas):
    intact = Small(two_replicas, clipped())
    assert np.all(np.array(compare(small_alone, intact)) < LIMITS), compare(small_alone, intact)


def test_it_notices_a_loss_that_is_not_divided_by_the_replicas(small_alone, two_replicas):
    class Undivided(SGD):
        def scale_loss(self, loss):
            return loss * tf.distribute.get_replica_context().num_replicas_in_sync

    broken = Small(two_replicas, clipped(Undivided, clip_norm=None))
    assert broken.norms[0] / small_alone.norms[0] == pytest.approx(2.0, rel=1e-4)
    assert compare(small_alone, broken)[2] > 0.5


def test_it_notices_clipping_per_replica(small_alone, two_replicas):
    class ClipsAlone(SGD):
        def _backend_update_step(self, grads, trainable_variables, learning_rate):
            grads, _ = tf.clip_by_global_norm(grads, CLIP_NORM)
            super()._backend_update_step(grads, trainable_variables, learning_rate)

    broken = Small(two_replicas, clipped(ClipsAlone, clip_norm=None))
    _, norms, weights, _ = compare(small_alone, broken)
    assert norms > 0.1 and weights > 100 * LIMITS[2]


def test_it_notices_replicas_that_draw_equal_noise(small_alone, two_replicas, monkeypatch):
    monkeypatch.setattr(
        steps,
        "_samples",
        lambda model, group, step, rows, *_: step * ROWS + tf.range(tf.cast(rows, tf.int64)),
    )
    broken = Small(two_replicas, clipped())
    assert np.all(np.array(compare(small_alone, broken)) > 100 * LIMITS)


# What every run does


def test_averages_follow_their_closed_form_and_raw_weights_stay_raw(sgd_alone):
    # e_K = sum over k of w_k (1 - d_k) prod_{j > k} d_j, with w_0 = e_0 the start.
    decays = [min(0.9999, (1 + n) / (10 + n)) for n in range(STEPS)]
    series = zip(sgd_alone.before, *sgd_alone.weights, strict=True)
    for found, (start, *later) in zip(sgd_alone.averages, series, strict=True):
        expected = np.prod(decays) * start.astype("float64")
        for k, weight in enumerate(later):
            share = (1 - decays[k]) * np.prod(decays[k + 1 :])
            expected = expected + share * weight.astype("float64")
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-7 * (1 + np.max(abs(start))))
    for last, final in zip(sgd_alone.weights[-1], sgd_alone.after, strict=True):
        np.testing.assert_array_equal(last, final)
    assert difference(sgd_alone.after, sgd_alone.averages, sgd_alone.before) > 1e-2


def test_evaluation_repeats_itself_and_is_equal_on_two_replicas(sgd_alone, two_replicas):
    rng = np.random.default_rng(5)
    data = as_dataset([make_batch(rng, ROWS) for _ in range(2)])
    model = sgd_alone.model
    first = model.evaluate(data, verbose=0, return_dict=True)
    assert model.evaluate(data, verbose=0, return_dict=True) == first
    with two_replicas.scope():
        twin = MatryoshkaDiffusion.from_config(model.get_config())
        twin.compile(optimizer=sgd())
        twin.set_weights(model.get_weights()[: len(twin.weights)])
    found = twin.evaluate(data, verbose=0, return_dict=True)
    for key in ("loss", "loss_8", "loss_16"):
        assert found[key] == pytest.approx(first[key], rel=1e-5)


def test_the_optimizer_must_belong_to_the_strategy_of_the_model(two_replicas):
    with two_replicas.scope():
        model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    with pytest.raises(ValueError, match="same distribution strategy.*Received.*To fix it"):
        model.compile(optimizer=SGD(0.1))

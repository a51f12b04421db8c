"""What a training step draws: per sample, per step, per level, and shares of the conditions."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, TEXT_WIDTH, THREE_PARTS, make_batch, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.conditioning.conditions import drop
from keras_mdm.optimizers import SGD
from keras_mdm.training import steps

NULL = np.full((2, TEXT_WIDTH), 0.5, "float32")


@pytest.fixture(scope="module")
def unet():
    inner = dataclasses.replace(PLAIN_INNER, micro_conditions={"score": 0.5, "size": 64.0})
    return tiny_unet([inner, outer(16)], text_width=TEXT_WIDTH)


@pytest.fixture
def make(unet):
    """Models around one network, whose weights a step leaves alone."""

    def make_model(**options):
        model = MatryoshkaDiffusion(unet, **{"null_text": NULL, **options})
        model.compile(optimizer=SGD(0.0, clip_norm=None))
        return model

    return make_model


def step(model, batch, count=0):
    """(losses, gradient norm) of optimizer step number `count`."""
    model.optimizer.iterations.assign(count)
    logs = model.train_step({key: tf.constant(value) for key, value in batch.items()})
    return np.array([float(logs[name]) for name in ("loss", "loss_8", "loss_16", "gradient_norm")])


def draw(model, samples, *, step=0, size=(8, 16)):
    @tf.function(autograph=False)
    def traced(samples):
        x0 = {str(s): tf.zeros((samples.shape[0], s, s, 3)) for s in size}
        return (
            model.draw_noise("train", step, samples, x0),
            *steps.draw_times(model, "train", step, samples),
        )

    return traced(tf.constant(samples, tf.int64))


def test_noise_belongs_to_the_sample_and_not_to_its_row(make):
    model = make(cond_dropout=0.5)
    eps, index, dropped = draw(model, [7, 8, 9, 10])
    again, index_again, dropped_again = draw(model, [10, 7])
    for name in eps:
        np.testing.assert_array_equal(again[name], tf.gather(eps[name], [3, 0]))
    np.testing.assert_array_equal(index_again, tf.gather(index, [3, 0]))
    np.testing.assert_array_equal(dropped_again, tf.gather(dropped, [3, 0]))
    # Another level does not change this one's noise; another step, sample or seed does.
    np.testing.assert_array_equal(draw(model, [7, 8], size=(8,))[0]["8"], eps["8"][:2])
    others = [draw(model, [7], step=1)[0]["8"], eps["8"][1:2], draw(make(seed=1), [7])[0]["8"]]
    for other in others:
        correlation = np.corrcoef(np.ravel(other), np.ravel(eps["8"][0]))[0, 1]
        assert abs(correlation) < 5 / np.sqrt(192)


def test_noise_is_standard_normal_and_independent_over_levels(make):
    eps, *_ = draw(make(), range(200))
    low, high = (np.asarray(eps[name], "float64") for name in ("8", "16"))
    for noise in (low, high):
        assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
        assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    pooled = 2 * high.reshape(200, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    for other in (pooled, high[:, :8, :8]):
        assert abs(np.mean(low * other)) < 5 / np.sqrt(low.size)


def test_times_are_uniform_over_the_table_and_conditions_drop_by_their_share(make):
    model, count = make(cond_dropout=0.3), 4000
    _, index, dropped = draw(model, range(count), size=(1,))
    index = index.numpy()
    assert index.min() >= 1 and index.max() <= 1000
    quarters = np.histogram(index, bins=4, range=(0.5, 1000.5))[0] / count
    np.testing.assert_allclose(quarters, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / count))
    share = np.mean(dropped)
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / count)
    # Dropped samples are not those of certain times.
    assert abs(np.corrcoef(index, np.asarray(dropped, float))[0, 1]) < 5 / np.sqrt(count)


def test_conditions_drop_each_by_its_own_share(make):
    model, count = make(cond_dropout={"text": 0.3, "score": 0.6}), 4000
    _, _, dropped = draw(model, range(count), size=(1,))
    shares = np.mean(dropped, axis=0)
    assert np.all(np.abs(shares - [0.3, 0.6]) < 5 * np.sqrt(0.25 / count))
    assert abs(np.corrcoef(np.asarray(dropped, float).T)[0, 1]) < 5 / np.sqrt(count)
    some = {"text": tf.constant([True, False]), "score": tf.constant([False, True])}
    given = {
        "text": tf.ones((2, 3, TEXT_WIDTH)),
        "text_mask": tf.ones((2, 3)),
        "score": tf.constant([0.2, 0.4]),
        "size": tf.constant([1.0, 2.0]),
    }
    found = drop(given, model.null_condition, some)
    null, mask = (np.asarray(model.null_condition[name]) for name in ("text", "text_mask"))
    np.testing.assert_array_equal(found["text"][0, : len(null)], null)
    np.testing.assert_array_equal(found["text_mask"][0], np.pad(mask, (0, 3 - len(mask))))
    np.testing.assert_array_equal(found["text"][1], given["text"][1])
    np.testing.assert_array_equal(found["score"], np.array([0.2, np.nan], "float32"))
    np.testing.assert_array_equal(found["size"], given["size"])
    # All at once concerns the prompt alone.
    both = drop(given, model.null_condition, tf.constant([True, True]))
    np.testing.assert_array_equal(both["score"], given["score"])
    for rates in ({"label": 0.5}, {"text": 1.5}, {"text_mask": 0.1}):
        with pytest.raises(ValueError, match=THREE_PARTS):
            make(cond_dropout=rates)


def test_a_step_follows_its_samples(make):
    model, batch = make(cond_dropout=0.5), make_batch(np.random.default_rng(0), 4)
    order = [2, 0, 3, 1]
    samples = np.array([40, 41, 42, 43])
    here = step(model, {**batch, "sample": samples})
    shuffled = {key: value[order] for key, value in {**batch, "sample": samples}.items()}
    np.testing.assert_allclose(step(model, shuffled), here, rtol=1e-5)
    assert np.max(np.abs(step(model, {**batch, "sample": samples[order]}) / here - 1)) > 1e-2
    # Without positions they are counted: step times batch plus row.
    counted = step(model, batch, count=10)
    np.testing.assert_array_equal(step(model, {**batch, "sample": samples}, count=10), counted)


def test_dropping_every_prompt_equals_passing_none(make):
    rng = np.random.default_rng(1)
    batch, other = make_batch(rng, 4), make_batch(rng, 4)
    always, never = make(cond_dropout=1.0), make(cond_dropout=0.0)
    dropped = step(always, batch)
    same_pictures = {**batch, "text": other["text"]}
    np.testing.assert_array_equal(step(always, same_pictures), dropped)
    none = {
        **batch,
        "text": np.repeat(NULL[None], 4, axis=0),
        "text_mask": np.ones((4, 2), "float32"),
    }
    np.testing.assert_allclose(step(never, none), dropped, rtol=1e-5)
    assert np.max(np.abs(step(never, batch) / dropped - 1)) > 1e-4  # the prompt matters


def test_weights_of_the_variational_bound(make):
    model = make(loss_weighting="vdm")
    index = np.array([1, 2, 400, 1000])
    by_level = {"8": np.array([1.0, 2.0, 3.0, 4.0], "f"), "16": np.array([4.0, 3.0, 2.0, 0.0], "f")}
    bar = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    bar = np.cumprod(1 - np.minimum(1 - bar[1:] / bar[:-1], 0.999))
    snr = bar / (1 - bar)  # k = 1..N
    weight = snr[:-1] / snr[1:] - 1  # k = 2..N; k = 1 repeats the first
    weight = np.concatenate([weight[:1], weight])[index - 1]
    expected = np.sum(weight * (by_level["8"] + by_level["16"])) / np.sum(weight)
    found = model.batch_loss({k: tf.constant(v) for k, v in by_level.items()}, tf.constant(index))
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_generation_also_needs_the_measured_residual(make):
    model = make(residual=True)
    with pytest.raises(ValueError, match=THREE_PARTS):
        model.generate({"text": NULL[None]}, steps=1, progress=False)
    # A level keeps the value that it was trained with.
    measured = make(residual={"16": 0.3})
    data = [make_batch(np.random.default_rng(0), 2)]
    assert measured.measure_residual(data, only_missing=True) == {}
    assert float(measured.residual_std["16"]) == pytest.approx(0.3)
    assert measured.measure_residual(data)["16"] != pytest.approx(0.3, rel=0.1)


def test_a_mask_must_fit_its_text(make):
    batch = make_batch(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match=THREE_PARTS):
        make().prepare({**batch, "text_mask": np.ones((2, 5), "float32")})
    with pytest.raises(ValueError, match=THREE_PARTS):
        make().prepare([batch["image"]])

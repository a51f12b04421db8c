"""Noise augmentation: a network sees a noisy picture and is told how noisy it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, THREE_PARTS, outer, tiny_unet

from keras_mdm import LevelSpec, MatryoshkaDiffusion, export_saved_model, optimizers
from keras_mdm.conditioning.low_res import as_low_res, with_noise
from keras_mdm.training.augmenting import augmented

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (4, 8, 8, 3)).astype("uint8")
IMAGES = RNG.integers(0, 256, (4, 16, 16, 3)).astype("uint8")


def told(level):
    return LevelSpec(**{**vars(level), "micro_conditions": {"low_res_noise": 0.0}})


def upsampler(levels=(PLAIN_INNER, outer(16)), **options):
    unet = tiny_unet([told(level) for level in levels], in_channels=6)
    return MatryoshkaDiffusion(unet, **options)


def drawn(model, low_res=SMALL, **options):
    options = {"steps": 2, "output": "float32", "threshold": "none", "progress": False, **options}
    return model.generate(low_res=low_res, **options)


def test_noise_is_that_of_the_highest_levels_schedule():
    model = upsampler()
    schedule = model.process.schedules["16"]
    rows = 4000
    samples = tf.range(rows, dtype=tf.int64)
    conditions = {"low_res": tf.ones((rows, 2, 2, 3))}
    add = tf.function(lambda given: augmented(model, "train", 3, samples, given))
    found = add(conditions)
    index = np.rint(found["low_res_noise"].numpy() * 1000).astype(int)
    assert index.min() >= 1 and index.max() <= 1000
    # Uniform over the table.
    deciles = np.bincount((index - 1) // 100, minlength=10)
    assert np.abs(deciles / rows - 0.1).max() < 0.02
    alpha, sigma = (np.asarray(a) for a in schedule.alpha_sigma(index / 1000.0))
    eps = (found["low_res"].numpy() - alpha[:, None, None, None]) / sigma[:, None, None, None]
    assert abs(eps.mean()) < 0.02 and eps.std() == pytest.approx(1.0, abs=0.02)
    # A sample's noise is its own, wherever it stands in the batch.
    few = tf.constant([7, 3], tf.int64)
    again = augmented(model, "train", 3, few, {"low_res": tf.ones((2, 2, 2, 3))})
    for name, value in again.items():
        np.testing.assert_allclose(value, tf.gather(found[name], few), atol=1e-6)
    other = augmented(model, "train", 4, few, {"low_res": tf.ones((2, 2, 2, 3))})
    assert not np.allclose(other["low_res"], again["low_res"])


def test_the_network_gets_the_noisy_picture_and_its_level(monkeypatch):
    model = upsampler()
    seen = []
    infer = model.network("raw")
    monkeypatch.setattr(model, "network", lambda *_: lambda x: seen.append(x) or infer(x))
    tf.config.run_functions_eagerly(True)
    try:
        drawn(model, low_res_noise=500, seed=[5, 6, 7, 8], steps=1)
    finally:
        tf.config.run_functions_eagerly(False)
    inputs = seen[-1]  # the first call traces
    np.testing.assert_allclose(inputs["low_res_noise"], 0.5)
    clean = as_low_res(SMALL, model.unet.spec).numpy()
    alpha, sigma = (float(a) for a in model.process.schedules["16"].alpha_sigma(0.5))
    eps = (inputs["z_16"].numpy()[..., 3:] - alpha * clean) / sigma
    assert abs(eps.mean()) < 0.1 and eps.std() == pytest.approx(1.0, abs=0.1)
    below = model.process.pyramid(inputs["z_16"][..., 3:])["8"]
    np.testing.assert_allclose(inputs["z_8"][..., 3:], below, atol=1e-6)
    # Not the noise from which sampling starts.
    assert abs(np.corrcoef(eps.ravel(), inputs["z_16"].numpy()[..., :3].ravel())[0, 1]) < 0.1


def test_the_end_of_the_table_leaves_nothing_of_the_picture():
    model = upsampler([PLAIN_INNER])
    least, most = (
        drawn(model, low_res_noise=k)["8"] - drawn(model, 255 - SMALL, low_res_noise=k)["8"]
        for k in (1, 1000)
    )
    assert np.abs(least).max() > 1e-2 and np.abs(most).max() < 1e-3


def test_pictures_are_independent_and_the_least_is_the_default():
    model = upsampler([PLAIN_INNER])
    whole = drawn(model, low_res_noise=700)["8"]
    one = drawn(model, SMALL[:2], low_res_noise=700)["8"]
    np.testing.assert_allclose(one, whole[:2], atol=1e-5)
    np.testing.assert_allclose(drawn(model, low_res_noise=700, batch_size=2)["8"], whole, atol=1e-5)
    assert np.abs(whole - drawn(model, low_res_noise=700, seed=1)["8"]).max() > 1e-2
    # Two pictures of one small picture get different noise.
    twice = drawn(model, SMALL[:1], low_res_noise=700, num_images_per_prompt=2)["8"]
    assert np.abs(twice[0] - twice[1]).max() > 1e-2
    np.testing.assert_array_equal(drawn(model)["8"], drawn(model, low_res_noise=1)["8"])
    compiled = drawn(model, low_res_noise=700, jit_compile=True)["8"]
    np.testing.assert_allclose(compiled, whole, atol=1e-4)


def test_training_tells_levels_apart_and_the_file_keeps_it(tmp_path):
    model = upsampler([PLAIN_INNER])
    model.compile(optimizer=optimizers.Adam(1e-2))
    batch = {"image": IMAGES[:, ::2, ::2], "low_res": SMALL}
    data = tf.data.Dataset.from_tensors(batch)
    assert model.evaluate(data, verbose=0) == model.evaluate(data, verbose=0)
    layer = model.unet.get_layer("level_8_embedding").micro_layers["low_res_noise"]
    before = np.asarray(layer.dense2.kernel).copy()
    model.fit(data.repeat(3), verbose=0)
    assert np.abs(np.asarray(layer.dense2.kernel) - before).max() > 1e-3
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    found, expected = (drawn(m, low_res_noise=300)["8"] for m in (again, model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_micro_batches_are_the_whole_batch():
    losses = []
    for parts in (1, 2):
        model = upsampler([PLAIN_INNER])
        model.compile(optimizer=optimizers.SGD(1e-2), micro_batches=parts)
        batch = {"image": IMAGES[:, ::2, ::2], "low_res": SMALL}
        losses.append(model.train_on_batch(batch, return_dict=True)["gradient_norm"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_what_is_exported_draws_the_same(tmp_path):
    model = upsampler([PLAIN_INNER])
    export_saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["scalars"]
    given = {"steps": tf.constant(2), "guidance_scale": tf.constant(1.0)}
    given |= {"low_res": tf.constant(SMALL), "seed": tf.constant(5, tf.int64)}
    for level in (1, 500):
        found = served(low_res_noise=tf.constant(level), **given)["8"]
        expected = model.generate(
            low_res=SMALL, low_res_noise=level, steps=2, seed=5, progress=False
        )["8"]
        assert np.abs(found.numpy().astype(int) - expected).max() <= 1
    for level in (0, 1001):
        with pytest.raises(tf.errors.InvalidArgumentError, match="low_res_noise"):
            served(low_res_noise=tf.constant(level), **given)


def test_a_level_of_zero_is_the_clean_picture():
    eps = tf.ones((2, 4, 4, 3))
    schedule = upsampler([PLAIN_INNER]).process.schedules["8"]
    found = with_noise({"low_res": 0.5 * eps}, eps, tf.constant(0), schedule)
    np.testing.assert_array_equal(found["low_res"], 0.5 * eps)
    np.testing.assert_array_equal(found["low_res_noise"], [0.0, 0.0])


@pytest.mark.parametrize("level", [0, 1001, 0.5, True, "500"])
def test_levels_that_are_none_are_refused(level):
    with pytest.raises(ValueError, match=THREE_PARTS):
        drawn(upsampler([PLAIN_INNER]), low_res_noise=level)


def test_what_does_not_fit_is_refused():
    plain = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], in_channels=6))
    with pytest.raises(ValueError, match="low_res_noise.+noisy pictures" + THREE_PARTS):
        drawn(plain, low_res_noise=500)
    # The level is drawn, not given with the data or dropped.
    model = upsampler([PLAIN_INNER])
    with pytest.raises(ValueError, match="micro.+low_res_noise"):
        drawn(model, micro={"low_res_noise": 0.5})
    with pytest.raises(ValueError, match="cond_dropout.+low_res_noise"):
        upsampler([PLAIN_INNER], cond_dropout={"low_res_noise": 0.1})
    with pytest.raises(ValueError, match="in_channels beyond out_channels" + THREE_PARTS):
        MatryoshkaDiffusion(tiny_unet([told(PLAIN_INNER)]))

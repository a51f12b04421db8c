"""The training of an autoencoder: its loss, replicas, and files."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import THREE_PARTS, Record

from keras_mdm.data import image_text_dataset
from keras_mdm.latents import fitting
from keras_mdm.optimizers import SGD, Adam

from .tiny import pictures, tiny

pytestmark = pytest.mark.usefixtures("eagerly")


def weights_of(model):
    return [np.asarray(variable).copy() for variable in model.trainable_variables]


def distance(a, b):
    pairs = zip(a, b, strict=True)
    return np.sqrt(sum(float(np.sum(np.square(x - y, dtype="float64"))) for x, y in pairs))


@pytest.mark.parametrize(
    ("name", "difference"), [("l1", np.abs), ("l2", np.square)], ids=["l1", "l2"]
)
def test_the_loss_in_closed_form(name, difference):
    codec = tiny()
    codec.compile(SGD(0.1), reconstruction=name, kl_weight=0.3)
    images = pictures(3).astype("float32") / 127.5 - 1.0
    noise = np.random.default_rng(2).normal(size=(3, 4, 4, 3)).astype("float32")
    found = fitting.losses(codec, tf.constant(images), tf.constant(noise))
    mean, log_variance = (np.asarray(value, "float64") for value in codec.posterior(images))
    deviation = np.exp(0.5 * log_variance)
    decoded = codec._reconstructed(tf.cast(mean + deviation * noise, tf.float32))
    apart = difference(np.asarray(decoded) - images).mean((1, 2, 3))
    # KL(N(m, s^2) || N(0, 1)) = -log s + (s^2 + m^2 - 1) / 2, per value of the picture.
    kl = (-np.log(deviation) + (deviation**2 + mean**2 - 1.0) / 2.0).sum((1, 2, 3)) / 192
    np.testing.assert_allclose(found["loss_reconstruction"], apart, rtol=1e-5)
    np.testing.assert_allclose(found["loss_kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], apart + 0.3 * kl, rtol=1e-5)


def trained(strategy, optimizer=lambda: SGD(0.05, clip_norm=0.3), **options):
    """(weights before, weights after, losses) of four steps on batches of four."""
    data = image_text_dataset(pictures(12), batch_size=4, seed=0)
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        model = tiny(seed=3)
        model.compile(optimizer(), **options)
    before, record = weights_of(model), Record()
    model.fit(data, steps_per_epoch=4, verbose=0, callbacks=[record])
    return before, weights_of(model), record.logs


@pytest.fixture(scope="module")
def alone():
    return trained(None)


def test_two_replicas_equal_one_device(alone, two_replicas, traced):
    before, after, logs = alone
    assert all(step["gradient_norm"] > 0.3 for step in logs)  # or the clip is not tested
    _, double, others = trained(two_replicas)
    assert distance(after, double) < 1e-4 * distance(after, before)
    for mine, other in zip(logs, others, strict=True):
        for name in ("loss", "loss_kl", "gradient_norm"):
            assert other[name] == pytest.approx(mine[name], rel=1e-4), name


@pytest.mark.slow
def test_doubled_gradients_and_equal_noise_would_be_noticed(alone, two_replicas, monkeypatch):
    before, after, _ = alone
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "_mean", lambda values: 2.0 * tf.reduce_mean(values))
        # Without the clip, which would hide a factor.
        plain = trained(None, lambda: SGD(0.05, clip_norm=None))[1]
    assert distance(plain, after) > 0.1 * distance(after, before)
    with monkeypatch.context() as patch:
        zeros = lambda key, samples, shapes: {  # noqa: E731
            name: tf.zeros((tf.shape(samples)[0], *shape)) for name, shape in shapes.items()
        }
        patch.setattr(fitting.randomness, "normal_per_sample", zeros)
        silent = trained(None)[1]
    assert distance(silent, after) > 1e-3 * distance(after, before)


def test_it_learns_and_goes_on_from_its_file(tmp_path, traced):
    data = pictures(1).repeat(2, axis=0)  # one picture is all there is to learn
    model, record = tiny(scramble=False), Record()
    model.compile(Adam(1e-2))
    endless = tf.data.Dataset.from_tensors(data).repeat()
    history = model.fit(endless, steps_per_epoch=20, verbose=0, callbacks=[record]).history
    assert set(history) == set(fitting.LOGGED)
    assert record.logs[-1]["loss"] < 0.7 * record.logs[0]["loss"]
    losses = model.evaluate(data, verbose=0, return_dict=True)
    apart = np.mean(np.abs(np.asarray(model(data)) - (data / 127.5 - 1.0)))
    assert losses["loss_reconstruction"] == pytest.approx(float(apart), rel=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations) == 20 and again.kl_weight == 1e-6
    for one in (model, again):
        one.fit(endless, steps_per_epoch=1, verbose=0)
    assert distance(weights_of(model), weights_of(again)) == 0.0


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (lambda: pictures(4, size=7), {}, "sides that are multiples of 2"),
        (lambda: pictures(4, channels=1), {}, r"must be \(B, H, W, 3\)"),
        (lambda: tf.data.Dataset.from_tensors({"picture": pictures(2)}), {}, "under `image`"),
        (lambda: tf.data.Dataset.from_tensors(pictures(2)), {"batch_size": 2}, "belongs to arrays"),
        (lambda: pictures(4), {"batch_size": 0}, "`batch_size` must be"),
    ],
)
def test_data_that_does_not_fit(data, options, said):
    model = tiny(scramble=False)
    model.compile("adam")
    with pytest.raises(ValueError, match=said + ".*" + THREE_PARTS):
        model.fit(data(), verbose=0, **options)


def test_batches_that_do_not_divide_over_replicas(two_replicas):
    with two_replicas.scope():
        model = tiny(scramble=False)
        model.compile(SGD(0.1))
    with pytest.raises(ValueError, match="the same number of rows.*" + THREE_PARTS):
        model.fit(tf.data.Dataset.from_tensors(pictures(3)), verbose=0)
    with two_replicas.scope(), pytest.raises(ValueError, match="clip on each replica"):
        model.compile(keras.optimizers.Adam(clipnorm=1.0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "mse"}, "takes no `loss`"),
        ({"reconstruction": "l3"}, "`reconstruction` must be one of"),
        ({"kl_weight": -1.0}, "`kl_weight` must be"),
    ],
)
def test_losses_of_another_kind(options, said):
    with pytest.raises(ValueError, match=said):
        tiny(scramble=False).compile("adam", **options)

"""The loss is the paper's, written down by hand; wrong batches are named."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import (
    PLAIN_INNER,
    TEXT_WIDTH,
    THREE_PARTS,
    Record,
    as_dataset,
    make_batch,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.diffusion import residual
from keras_mdm.optimizers import Adam


def make_model(*, scramble=True, **options):
    unet = tiny_unet([PLAIN_INNER, outer(16)], text_width=TEXT_WIDTH, scramble=scramble)
    return MatryoshkaDiffusion(unet, **options)


def make_losses(model, rows=3):
    rng = np.random.default_rng(0)
    batch = make_batch(rng, rows)
    x0, conditions = model.prepare(batch)
    eps = {k: tf.constant(rng.normal(size=v.shape).astype("float32")) for k, v in x0.items()}
    index = tf.constant([1, 500, 1000][:rows])
    network = model.network("raw")
    seen = {}

    def spy(inputs):
        seen.update(inputs)
        seen["outputs"] = network(inputs)
        return seen["outputs"]

    return model.level_losses(spy, x0, eps, index, conditions), x0, eps, index, seen


def test_loss_is_the_mean_square_of_v_at_shifted_schedules():
    model = make_model()
    found, x0, eps, index, seen = make_losses(model)
    np.testing.assert_array_equal(seen["time"], index.numpy() - 1)
    k = index.numpy()
    # The squared cosine with its cap, by hand.
    bar = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    snr = (lambda a: a / (1 - a))(np.cumprod(1 - beta)[k - 1])
    for name, shift in (("8", 1.0), ("16", 4.0)):  # twice the size, power 2
        alpha = np.sqrt(snr / shift / (1 + snr / shift)).reshape(-1, 1, 1, 1)
        sigma = np.sqrt(1 / (1 + snr / shift)).reshape(-1, 1, 1, 1)
        x, e = x0[name].numpy(), eps[name].numpy()
        np.testing.assert_allclose(seen[f"z_{name}"], alpha * x + sigma * e, atol=1e-4)
        target = alpha * e - sigma * x
        expected = np.mean((seen["outputs"][name].numpy() - target) ** 2, axis=(1, 2, 3))
        np.testing.assert_allclose(found[name], expected, rtol=1e-4)


def test_eps_target_is_the_same_network_compared_as_noise():
    plain = make_losses(make_model())
    noise = make_losses(make_model(loss_target="eps"))
    # eps - eps_hat = alpha (v - v_hat) for one x_t.
    for name in ("8", "16"):
        alpha, _ = make_model().process.amplitudes(name, tf.constant([0.001, 0.5, 1.0]))
        np.testing.assert_allclose(noise[0][name], alpha**2 * plain[0][name], rtol=2e-3, atol=1e-6)


def test_level_weights_scale_their_level():
    model = make_model(level_weights={"16": 3.0})
    by_level, *_, index, _ = make_losses(model)
    expected = np.mean(by_level["8"] + 3.0 * by_level["16"])
    assert float(model.batch_loss(by_level, index)) == pytest.approx(expected, rel=1e-6)


def test_a_silent_outer_network_predicts_the_wiener_estimate():
    model = make_model(scramble=False, residual={"16": 0.3})
    _, _, _, index, seen = make_losses(model)
    z = {"8": seen["z_8"], "16": seen["z_16"]}
    t = tf.cast(index, tf.float32) / 1000
    assert float(tf.reduce_max(tf.abs(seen["outputs"]["16"]))) == 0.0
    _, x0 = model.process.predictions(seen["outputs"], z, t, model.residual_std)
    picture = tf.clip_by_value(x0["8"], -1.0, 1.0)
    below, above = model.process.shapes
    from keras_mdm.diffusion import upsample

    u = upsample(picture, below, above, kind="bilinear")
    expected = residual.wiener_x0(z["16"], u, *model.process.amplitudes("16", t), 0.3)
    np.testing.assert_allclose(x0["16"], expected, atol=2e-4)


def test_residual_is_measured_over_data_and_needed():
    model = make_model(residual=True)
    model.compile(optimizer=Adam(1e-3))
    batch = make_batch(np.random.default_rng(0), 4)
    with pytest.raises(ValueError, match=r"missing=\['16'\]"):
        model.fit(as_dataset([batch]), verbose=0)
    measured = model.measure_residual(as_dataset([batch]))
    x = batch["image"] / 127.5 - 1.0
    low = x.reshape(4, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    up = tf.image.resize(low, (16, 16), method="bilinear").numpy()
    assert measured["16"] == pytest.approx(float(np.sqrt(np.mean((x - up) ** 2))), rel=1e-5)
    assert float(model.residual_std["16"]) == pytest.approx(measured["16"])


def test_bfloat16_learns_a_fixed_batch():
    unet = tiny_unet([PLAIN_INNER, outer(16)], text_width=TEXT_WIDTH, dtype="mixed_bfloat16")
    model = MatryoshkaDiffusion(unet, cond_dropout=0.0)
    model.compile(optimizer=Adam(5e-3))
    record = Record()
    batch = make_batch(np.random.default_rng(0), 8)
    batch["image"][:] = 255  # easy to learn
    model.fit(as_dataset([batch] * 40), verbose=0, callbacks=[record])
    losses = [logs["loss"] for logs in record.logs]
    assert np.all(np.isfinite(losses))
    assert all(variable.dtype == "float32" for variable in unet.trainable_variables)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize(
    "change",
    [
        {"image": None},
        {"pixels": np.zeros(3)},
        {"text": None},
        {"text": np.zeros((3, 3, TEXT_WIDTH + 1), "float32")},
        {"image": np.zeros((3, 8, 8, 3), "uint8")},
        {"image": np.zeros((3, 16, 16, 3), "float64")},
    ],
    ids=lambda change: f"{next(iter(change))}",
)
def test_wrong_batches_are_one_error_in_three_parts(change):
    batch = {**make_batch(np.random.default_rng(0), 3), **change}
    with pytest.raises(ValueError, match=THREE_PARTS):
        make_model().prepare({key: value for key, value in batch.items() if value is not None})


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "square"},
        {"prediction": "score"},
        {"loss_target": "x"},
        {"level_weights": {"64": 1.0}},
        {"cond_dropout": 1.5},
        {"seed": -1},
        {"downsample": "nearest"},
        {"residual": {"8": 0.2}},
        {"residual": True, "prediction": "eps"},
        {"null_text": np.zeros((2, 3))},
        {"null_text": np.zeros((2, TEXT_WIDTH)), "null_mask": [0, 0]},
    ],
    ids=str,
)
def test_wrong_arguments_are_one_error_in_three_parts(options):
    with pytest.raises(ValueError, match=r"(?s)\. Received: .+\. To fix it: .+\.$"):
        make_model(**options)

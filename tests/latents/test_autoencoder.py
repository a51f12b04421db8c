"""Codes of an autoencoder: their scale, what a file keeps, what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import THREE_PARTS

from keras_mdm import latents

from .tiny import pictures, tiny

pytestmark = pytest.mark.usefixtures("eagerly")


def measured(**options):
    codec = tiny(**options)
    codec.measure_scale(pictures(12))
    return codec


def test_codes_are_divided_by_the_moments_of_the_posterior():
    codec, data = tiny(), pictures(12)
    raw = np.asarray(codec.posterior(data)[0], "float64")
    shift, deviation = codec.measure_scale(data, batch_size=5)
    np.testing.assert_allclose(shift, raw.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(deviation, raw.std((0, 1, 2)), rtol=1e-5)
    codes = codec.encode(data)
    np.testing.assert_allclose(codes, (raw - shift) / deviation, rtol=1e-4, atol=1e-5)
    # Back again: decoding undoes the scale, not the encoder.
    np.testing.assert_allclose(codec.decode(codes), codec(data), atol=1e-5)
    # A dataset is measured like its pictures.
    batches = tf.data.Dataset.from_tensor_slices({"image": data}).batch(4)
    np.testing.assert_allclose(codec.measure_scale(batches)[1], deviation, rtol=1e-6)
    few = codec.measure_scale(batches.repeat(), batches=1)[1]
    np.testing.assert_allclose(few, raw[:4].std((0, 1, 2)), rtol=1e-5)


def test_a_sample_of_the_posterior_has_its_deviation():
    codec, data = measured(), pictures(2)
    _, log_variance = codec.posterior(data)
    noise = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype("float32")
    moved = np.asarray(codec.encode(data, noise=noise)) - np.asarray(codec.encode(data))
    spread = np.exp(0.5 * np.asarray(log_variance)) / np.asarray(codec.code_deviation)
    np.testing.assert_allclose(moved, noise * spread, rtol=1e-3, atol=1e-5)


def test_uint8_is_the_same_picture_and_any_size_will_do(traced):
    codec = measured()
    data = pictures(2, size=12)[:, :6]
    as_floats = data.astype("float32") / 127.5 - 1.0
    codes = codec.encode(data)
    assert codes.shape == (2, 3, 6, 3) and isinstance(codec, latents.Codec)
    np.testing.assert_allclose(codes, codec.encode(as_floats), atol=1e-6)
    # The same by a graph of its own, inside another, and of fewer rows.
    inside = tf.function(codec.encode)(tf.constant(as_floats))
    np.testing.assert_allclose(inside, codes, atol=1e-5)
    np.testing.assert_allclose(codec.encode(data[1:]), codes[1:], atol=1e-5)


def test_a_new_encoder_starts_narrow_and_every_branch_as_the_identity():
    codec = tiny(scramble=False)
    _, log_variance = codec.posterior(pictures(4))
    assert np.abs(np.asarray(log_variance) + 4.0).max() < 1.0
    for layer in codec.encoder.inside:
        x = tf.random.stateless_normal((1, 4, 4, 16), (0, 1))
        if type(layer).__name__ == "PixelAttention":
            np.testing.assert_array_equal(layer(x), x)
    other, same = tiny(scramble=False, seed=1), tiny(scramble=False)
    kernels = [c.encoder.conv_in.kernel for c in (codec, same, other)]
    np.testing.assert_array_equal(*kernels[:2])
    assert np.abs(np.asarray(kernels[2]) - np.asarray(kernels[0])).max() > 0.1


ARGUMENTS = {
    "factor": 4,
    "channels": 2,
    "width": 12,
    "multipliers": [1, 2, 1],
    "blocks": 1,
    "attention": [0, 1, 0],
    "groups": 3,
    "image_channels": 1,
    "seed": 5,
    "name": "mine",
}


def test_a_file_keeps_everything(tmp_path):
    codec = latents.KLAutoencoder(**ARGUMENTS)
    config = codec.get_config()
    assert {name: config[name] for name in ARGUMENTS} == ARGUMENTS
    defaults = latents.KLAutoencoder(4, width=32).get_config()
    assert all(defaults[name] != value for name, value in ARGUMENTS.items() if name != "factor")
    data = pictures(8, channels=1)
    codec.measure_scale(data)
    codec.save(tmp_path / "codec.keras")
    for again in (
        keras.saving.load_model(tmp_path / "codec.keras"),
        latents.load_codec(tmp_path / "codec.keras"),
    ):
        assert again.get_config() == config
        np.testing.assert_array_equal(again.encode(data), codec.encode(data))
        codes = codec.encode(data)
        np.testing.assert_array_equal(again.decode(codes), codec.decode(codes))
    assert latents.identity_of(again) == latents.identity_of(codec)
    codec.code_shift.assign(np.ones(2))
    assert latents.identity_of(again) != latents.identity_of(codec)


def test_in_half_precision_codes_and_pictures_are_float32():
    half, whole = (tiny(dtype=dtype) for dtype in ("mixed_bfloat16", "float32"))
    data = pictures(2)
    assert half.encoder.conv_in.compute_dtype == "bfloat16"
    mean, log_variance = half.posterior(data)
    assert mean.dtype == log_variance.dtype == half(data).dtype == tf.float32
    np.testing.assert_allclose(mean, whole.posterior(data)[0], atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"factor": 3}, "`factor` must be a power of two"),
        ({"factor": 2}, "`channels` has no default for this factor"),
        ({"factor": 2, "channels": 3}, "`multipliers` has no default"),
        ({"multipliers": (1, 2)}, "`multipliers` must hold one number per resolution, 3"),
        ({"attention": (1,)}, "`attention` must hold one number per resolution"),
        ({"width": 0}, "`width` must be an integer of at least 1"),
        ({"width": 20}, "`groups` must divide the number of channels"),
        ({"channels": 0}, "`channels` must be an integer"),
    ],
)
def test_arguments_that_do_not_fit(arguments, said):
    with pytest.raises(ValueError, match=said + ".*" + THREE_PARTS):
        latents.KLAutoencoder(**arguments)


@pytest.mark.parametrize("shape", [(1, 7, 8, 3), (1, 8, 8, 4), (8, 8, 3)])
def test_pictures_that_do_not_fit(shape):
    codec = measured()
    with pytest.raises(ValueError, match="multiples of 2" + THREE_PARTS):
        codec.encode(np.zeros(shape, "float32"))


def test_codes_of_other_channels_and_codes_without_a_scale():
    codec = measured()
    with pytest.raises(ValueError, match=r"codes must be \(B, h, w, 3\)" + THREE_PARTS):
        codec.decode(np.zeros((1, 4, 4, 4)))
    for use in (lambda c: c.encode(pictures(1)), lambda c: c.decode(np.zeros((1, 4, 4, 3)))):
        with pytest.raises(ValueError, match="scale of an autoencoder's codes must be measured"):
            use(tiny())


def test_a_scale_that_cannot_be_measured():
    codec, data = tiny(), pictures(4)
    endless = tf.data.Dataset.from_tensors({"image": data}).repeat()
    with pytest.raises(ValueError, match="must end" + THREE_PARTS):
        codec.measure_scale(endless)
    with pytest.raises(ValueError, match="at least one picture" + THREE_PARTS):
        codec.measure_scale(data[:0])
    codec.quant_conv.kernel.assign(np.zeros((6, 6)))
    with pytest.raises(ValueError, match="every channel of the codes must vary" + THREE_PARTS):
        codec.measure_scale(data)


@pytest.mark.parametrize("path", ["nothing", "nothing.keras", "nothing.ckpt"])
def test_paths_that_are_no_autoencoder(path, tmp_path):
    with pytest.raises(ValueError, match="an autoencoder must be .*" + THREE_PARTS):
        latents.load_codec(tmp_path / path)
    other = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="must have `factor`.*" + THREE_PARTS):
        latents.load_codec(tmp_path / "other.keras")

"""Levels over codes: the same builder, training and sampler, over another space."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, THREE_PARTS, tiny_unet

from keras_mdm import (
    LevelSpec,
    MatryoshkaDiffusion,
    build_nested_unet,
    callbacks,
    latents,
    optimizers,
)
from keras_mdm.data import image_text_dataset


def test_nothing_is_lost():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3)).astype("uint8")
    codec = latents.SpaceToDepth(4)
    assert isinstance(codec, latents.Codec)
    codes = codec.encode(images)
    assert codes.shape == (3, 4, 6, 48) and codec.channels == 48
    np.testing.assert_array_equal(latents.to_pictures(codec, codes), images)
    # A code holds the block of pixels that it stands for.
    block = images[1, 4:8, 8:12].astype("float32") / 127.5 - 1.0
    np.testing.assert_allclose(codes[1, 1, 2], block.reshape(-1), atol=1e-6)
    whole = latents.SpaceToDepth(1)
    np.testing.assert_array_equal(latents.to_pictures(whole, whole.encode(images)), images)


@pytest.mark.slow
def test_a_pyramid_of_codes_is_trained_and_sampled():
    codec = latents.SpaceToDepth(2)
    inner = LevelSpec(4, channels=(32,), blocks=(1,), attention=(0,), use_mid_block=False)
    outer = LevelSpec(8, channels=(32, 32), blocks=(1, 1))
    unet = build_nested_unet([inner, outer], in_channels=12, out_channels=12, time_width=64)
    model = MatryoshkaDiffusion(unet, threshold="none", ema_decay=0.9, shift_power=1.0)
    model.compile(optimizer=optimizers.Adam(3e-3))
    # Stripes of one pixel: every code is the same, and no picture of half the size shows them.
    picture = np.full((16, 16, 3), 40, "uint8")
    picture[:, ::2] = (250, 120, 0)
    codes = codec.encode(picture[None])

    batch = {"image": tf.repeat(codes, 16, axis=0)}
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(), steps_per_epoch=160, verbose=0)
    found = model.generate(num_images=2, steps=20, output="float32", progress=False)
    assert found["8"].shape == (2, 8, 8, 12)
    drawn = latents.to_pictures(codec, found["8"])
    assert drawn.shape == (2, 16, 16, 3)
    # One picture is all there is to learn.
    assert np.mean(np.abs(drawn.astype(float) - picture)) < 30.0
    # What can be done with pictures can be done with codes, outside of [-1, 1] too.
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    wide = 3.0 * np.asarray(codes)
    kept = model.generate(
        num_images=2, steps=2, init_image=wide, mask=mask, output="float32", progress=False
    )
    np.testing.assert_allclose(kept["8"][:, 4:], np.repeat(wide[:, 4:], 2, axis=0), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 10, 8, 3), (2, 8, 8, 4), (8, 8, 3)])
def test_pictures_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=THREE_PARTS):
        latents.SpaceToDepth(4).encode(np.zeros(shape, "float32"))


class Halves:
    """A codec of the user's, without weights: every second pixel, doubled."""

    factor, channels = 2, 3

    def encode(self, images):
        return 2.0 * tf.convert_to_tensor(images)[:, ::2, ::2]

    def decode(self, codes):
        return tf.repeat(tf.repeat(codes / 2.0, 2, axis=1), 2, axis=2)


def test_batches_of_codes():
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 8, 3)).astype("uint8")
    codec = Halves()
    assert isinstance(codec, latents.Codec)
    batches = image_text_dataset(images, batch_size=4, seed=0)
    made = latents.to_codes(batches, codec)
    assert made.element_spec["image"] == tf.TensorSpec((4, 8, 4, 3), tf.float32)
    for before, after in zip(batches.take(3), made.take(3), strict=True):
        expected = 2.0 * (before["image"].numpy()[:, ::2, ::2] / 127.5 - 1.0)
        np.testing.assert_allclose(after["image"], expected, atol=1e-6)
        np.testing.assert_array_equal(after["sample"], before["sample"])
    # Of clips, frame by frame.
    codes = np.zeros((2, 5, 4, 4, 3), "float32")
    assert latents.to_pictures(codec, codes).shape == (2, 5, 8, 8, 3)


def of_codes(channels):
    unet = tiny_unet([PLAIN_INNER], in_channels=channels, out_channels=channels)
    model = MatryoshkaDiffusion(unet, threshold="none")
    model.compile(optimizers.Adam(1e-3))
    return model


BATCH = {"image": np.zeros((2, 16, 16, 3), "uint8")}


@pytest.mark.parametrize(
    ("batch", "model", "said"),
    [
        (BATCH, lambda: of_codes(4), "as many channels as the codes of the model"),
        ({"image": np.zeros((2, 15, 16, 3), "uint8")}, None, "multiples of 2"),
        ({"image": np.zeros((2, 16, 16, 4), "uint8")}, None, "multiples of 2"),
        ({"picture": BATCH["image"]}, None, "hold pictures under `image`"),
    ],
)
def test_what_cannot_be_encoded_is_refused_before_a_batch_is_read(batch, model, said):
    dataset = tf.data.Dataset.from_tensors(batch)
    with pytest.raises(ValueError, match=said + ".*" + THREE_PARTS):
        latents.to_codes(dataset, Halves(), model=model and model())


def test_a_codec_of_other_channels_is_refused_before_the_first_step(tmp_path):
    model = of_codes(12)
    data = tf.data.Dataset.from_tensors(BATCH).repeat()
    draw = lambda: pytest.fail("drawn")  # noqa: E731
    grid = callbacks.SampleGrid(draw, None, tmp_path, 1, codec=Halves())
    codes = latents.to_codes(data, latents.SpaceToDepth(2), model=model)
    with pytest.raises(ValueError, match="model_channels=12, codec_channels=3"):
        model.fit(codes, steps_per_epoch=1, verbose=0, callbacks=[grid])
    assert int(model.optimizer.iterations) == 0
    # Batches of another codec: the network does not take them.
    with pytest.raises(ValueError, match=THREE_PARTS):
        model.fit(latents.to_codes(data, Halves()), steps_per_epoch=1, verbose=0)
    assert int(model.optimizer.iterations) == 0
    with pytest.raises(ValueError, match="must have `factor`"):
        callbacks.SampleGrid(draw, None, tmp_path, 1, codec=object())

"""Networks that see a picture beside the noisy one: batches, dropout, sampling, export."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_models import CLIP, PLAIN_INNER, THREE_PARTS, outer, tiny_unet

from keras_mdm import (
    MatryoshkaDiffusion,
    build_nested_unet,
    export_saved_model,
    optimizers,
)
from keras_mdm.cli import main as cli
from keras_mdm.conditioning.low_res import as_low_res, network_inputs
from keras_mdm.data import image_text_dataset
from keras_mdm.diffusion import downsample, upsample
from keras_mdm.diffusion.pyramid import LevelShape

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (4, 8, 8, 3)).astype("uint8")


def upsampler(levels=(PLAIN_INNER, outer(16)), **options):
    names = ("num_classes", "text_width")
    network = {name: options.pop(name) for name in names if name in options}
    unet = tiny_unet(levels, in_channels=6, **network)
    model = MatryoshkaDiffusion(unet, **options)
    model.compile(optimizer=optimizers.Adam(1e-2))
    return model


def drawn(model, low_res, **options):
    options = {"steps": 3, "output": "float32", "threshold": "none", "progress": False, **options}
    return model.generate(low_res=low_res, **options)


def test_every_level_sees_the_picture():
    model = upsampler()
    z = {
        name: tf.random.stateless_normal((rows, size, size, 3), (1, size))
        for name, rows, size in (("8", 4, 8), ("16", 2, 16))
    }
    seen = as_low_res(SMALL, model.unet.spec)
    unit = SMALL.astype("float32") / 127.5 - 1.0
    expected = upsample(unit, LevelShape(None, 8), LevelShape(None, 16), "bilinear")
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    inputs = network_inputs(model.process, z, {"low_res": seen})
    np.testing.assert_array_equal(inputs["z_16"], np.concatenate([z["16"], seen[:2]], axis=-1))
    below = downsample(seen, LevelShape(None, 16), LevelShape(None, 8))
    np.testing.assert_allclose(inputs["z_8"][..., 3:], below, atol=1e-6)
    # Without the levels above a level sees the same.
    alone = network_inputs(model.process.up_to("8"), {"8": z["8"]}, {"low_res": seen})
    np.testing.assert_allclose(alone["z_8"], inputs["z_8"], atol=1e-6)


def test_fit_learns_from_the_picture_and_generate_shows_it():
    """Pictures of one colour, which only the small picture tells."""
    model = upsampler([PLAIN_INNER], ema_decay=0.9)
    model.compile(optimizer=optimizers.Adam(3e-3))
    colours = RNG.integers(0, 256, (64, 1, 1, 3)).astype("uint8")
    data = image_text_dataset(
        colours.repeat(8, 1).repeat(8, 2),
        low_res=colours.repeat(2, 1).repeat(2, 2),
        batch_size=16,
        seed=0,
    )
    model.fit(data, steps_per_epoch=250, verbose=0)
    wanted = np.array([[220, 40, 40], [60, 200, 90], [40, 40, 220]], "uint8").reshape(3, 1, 1, 3)
    found = model.generate(low_res=wanted, steps=20, progress=False)["8"]
    assert np.abs(found.mean((1, 2)) - wanted[:, 0, 0]).mean() < 35
    swapped = model.generate(low_res=wanted[::-1], steps=20, progress=False)["8"]
    assert np.abs(swapped.mean((1, 2)) - wanted[:, 0, 0]).mean() > 60


@pytest.mark.slow
def test_mixed_batches_validation_and_the_file(tmp_path):
    model = upsampler(num_classes=3, cond_dropout={"label": 0.2, "low_res": 0.5})
    label = np.arange(4, dtype="int32") % 3
    high = {"image": RNG.integers(0, 256, (4, 16, 16, 3)).astype("uint8"), "label": label}
    low = {"image": high["image"][:, ::2, ::2], "label": label, "low_res": SMALL}
    batch = {"16": {**high, "low_res": SMALL}, "8": low}
    data = tf.data.Dataset.from_tensors(batch)
    before = model.evaluate(data, verbose=0, return_dict=True)
    model.fit(data.repeat(3), verbose=0)
    assert model.evaluate(data, verbose=0, return_dict=True) != before
    # One picture for each group: another one gives another loss.
    other = {**batch, "8": {**low, "low_res": 255 - SMALL}}
    losses = [
        model.evaluate(tf.data.Dataset.from_tensors(each), verbose=0, return_dict=True)
        for each in (batch, other)
    ]
    assert losses[0]["loss_16"] == pytest.approx(losses[1]["loss_16"], rel=1e-5)
    assert losses[0]["loss_8"] != pytest.approx(losses[1]["loss_8"], rel=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for level, pictures in drawn(model, SMALL, labels=label).items():
        np.testing.assert_allclose(drawn(again, SMALL, labels=label)[level], pictures, atol=1e-5)


@pytest.mark.slow
def test_a_dropped_picture_is_grey():
    model = upsampler(num_classes=3, cond_dropout={"low_res": 1.0})
    images = RNG.integers(0, 256, (4, 16, 16, 3)).astype("uint8")
    losses = []
    for low_res in (SMALL, np.full_like(SMALL, 0), np.zeros(SMALL.shape, "float32")):
        model = upsampler(num_classes=3, cond_dropout={"low_res": 1.0})
        batch = {"image": images, "label": np.zeros(4, "int32"), "low_res": low_res}
        losses.append(model.train_on_batch(batch, return_dict=True)["loss"])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


@pytest.mark.slow
def test_guidance_and_autoguidance_keep_the_picture():
    model = upsampler(num_classes=3)
    options = {"labels": [0, 1, 2, 0], "seed": 1}
    one = drawn(model, SMALL, guidance_scale=3.0, **options)["16"]
    np.testing.assert_allclose(
        drawn(model, SMALL, guidance_scale=3.0, split_guidance=True, **options)["16"],
        one,
        atol=2e-4,
    )
    negative = drawn(
        model, SMALL, guidance_scale=3.0, negative_prompts={"label": [-1] * 4}, **options
    )["16"]
    np.testing.assert_allclose(negative, one, atol=2e-4)
    same = drawn(model, SMALL, guidance_scale=2.0, autoguidance=model, **options)["16"]
    np.testing.assert_allclose(
        same, drawn(model, SMALL, guidance_scale=1.0, **options)["16"], atol=2e-3
    )
    # Copies of a prompt see its picture.
    copies = drawn(model, SMALL[:1], labels=[1], num_images_per_prompt=2, guidance_scale=1.0)["16"]
    twice = drawn(model, SMALL[[0, 0]], labels=[1, 1], guidance_scale=1.0)["16"]
    np.testing.assert_allclose(copies, twice, atol=1e-5)
    low = drawn(model, SMALL, stop_at="8", guidance_scale=1.0, **options)
    assert set(low) == {"8"}


@pytest.mark.slow
def test_what_is_exported_draws_the_same(tmp_path):
    model = upsampler()
    for low_res in (SMALL, RNG.integers(0, 256, (2, 16, 16, 3)).astype("uint8")):
        expected = model.generate(low_res=low_res, steps=3, seed=5, progress=False)
        if not (tmp_path / "served").exists():
            export_saved_model(model, tmp_path / "served")
        served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["scalars"]
        found = served(
            low_res=tf.constant(low_res),
            steps=tf.constant(3),
            guidance_scale=tf.constant(1.0),
            seed=tf.constant(5, tf.int64),
        )
        for level, pictures in expected.items():
            assert np.abs(found[level].numpy().astype(int) - pictures).max() <= 1


@pytest.mark.slow
def test_clips_see_a_clip_or_one_picture():
    model = upsampler([PLAIN_INNER, CLIP])
    clip = SMALL[:2, None].repeat(2, axis=1)
    clip[:, 1] = 255 - clip[:, 1]
    seen = as_low_res(clip, model.unet.spec).numpy()
    assert seen.shape == (2, 4, 8, 8, 3)
    np.testing.assert_array_equal(seen[:, 1], seen[:, 0])
    np.testing.assert_allclose(seen[:, 2], -seen[:, 0], atol=1e-6)
    still = as_low_res(SMALL[:2], model.unet.spec)
    np.testing.assert_allclose(still[:, 3], seen[:, 0], atol=1e-6)
    video = RNG.integers(0, 256, (2, 4, 8, 8, 3)).astype("uint8")
    model.train_on_batch({"video": video, "low_res": clip})
    assert drawn(model, clip)["4x8"].shape == (2, 4, 8, 8, 3)


def test_the_command_line(tmp_path):
    model = upsampler()
    model.save(tmp_path / "model.keras")
    Image.fromarray(SMALL[0]).save(tmp_path / "small.png")
    words = ["sample", str(tmp_path / "model.keras"), "--steps", "2", "--out", str(tmp_path)]
    assert cli.main([*words, "--low-res", str(tmp_path / "small.png")]) == 0
    expected = model.generate(low_res=SMALL[:1], steps=2, progress=False)["16"][0]
    found = np.asarray(Image.open(tmp_path / "000-sample_16.png"))
    np.testing.assert_array_equal(found, expected)
    assert cli.main(words) == 2


@pytest.mark.parametrize(
    "low_res",
    [
        None,
        SMALL[..., :2],
        SMALL[:, :4],
        SMALL.astype("int32"),
        SMALL.astype("float32"),
        SMALL[:, None],
        SMALL[0],
    ],
    ids=["none", "channels", "no square", "integers", "range", "clip", "single"],
)
def test_what_does_not_fit_is_refused(low_res):
    model = upsampler()
    with pytest.raises(ValueError, match=THREE_PARTS):
        model.generate(low_res=low_res, num_images=4, steps=1, progress=False)
    batch = {"image": np.zeros((4, 16, 16, 3), "uint8")}
    with pytest.raises(ValueError, match=r"Received: .*To fix it: "):
        model.fit(
            tf.data.Dataset.from_tensors(
                batch if low_res is None else {**batch, "low_res": low_res[:4]}
            ),
            verbose=0,
        )


def test_a_dataset_need_not_say_the_shape_of_the_picture():
    model = upsampler([PLAIN_INNER])
    batch = {"image": np.zeros((4, 8, 8, 3), "uint8"), "low_res": SMALL}
    told = model.evaluate(batch, batch_size=2, verbose=0)

    def untold(channels, shape):
        def generate():
            for rows in (slice(0, 2), slice(2, 4)):
                yield {"image": batch["image"][rows], "low_res": SMALL[rows, ..., :channels]}

        specs = {
            "image": tf.TensorSpec((2, 8, 8, 3), "uint8"),
            "low_res": tf.TensorSpec(shape, "uint8"),
        }
        return tf.data.Dataset.from_generator(generate, output_signature=specs)

    for shape in (None, (2, None, None, None)):
        with pytest.warns(UserWarning, match="ran out of data"):  # nor its number of batches
            assert model.evaluate(untold(3, shape), verbose=0) == told
        with pytest.raises(ValueError, match=r"low_res.+with 3 channels"):
            model.evaluate(untold(1, shape), verbose=0)
    with pytest.raises(ValueError, match=r"low_res.+with 3 channels"):
        model.evaluate({**batch, "low_res": SMALL[..., :1]}, verbose=0)


def test_networks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=THREE_PARTS):
        MatryoshkaDiffusion(build_nested_unet([PLAIN_INNER], in_channels=1, out_channels=3))
    plain = MatryoshkaDiffusion(build_nested_unet([PLAIN_INNER]))
    with pytest.raises(ValueError, match=THREE_PARTS):
        plain.generate(low_res=SMALL, progress=False)

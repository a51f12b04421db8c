"""Clips by conditioning: what is given comes back, what follows from it differs, lengths change."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import CLIP, PLAIN_INNER, TEXT_WIDTH, THREE_PARTS, FakeEncoder, tiny_unet

from keras_mdm import LevelSpec, MatryoshkaDiffusion, export_saved_model, video
from keras_mdm.models import with_frames

PROMPTS = ["a b", "c"]
QUICK = {"steps": 3, "seed": 5, "progress": False, "guidance_scale": 2.0}
ATTENTIVE = LevelSpec(
    8, 4, channels=(32, 32), blocks=(1, 1), temporal_attention=(1, 0), groups=4, resolutions=(4, 2)
)


@pytest.fixture(scope="module")
def model():
    unet = tiny_unet([PLAIN_INNER, CLIP], text_width=TEXT_WIDTH)
    return MatryoshkaDiffusion(unet, text_encoder=FakeEncoder(), seed=3)


@pytest.fixture(scope="module")
def clips(model):
    return model.generate(PROMPTS, **QUICK)["4x8"]


def test_animation_begins_with_the_picture(model):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("uint8")
    made = video.animate(model, pictures, PROMPTS, **QUICK)
    np.testing.assert_array_equal(made["4x8"][:, 0], pictures)
    np.testing.assert_array_equal(made["8"], pictures)
    others = video.animate(model, 255 - pictures, PROMPTS, **QUICK)
    assert np.any(made["4x8"][:, 1:] != others["4x8"][:, 1:])  # they follow from the picture
    one = video.animate(model, pictures[0], PROMPTS, **QUICK)["4x8"]
    np.testing.assert_array_equal(one[:, 0], [pictures[0]] * 2)


@pytest.mark.parametrize("overlap", [1, 3])
def test_windows_go_on_from_each_other(model, clips, overlap):
    made = video.extend(model, PROMPTS, frames=9, overlap=overlap, **QUICK)
    assert made.shape == (2, 9, 8, 8, 3)
    np.testing.assert_array_equal(made[:, :4], clips)  # the first window is an ordinary clip
    # The second one is what the sampler makes of the frames they share, under another seed.
    given = made[:, 4 - overlap : 4]
    again = video.extend(model, PROMPTS, frames=9, overlap=overlap, clips=made[:, :4], **QUICK)
    np.testing.assert_array_equal(again, made)
    assert np.any(made[:, 4] != given[:, -1])
    longer = video.extend(model, PROMPTS, frames=10, overlap=overlap, clips=clips, **QUICK)
    np.testing.assert_array_equal(longer[:, :9], made)


def test_windows_do_not_repeat_the_noise(model):
    grey = np.full((1, 1, 8, 8, 3), 128, "uint8")
    made = video.extend(model, ["a"], frames=7, overlap=1, clips=grey, **QUICK)
    assert np.any(made[:, 1:4] != made[:, 4:7])


def test_frames_between_given_ones(model):
    given = np.random.default_rng(1).integers(0, 256, (2, 2, 8, 8, 3)).astype("uint8")
    made = video.interpolate(model, given, PROMPTS, **QUICK)
    np.testing.assert_array_equal(made["4x8"][:, ::2], given)
    np.testing.assert_array_equal(made["8"], given[:, 0])
    held = np.repeat(given, 2, axis=1)
    assert np.any(made["4x8"][:, 1::2] != held[:, 1::2])


def test_longer_clips_of_the_same_parts_fall_apart_where_nothing_crosses():
    # Without attention over time, and with convolutions over time that stay inside a stretch of
    # four frames, a network for eight frames is the one for four, twice.
    unet = tiny_unet([PLAIN_INNER, CLIP], text_width=TEXT_WIDTH)
    for variable in unet.trainable_variables:
        if "sample" in variable.path and variable.path.endswith("kernel"):
            kernel = np.asarray(variable).copy()
            kernel[0] = 0.0
            if "upsample" in variable.path:
                kernel[2] = 0.0
            variable.assign(kernel)
    longer = with_frames(unet, 8)
    assert longer.levels == ("2x8", "8x8")
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(1, 8, 8, 8, 3)).astype("float32")
    shared = {
        "time": np.array([300.0], "float32"),
        "text": rng.normal(size=(1, 3, TEXT_WIDTH)).astype("float32"),
    }
    found = longer({"z_8x8": whole, "z_2x8": whole[:, ::4], **shared})
    for half in range(2):
        part = whole[:, 4 * half : 4 * half + 4]
        single = unet({"z_4x8": part, "z_8": part[:, 0], **shared})
        clip = np.array(found["8x8"])[:, 4 * half : 4 * half + 4]
        np.testing.assert_allclose(clip, single["4x8"], atol=2e-5)
        np.testing.assert_allclose(np.array(found["2x8"])[:, half], single["8"], atol=2e-5)


def test_longer_clips_attend_over_all_their_frames():
    inner = LevelSpec(
        8, 2, channels=(16,), blocks=(1,), attention=(0,), groups=8, use_mid_block=False
    )
    longer = with_frames(tiny_unet([inner, ATTENTIVE], text_width=TEXT_WIDTH), 12)
    rng = np.random.default_rng(0)
    z = {"z_12x8": rng.normal(size=(1, 12, 8, 8, 3)), "z_6x8": rng.normal(size=(1, 6, 8, 8, 3))}
    rest = {"time": np.array([300.0]), "text": rng.normal(size=(1, 3, TEXT_WIDTH))}
    before = np.array(longer({**z, **rest})["12x8"])
    z["z_12x8"] = z["z_12x8"].copy()
    z["z_12x8"][:, 0] += 1.0
    after = np.array(longer({**z, **rest})["12x8"])
    assert np.abs(after - before)[:, 11].max() > 1e-4  # from the first frame to the last


def test_a_model_with_other_frames_has_its_averages(model):
    for average in model.ema.averages:
        average.assign(average.value * 0.9)
    longer = model.with_frames(8)
    assert longer.unet.levels == ("2x8", "8x8") and longer.process.frame == model.process.frame
    mine, other = (
        {
            v.path.split("/", 1)[-1]: a.value
            for v, a in zip(m.ema.variables, m.ema.averages, strict=True)
            if "level_" + m.unet.levels[-1] in v.path
        }
        for m in (model, longer)
    )
    assert len(mine) == len(other) > 20
    for path, average in mine.items():
        np.testing.assert_array_equal(average, other[path])
    assert longer.generate(PROMPTS, **QUICK)["8x8"].shape == (2, 8, 8, 8, 3)
    same = model.with_frames(4).generate(PROMPTS, **QUICK)
    np.testing.assert_array_equal(same["4x8"], model.generate(PROMPTS, **QUICK)["4x8"])


def test_the_export_serves_clips(model, tmp_path):
    served = tf.saved_model.load(str(export_saved_model(model, tmp_path / "export")))
    text, mask = FakeEncoder().encode(PROMPTS)
    found = served.signatures["scalars"](
        text=tf.constant(text),
        text_mask=tf.constant(mask),
        steps=tf.constant(3),
        guidance_scale=tf.constant(2.0),
        seed=tf.constant(5, tf.int64),
    )
    expected = model.generate(PROMPTS, **QUICK)
    assert found["4x8"].shape == (2, 4, 8, 8, 3) and found["4x8"].dtype == tf.uint8
    for level, clips in expected.items():
        assert np.abs(found[level].numpy().astype(int) - clips).max() <= 1  # one rounding apart


def image_model():
    return MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], text_width=TEXT_WIDTH), cond_dropout=0.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: video.animate(image_model(), np.zeros((8, 8, 3), "uint8"), ["a"]),
        lambda model: video.animate(None, np.zeros((8, 8, 3), "uint8"), ["a"]),
        lambda model: video.animate(model, np.zeros((8, 9, 3), "uint8"), ["a"]),
        lambda model: video.animate(model, np.zeros((8, 8, 3), "uint8"), ["a"], strength=0.5),
        lambda model: video.extend(model, ["a"], frames=9, overlap=4),
        lambda model: video.extend(model, ["a"], frames=0),
        lambda model: video.extend(model, ["a"], frames=9, clips=np.zeros((1, 1, 8, 8, 3))),
        lambda model: video.interpolate(model, np.zeros((1, 3, 8, 8, 3), "uint8"), ["a"]),
        lambda model: video.interpolate(model, np.zeros((1, 4, 8, 8, 3), "uint8"), ["a"]),
        lambda model: model.with_frames(6),
        lambda model: image_model().with_frames(6),
    ],
)
def test_bad_input(model, call):
    with pytest.raises(ValueError, match=THREE_PARTS):
        call(model)

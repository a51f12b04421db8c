"""NaN, numbers out of range and shapes that are not known: said where they come in."""

import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from sampling.drawing import assert_equal
from tiny_models import (
    INNER,
    PLAIN_INNER,
    TEXT_WIDTH,
    THREE_PARTS,
    FakeEncoder,
    tiny_unet,
)

import keras_mdm as mdm
from keras_mdm import MatryoshkaDiffusion
from keras_mdm.export import export_saved_model
from keras_mdm.optimizers import SGD


def make_model():
    unet = tiny_unet([INNER], text_width=TEXT_WIDTH, num_classes=3)
    # Labels are left out below.
    dropped = {"text": 0.1, "label": 0.1}
    return MatryoshkaDiffusion(unet, text_encoder=FakeEncoder(), cond_dropout=dropped)


@pytest.fixture(scope="module")
def model():
    return make_model()


STATES = {"text": np.ones((2, 3, TEXT_WIDTH), "float32"), "text_mask": np.ones((2, 3), "float32")}


def with_nan(value, place=(0,), what=np.nan):
    value = np.array(value, "float32")
    value[place] = what
    return value


NOISE = np.ones((2, 8, 8, 3), "float32")
BAD = {
    "text": {"prompts": {**STATES, "text": with_nan(STATES["text"], (1, 2, 3))}},
    "infinite": {"prompts": {**STATES, "text": with_nan(STATES["text"], what=np.inf)}},
    "mask": {"prompts": {**STATES, "text_mask": with_nan(STATES["text_mask"])}},
    "negative": {"negative_prompts": {**STATES, "text": with_nan(STATES["text"])}},
    "noise": {"noise": {"8": with_nan(NOISE)}},
    "init": {"init_image": with_nan(np.zeros((8, 8, 3)))},
    "inpainting": {"init_image": np.zeros((8, 8, 3)), "mask": with_nan(np.zeros((8, 8)))},
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_finite_is_one_error_before_any_work(model, name):
    with pytest.raises(ValueError, match=r"must hold finite numbers" + THREE_PARTS):
        model.generate(**{"prompts": STATES, "progress": False, **BAD[name]})
    assert not len(model._graphs)  # nothing was traced


def test_a_null_condition_is_finite():
    unet = tiny_unet([INNER], text_width=TEXT_WIDTH)
    with pytest.raises(ValueError, match="`null_text` must hold finite numbers" + THREE_PARTS):
        MatryoshkaDiffusion(unet, null_text=with_nan(np.ones((2, TEXT_WIDTH))))


@pytest.mark.parametrize("seed", [np.array(5), tf.constant(5), np.int64(5)])
def test_a_seed_may_be_an_array_of_one_number(seed):
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    given = {"num_images": 2, "steps": 1, "progress": False}
    assert_equal(model.generate(seed=seed, **given), model.generate(seed=5, **given))
    many = model.generate(seed=tf.constant([5, 7]), **given)
    assert_equal(many, model.generate(seed=[5, 7], **given))


@pytest.mark.parametrize("seed", [np.array(5.0), np.array(-1), [[1, 2]], np.ones((2, 1), int), "5"])
def test_other_seeds_are_one_error(model, seed):
    with pytest.raises(ValueError, match=r"`seed` must be .+" + THREE_PARTS):
        model.generate(STATES, seed=seed)


def spoil(variables):
    variables[3].assign(with_nan(variables[3]))


def test_weights_that_are_not_finite_draw_nothing_and_warn_when_they_are_loaded(tmp_path):
    model = make_model()
    refused = r"the weights 'ema' must be finite numbers to draw with" + THREE_PARTS
    spoil(model.ema.averages)
    with pytest.raises(ValueError, match=refused):
        model.generate(STATES)
    with pytest.raises(ValueError, match=refused):
        model.generate(STATES, weights="raw", autoguidance="ema")
    with pytest.raises(ValueError, match=refused):
        export_saved_model(model, tmp_path / "export")
    assert not (tmp_path / "export").exists()
    model.generate(STATES, weights="raw", steps=1, progress=False)  # these are whole
    model.save(tmp_path / "averages.keras")
    with pytest.warns(UserWarning, match="loaded weights are not finite"):
        keras.saving.load_model(tmp_path / "averages.keras")
    spoil(model.unet.trainable_variables)
    with pytest.raises(ValueError, match=refused.replace("ema", "raw")):
        model.generate(STATES, weights="raw")
    model.save(tmp_path / "raw.keras")
    averages = pytest.warns(UserWarning, match="not finite: matryoshka_diffusion/ema")
    with averages, pytest.warns(UserWarning, match="not finite: level_8.+dense1/bias"):
        mdm.load(tmp_path / "raw.keras")


def test_what_was_not_measured_yet_is_no_warning(tmp_path):
    MatryoshkaDiffusion(tiny_unet(), residual=True).save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = mdm.load(tmp_path / "model.keras")
    assert all(np.isnan(np.asarray(value)) for value in loaded.residual_std.values())


# The exported signature

SERVED = """
import sys
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["scalars"]
good = {
    "text": np.ones((2, 3, 6), "float32"), "text_mask": np.ones((2, 3), "float32"),
    "label": np.array([0, -1], "int32"), "steps": np.int32(2),
    "guidance_scale": np.float32(2.0), "seed": np.int64(0),
}
nan = np.full((2, 3, 6), np.nan, "float32")
for name, value in [
    ("steps", np.int32(-1)), ("steps", np.int32(0)), ("steps", np.int32(1001)),
    ("steps", np.int32(5000)), ("guidance_scale", np.float32("nan")),
    ("guidance_scale", np.float32("inf")), ("guidance_scale", np.float32(-1)),
    ("seed", np.int64(-1)), ("label", np.array([0, 3], "int32")),
    ("label", np.array([0], "int32")), ("text", nan), ("text_mask", nan[..., 0]),
    ("text_mask", np.ones((2, 2), "float32")), ("text", np.ones((0, 3, 6), "float32")),
]:
    try:
        served(**{key: tf.constant(item) for key, item in {**good, name: value}.items()})
    except tf.errors.InvalidArgumentError as error:
        assert "must" in str(error) and "Received" in str(error), error
        assert "To fix it" in str(error) and name in str(error), error
    else:
        raise SystemExit(f"{name}={value} was served")
found = served(**{key: tf.constant(item) for key, item in good.items()})
assert found["8"].shape == (2, 8, 8, 3)
assert "keras_mdm" not in sys.modules
print("refused")
"""


def test_an_export_refuses_what_generate_does_with_tensorflow_alone(model, tmp_path):
    path = export_saved_model(model, tmp_path / "export")
    done = subprocess.run(
        [sys.executable, "-c", SERVED, str(path)], capture_output=True, text=True, timeout=200
    )
    assert done.stdout.strip() == "refused", done.stdout + done.stderr[-2000:]


# Shapes that a dataset does not say

PNG = {n: tf.io.encode_png(np.zeros((8, 8, n), "uint8")).numpy() for n in (1, 3, 4)}
DECODE = {
    "rank": tf.io.decode_image,
    "all": lambda png: tf.io.decode_image(png, expand_animations=False),
    "channels": lambda png: tf.ensure_shape(tf.io.decode_png(png), (8, 8, None)),
}


def pictures(name, channels):
    dataset = tf.data.Dataset.from_tensors(PNG[channels]).repeat(4)
    return dataset.map(lambda png: {"image": DECODE[name](png)}).batch(2)


@pytest.fixture(scope="module")
def compiled():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    model.compile(SGD(0.1))
    return model


@pytest.mark.parametrize("name", DECODE)
def test_pictures_of_unknown_shape_are_trained_on_as_others(compiled, name):
    losses = compiled.evaluate(pictures(name, 3), verbose=0, return_dict=True)
    known = tf.data.Dataset.from_tensor_slices({"image": np.zeros((4, 8, 8, 3), "uint8")}).batch(2)
    assert losses == compiled.evaluate(known, verbose=0, return_dict=True)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_what_the_error_is_about(compiled, channels):
    for name in DECODE:
        with pytest.raises(ValueError, match=r"\(B, 8, 8, 3\).+with 3 channels") as caught:
            compiled.fit(pictures(name, channels), verbose=0)
        assert "Received: shape=" in str(caught.value)
    arrays = np.zeros((2, 8, 8, channels), "uint8")
    with pytest.raises(ValueError, match=f"3 channels.+in_channels={channels}"):
        compiled.fit({"image": arrays}, verbose=0)
    with pytest.raises(ValueError, match="resize the data to the level 8"):
        compiled.fit({"image": np.zeros((2, 9, 9, 3), "uint8")}, verbose=0)


def test_pictures_of_unknown_shape_on_two_replicas(two_replicas):
    with two_replicas.scope():
        model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
        model.compile(SGD(0.1))
    with pytest.raises(ValueError, match=r"\(B, 8, 8, 3\).+with 3 channels"):
        model.fit(pictures("rank", 4), verbose=0)
    assert np.isfinite(model.fit(pictures("rank", 3), verbose=0).history["loss"][0])

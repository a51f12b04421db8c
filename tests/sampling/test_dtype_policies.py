"""Which dtype policies a network may have, and that bfloat16 weights draw what float32 ones do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import INNER, TEXT_WIDTH, THREE_PARTS, FakeEncoder, outer, tiny_unet

import keras_mdm as mdm
from keras_mdm import MatryoshkaDiffusion
from keras_mdm.export import export_saved_model
from sampling.drawing import assert_equal

pytestmark = pytest.mark.usefixtures("biases_are_fused")
REFUSED = ["float16", "float64", "int8", "int8_from_mixed_bfloat16", "nonsense", 3]
ONE_SENTENCE = "the dtype policy of a network must be one of .+" + THREE_PARTS


@pytest.mark.parametrize(
    "dtype",
    [*REFUSED, keras.dtype_policies.DTypePolicyMap()],
    ids=lambda value: str(value).partition(" at ")[0],
)
def test_other_policies_are_refused_when_the_network_is_built(dtype):
    with pytest.raises(ValueError, match=ONE_SENTENCE):
        tiny_unet([INNER], dtype=dtype)


def test_the_global_policy_is_looked_at_too():
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("float16")
        with pytest.raises(ValueError, match=ONE_SENTENCE):
            tiny_unet([INNER])
        assert tiny_unet([INNER], dtype="float32").policy.name == "float32"
    finally:
        keras.config.set_dtype_policy(before)


def make_model(dtype):
    unet = tiny_unet([INNER, outer(16)], text_width=TEXT_WIDTH, text_blocks=1, dtype=dtype)
    return MatryoshkaDiffusion(unet, text_encoder=FakeEncoder())


@pytest.fixture(scope="module")
def half():
    return make_model("bfloat16")


def draw(model, **options):
    return model.generate(["a b", "c"], **{"steps": 4, "progress": False, **options})


@pytest.mark.parametrize("weights", ["ema", pytest.param("raw", marks=pytest.mark.slow)])
def test_bfloat16_draws_what_float32_does(half, weights):
    full = make_model("float32")
    assert half.start_from(full) == []
    assert half.unet.policy.variable_dtype == "bfloat16"
    given = {"weights": weights, "output": "float32"}
    exact, found = draw(full, **given), draw(half, **given)
    for name, picture in exact.items():
        error = np.abs(found[name] - picture).mean()
        assert 0.0 < error < 0.05 * picture.std()  # 0: nothing was rounded


def test_bfloat16_is_saved_and_exported(half, tmp_path):
    half.save(tmp_path / "half.keras")
    loaded = mdm.load(tmp_path / "half.keras")
    loaded.text_encoder = FakeEncoder()
    assert loaded.unet.policy.name == "bfloat16"
    drawn = draw(half)
    assert_equal(drawn, draw(loaded))
    path = export_saved_model(loaded, tmp_path / "export")
    served = tf.saved_model.load(str(path)).signatures["scalars"]
    text, mask = FakeEncoder().encode(["a b", "c"])
    found = served(
        text=tf.constant(text),
        text_mask=tf.constant(mask),
        steps=tf.constant(4),
        guidance_scale=tf.constant(4.0),
        seed=tf.constant(0, tf.int64),
    )
    assert_equal(drawn, {name: value.numpy() for name, value in found.items()})


def test_bfloat16_weights_are_not_trained(half):
    with pytest.raises(ValueError, match="weights must be float32 to be trained.+mixed_bfloat16"):
        half.compile("adam")

"""Own blocks, own attention, an own innermost level: wherever a network goes, they go along."""

import functools
import json

import keras
import numpy as np
import pytest

from keras_mdm import LevelSpec, build_nested_unet, cut, describe, grow
from keras_mdm.costs.describe import count_flop
from keras_mdm.interop import to_ml_mdm
from keras_mdm.layers.own_layers import UnknownLayer
from keras_mdm.models import NestedUNetSpec, with_frames
from keras_mdm.models.lora import adapted_layers, merged
from keras_mdm.models.recompute import set_recompute

from . import own
from .networks import TEXT, make_inputs, randomize

pytestmark = pytest.mark.usefixtures("eagerly")

OUTER = LevelSpec(16, channels=(32, 32), blocks=(1, 1), groups=16, resblock=own.OwnBlock)
NETWORKS = {
    "blocks": [own.BLOCKS, OUTER],
    "whole": [own.WHOLE, OUTER],
    "options": [
        LevelSpec(8, channels=(24,), innermost_level=functools.partial(own.OwnLevel, depth=3)),
    ],
}
THREE_PARTS = r"\. Received: .+\. To fix it: .+\.$"
each_network = pytest.mark.parametrize("name", NETWORKS)


def make(name, **options):
    return randomize(build_nested_unet(NETWORKS[name], **{**TEXT, **options}))


def outputs_of(unet, inputs):
    return {k: np.asarray(v, "float32") for k, v in unet(inputs).items()}


def assert_equal(found, expected):
    for key, value in found.items():
        assert value.std() > 0
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


@each_network
def test_a_file_holds_them(name, tmp_path):
    unet = make(name)
    unet.save(tmp_path / "unet.keras")
    loaded = keras.saving.load_model(tmp_path / "unet.keras")
    assert loaded.spec == unet.spec
    inputs = make_inputs(unet)
    assert_equal(outputs_of(loaded, inputs), outputs_of(unet, inputs))


@each_network
def test_the_record_is_plain_values(name):
    spec = build_nested_unet(NETWORKS[name]).spec
    assert NestedUNetSpec.from_config(json.loads(json.dumps(spec.get_config()))) == spec


def test_networks_without_them_are_written_as_before():
    level = build_nested_unet([LevelSpec(8, channels=(32,))]).spec.get_config()["levels"][0]
    assert not {"resblock", "spatial_attention", "innermost_level"} & set(level)


@each_network
def test_paths_of_weights_follow_from_the_place_alone(name):
    first = [v.path for v in build_nested_unet(NETWORKS[name]).weights]
    keras.layers.Dense(1)  # Keras counts on
    assert [v.path for v in build_nested_unet(NETWORKS[name]).weights] == first
    assert len(set(first)) == len(first)


def test_they_start_from_the_seed_of_their_place():
    values = [np.asarray(build_nested_unet(NETWORKS["blocks"], seed=s).weights[8]) for s in (1, 1)]
    np.testing.assert_array_equal(*values)
    kernels = [
        np.asarray(v)
        for v in build_nested_unet([own.BLOCKS]).weights
        if v.path.endswith("out/kernel")
    ]
    assert len({k.tobytes() for k in kernels}) == len(kernels)


def test_growth_and_cut_keep_them():
    inner = randomize(build_nested_unet([own.WHOLE]))
    inputs = make_inputs(inner)
    expected = outputs_of(inner, inputs)
    grown = grow(inner, OUTER)
    more = {**inputs, "z_16": np.ones((2, 16, 16, 3), "float32")}
    assert_equal({"8": outputs_of(grown, more)["8"]}, expected)
    assert_equal(outputs_of(cut(grown, "8"), inputs), expected)


def test_features_of_the_outer_level_reach_an_own_level():
    unet = make("whole")
    inputs = make_inputs(unet)
    changed = {**inputs, "z_16": inputs["z_16"] + 1.0}
    assert np.any(outputs_of(unet, inputs)["8"] != outputs_of(unet, changed)["8"])


def test_other_frames():
    unet = randomize(
        build_nested_unet([own.WHOLE, LevelSpec(8, 2, channels=(32, 24), blocks=(1, 1), groups=8)])
    )
    longer = with_frames(unet, 4)
    assert longer.levels == ("2x8", "4x8")
    assert longer.spec.levels[0].innermost_level == unet.spec.levels[0].innermost_level


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@each_network
def test_other_dtypes(name, dtype):
    full, mixed = make(name), make(name, dtype=dtype)
    inputs = make_inputs(full)
    for key, value in mixed(inputs).items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        expected = np.asarray(full(inputs)[key])
        assert np.abs(np.asarray(value) - expected).max() < 0.1 * np.abs(expected).max()


def test_arithmetic_is_that_of_the_layers_inside():
    unet = build_nested_unet(NETWORKS["options"], time_width=32)
    rows = 8 * 8
    dense = rows * (3 * 24 + 3 * 24 * 24 + 24 * 3) + 32 * 24
    assert count_flop(unet)["level_8"] == 2 * dense
    assert describe(unet)["parameters"] == unet.count_params()


def test_what_is_not_counted_is_said():
    @own.register
    class Spectral(own.OwnLevel):
        def call(self, z, time_embedding, text=None, text_mask=None, features=None):
            real, _ = keras.ops.fft2((z[..., 0], 0.0 * z[..., 0]))
            return super().call(z + real[..., None], time_embedding)

    unet = build_nested_unet([LevelSpec(8, channels=(24,), innermost_level=Spectral)])
    with pytest.warns(UserWarning, match="arithmetic inside FFT2D is not counted"):
        count_flop(unet)


@each_network
def test_recomputed_gradients_are_the_same(name):
    import tensorflow as tf

    unet = make(name)
    inputs = {key: tf.constant(value) for key, value in make_inputs(unet).items()}

    def gradients():
        variables = [v.value for v in unet.trainable_variables]
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(v**2) for v in unet(inputs, training=True).values()])
        return [g for g in tape.gradient(loss, variables) if g is not None]

    kept = gradients()
    assert set_recompute(unet, True) == unet.levels
    for found, expected in zip(gradients(), kept, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_not_recomputed():
    @own.register
    class Dropping(own.OwnLevel):
        def __init__(self, channels, **kwargs):
            super().__init__(channels, **kwargs)
            self.drop = keras.layers.Dropout(0.5)

    unet = build_nested_unet([LevelSpec(8, channels=(24,), innermost_level=Dropping)])
    with pytest.raises(ValueError, match="cannot be recomputed" + THREE_PARTS):
        set_recompute(unet, True)


@each_network
def test_lora_finds_the_kernels_inside(name):
    unet = make(name)
    inputs = make_inputs(unet)
    before = outputs_of(unet, inputs)
    unet.enable_lora(2)
    for key, value in outputs_of(unet, inputs).items():
        np.testing.assert_allclose(value, before[key], rtol=1e-5, atol=1e-5)
    kinds = {type(layer).__name__ for layer in adapted_layers(unet)}
    assert "Dense" in kinds and ("EinsumDense" in kinds) == (name == "blocks")
    # What the factors add is what the merged kernel adds.
    for variable in unet.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape, scale=0.1))
    changed = outputs_of(unet, inputs)
    again = make(name)
    kernels = {layer.path: merged(layer) for layer in adapted_layers(unet)}
    for layer in again._flatten_layers():
        if layer.path in kernels:
            layer._kernel.assign(kernels[layer.path])
    for key, value in outputs_of(again, inputs).items():
        assert np.abs(value - before[key]).max() > 1e-3
        np.testing.assert_allclose(value, changed[key], rtol=1e-3, atol=1e-3)


# What is refused


class Unregistered(own.OwnBlock):
    pass


@own.register
class WrongShape(own.OwnBlock):
    def call(self, x, time_embedding, skip=None):
        return super().call(x, time_embedding, skip)[..., :3]


@own.register
class OnlyOutput(own.OwnLevel):
    def call(self, z, time_embedding, features=None):
        return super().call(z, time_embedding)["output"]


@own.register
class NoName(keras.layers.Layer):
    def __init__(self, channels):
        super().__init__()


@own.register
class PicturesOnly(own.OwnLevel):
    def __init__(self, channels, out_channels=3, seed=0, name=None, dtype=None):
        super().__init__(channels, out_channels, seed=seed, name=name, dtype=dtype)


@own.register
class Rounded(own.OwnLevel):
    def call(self, z, time_embedding, features=None):
        found = super().call(z, time_embedding)
        return {**found, "output": keras.ops.cast(found["output"], "bfloat16")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resblock": Unregistered}, "must be registered with Keras, so that files can name it"),
        ({"resblock": "OwnBlock"}, "`resblock` must be a layer class"),
        ({"resblock": own.OwnBlock(3)}, "`resblock` must be a layer class"),
        ({"resblock": functools.partial(own.OwnBlock, size=3)}, "may only hold the keys"),
        ({"resblock": functools.partial(own.OwnBlock, name="x")}, "may only hold the keys"),
        ({"resblock": functools.partial(own.OwnBlock, factor=open)}, "that a file can hold"),
        ({"resblock": WrongShape}, r"the result of WrongShape must have the shape \(B, 8, 8, 32\)"),
        ({"resblock": NoName}, "constructor of NoName must take dtype, name"),
        ({"innermost_level": OnlyOutput}, "must return a dict of `output` and `features`"),
        ({"innermost_level": Rounded}, "must be float32"),
        ({"frames": 2, "innermost_level": PicturesOnly}, "must take frames"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    frames = options.get("frames")
    rest = {key: value for key, value in options.items() if key != "frames"}
    with pytest.raises(ValueError, match=message + ".*" + THREE_PARTS):
        build_nested_unet([LevelSpec(8, frames, channels=(32,), **rest)])


def test_outer_levels_cannot_be_of_an_own_class_as_a_whole():
    outer = LevelSpec(16, innermost_level=own.OwnLevel)
    with pytest.raises(ValueError, match="only the innermost level" + ".*" + THREE_PARTS):
        build_nested_unet([own.WHOLE, outer])


def test_a_class_that_is_not_known_where_a_file_is_loaded(tmp_path, monkeypatch):
    from keras.src.saving import object_registration

    unet = build_nested_unet([own.WHOLE])
    unet.save(tmp_path / "unet.keras")
    known = dict(object_registration.GLOBAL_CUSTOM_OBJECTS)
    known.pop("own_parts>OwnLevel")
    monkeypatch.setattr(object_registration, "GLOBAL_CUSTOM_OBJECTS", known)
    with pytest.raises(UnknownLayer, match="own_parts>OwnLevel" + ".*" + r"import its module"):
        keras.saving.load_model(tmp_path / "unet.keras")


def test_the_official_layout_has_no_place_for_them():
    with pytest.raises(ValueError, match="no place for layers of your own" + THREE_PARTS):
        to_ml_mdm(build_nested_unet([own.BLOCKS]))

"""What every public layer promises: configuration, files, shapes, precision."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import tree

from keras_mdm import layers

from .reference import randomize

# The arguments all three parts of a level take, none at its default.
PART = {
    "heads": 4,
    "attention_ffn": True,
    "rotary": True,
    "groups": 16,
    "seed": 5,
}
SPACE = {"channels": (32, 64), "blocks": (1, 2), "attention": (0, 1), "strides": (2,)}
TIME = {"channels": (32, 32, 32), "blocks": (1, 1, 1), "attention": (0, 0, 0), "strides": (2, 2)}
IMAGE = {**PART, **SPACE, "temporal_attention": (0, 0)}
FRAMES = {**PART, **SPACE, "temporal_attention": (1, 0), "frames": 2}
CLIP = {**PART, **TIME, "temporal_attention": (1, 1, 0), "axis": "time", "frames": 4}
# What a class of the user's is written down as; here the class is ours.
OWN = {
    "resblock": {"layer": "keras_mdm>ResBlock", "options": {}},
    "spatial_attention": {"layer": "keras_mdm>SpatialAttention", "options": {"groups": 16}},
}
TEXT, MASK, EMBEDDING = (2, 5, 24), (2, 5), (2, 48)
GIVEN = {"text": TEXT, "text_mask": MASK}


def skips(rows, *shapes):
    return [(rows, *shape) for shape in shapes]


IMAGE_SKIPS = skips(2, (8, 8, 32), (8, 8, 32), (4, 4, 32), (4, 4, 64), (4, 4, 64))
CLIP_SKIPS = [(rows, 4, 4, 32) for rows in (8, 8, 4, 4, 2, 2)]

TILED = {**PART, **SPACE, **OWN, "temporal_attention": (0, 0)}
TILED |= {"frames": 4, "tiled_adapter": True}

# name -> (class, arguments, shapes of the call's arguments). Every argument of a class is off its
# default in one of its cases.
CASES = {
    "GroupNorm": (
        layers.GroupNorm,
        {"groups": 8, "epsilon": 1e-3, "activation": "silu"},
        {"x": (2, 4, 4, 32), "scale_shift": (2, 64)},
    ),
    "GroupNorm-clip": (layers.GroupNorm, {}, {"x": (2, 3, 4, 4, 32)}),
    "ResBlock": (
        layers.ResBlock,
        {"channels": 64, "groups": 16, "seed": 5},
        {"x": (2, 4, 4, 32), "time_embedding": EMBEDDING},
    ),
    "SpatialAttention": (
        layers.SpatialAttention,
        {"heads": 4, "feed_forward": True, "groups": 16, "seed": 5},
        {"x": (2, 4, 6, 32), **GIVEN},
    ),
    "TokenAttention": (
        layers.TokenAttention,
        {"heads": 4, "rotary": True, "seed": 5},
        {"x": (2, 5, 32), "token_mask": MASK},
    ),
    "TemporalAttention": (
        layers.TemporalAttention,
        {"frames": 3, "rotary": True, "seed": 5},
        {"x": (6, 4, 6, 32)},
    ),
    "Downsample": (layers.Downsample, {"seed": 5}, {"x": (2, 4, 6, 32)}),
    "Downsample-clip": (
        layers.Downsample,
        {"axis": "time", "frames": 4},
        {"x": (8, 4, 6, 32)},
    ),
    "Downsample-repeat": (layers.Downsample, {"factor": 1}, {"x": (2, 4, 6, 32)}),
    "Upsample": (layers.Upsample, {"seed": 5}, {"x": (2, 4, 6, 32)}),
    "Upsample-clip": (layers.Upsample, {"axis": "time", "frames": 2}, {"x": (4, 4, 6, 32)}),
    "Upsample-repeat": (layers.Upsample, {"factor": 1}, {"x": (2, 4, 6, 32)}),
    "TimeEmbedding": (layers.TimeEmbedding, {"width": 32, "seed": 5}, {"value": (2,)}),
    "MicroConditioning": (
        layers.MicroConditioning,
        {"width": 32, "default": 0.5, "clamp": True, "seed": 5},
        {"value": (2,)},
    ),
    "PooledTextEmbedding": (
        layers.PooledTextEmbedding,
        {"width": 64, "seed": 5},
        {"pooled": (2, 24)},
    ),
    "ClassEmbedding": (
        layers.ClassEmbedding,
        {"num_classes": 4, "width": 32, "seed": 5},
        {"label": (2,)},
    ),
    "LevelEmbedding": (
        layers.LevelEmbedding,
        {"width": 48, "micro_conditions": {"scale": 64.0, "score": 0.5}, "seed": 5},
        {"time": (2,), "condition": EMBEDDING, "micro": {"scale": (2,), "score": (2,)}},
    ),
    "TextConditioning": (
        layers.TextConditioning,
        {
            "embedding_width": 48,
            "projection": 32,
            "blocks": 1,
            "heads": 4,
            "use_mask": False,
            "seed": 5,
        },
        {"text": TEXT, "text_mask": MASK},
    ),
    "TextConditioning-plain": (
        layers.TextConditioning,
        {"embedding_width": 48, "blocks": 0},
        {"text": TEXT, "text_mask": MASK},
    ),
    "ResolutionBlock": (
        layers.ResolutionBlock,
        {
            "channels": 32,
            "blocks": 2,
            "attention": 1,
            "temporal_attention": 1,
            "frames": 3,
            "heads": 4,
            "attention_ffn": True,
            "rotary": True,
            "groups": 16,
            "seed": 5,
        },
        {
            "x": (6, 4, 4, 32),
            "time_embedding": EMBEDDING,
            **GIVEN,
            "skips": [(6, 4, 4, 32), (6, 4, 4, 64)],
        },
    ),
    "ResolutionBlock-own": (
        layers.ResolutionBlock,
        {"channels": 32, "blocks": 1, "attention": 1, "frames": 3, **OWN},
        {"x": (6, 4, 4, 32), "time_embedding": EMBEDDING, **GIVEN},
    ),
    "InnermostLevel": (
        layers.InnermostLevel,
        {**IMAGE, "out_channels": 4, "use_mid_block": False},
        {"z": (2, 8, 8, 3), "time_embedding": EMBEDDING, **GIVEN, "features": (2, 8, 8, 32)},
    ),
    "InnermostLevel-clip": (
        layers.InnermostLevel,
        FRAMES,
        {"z": (2, 2, 8, 8, 3), "time_embedding": EMBEDDING, **GIVEN},
    ),
    "InnermostLevel-time": (
        layers.InnermostLevel,
        {**CLIP, **OWN, "heads": 8},
        {"z": (2, 4, 4, 4, 3), "time_embedding": EMBEDDING},
    ),
    "NestedDown": (
        layers.NestedDown,
        {**IMAGE, "inner_channels": 96, "normalize_input": True},
        {"z": (2, 8, 8, 3), "time_embedding": EMBEDDING, **GIVEN, "features": (2, 8, 8, 32)},
    ),
    "NestedDown-clip": (
        layers.NestedDown,
        {**CLIP, "inner_channels": 64},
        {"z": (2, 4, 4, 4, 3), "time_embedding": EMBEDDING},
    ),
    "NestedDown-frames": (
        layers.NestedDown,
        {**FRAMES, "inner_channels": 64},
        {"z": (2, 2, 8, 8, 3), "time_embedding": EMBEDDING, **GIVEN},
    ),
    "NestedUp": (
        layers.NestedUp,
        {**IMAGE, "inner_channels": 96, "out_channels": 4},
        {
            "skips": IMAGE_SKIPS,
            "inner_features": (2, 4, 4, 96),
            "time_embedding": EMBEDDING,
            **GIVEN,
        },
    ),
    "NestedDown-tiled": (
        layers.NestedDown,
        {**TILED, "inner_channels": 64},
        {"z": (2, 4, 8, 8, 3), "time_embedding": EMBEDDING, **GIVEN},
    ),
    "NestedUp-tiled": (
        layers.NestedUp,
        {**TILED, "inner_channels": 64},
        {
            "skips": [(8, *shape[1:]) for shape in IMAGE_SKIPS],
            "inner_features": (2, 4, 4, 4, 64),
            "time_embedding": EMBEDDING,
            **GIVEN,
        },
    ),
    "InnermostLevel-patches": (
        layers.InnermostLevel,
        {**IMAGE, "patch": 2},
        {"z": (2, 16, 16, 3), "time_embedding": EMBEDDING, **GIVEN},
    ),
    "NestedDown-patches": (
        layers.NestedDown,
        {**IMAGE, "inner_channels": 96, "patch": 2},
        {"z": (2, 16, 16, 3), "time_embedding": EMBEDDING, **GIVEN},
    ),
    "NestedUp-patches": (
        layers.NestedUp,
        {
            **{**IMAGE, "inner_channels": 96, "patch": 2},
            **{"learned_deviation": True, "sees_below": True},
        },
        {
            "skips": IMAGE_SKIPS,
            "inner_features": (2, 4, 4, 96),
            "time_embedding": EMBEDDING,
            **GIVEN,
            "z_below": (2, 4, 4, 3),
            "output_below": (2, 4, 4, 3),
            "z": (2, 16, 16, 3),
        },
    ),
    "NestedUp-clip": (
        layers.NestedUp,
        {**CLIP, "inner_channels": 64},
        {"skips": CLIP_SKIPS, "inner_features": (2, 4, 4, 64), "time_embedding": EMBEDDING},
    ),
}
EMBEDDINGS = (
    "TimeEmbedding",
    "MicroConditioning",
    "ClassEmbedding",
    "LevelEmbedding",
    "PooledTextEmbedding",
)
each_case = pytest.mark.parametrize("name", CASES)


def is_shape(value):
    return isinstance(value, tuple) and all(isinstance(item, int | None) for item in value)


def over_shapes(function, value):
    """Map `function` over the shapes in nested dicts and lists."""
    if is_shape(value):
        return function(value)
    if isinstance(value, dict):
        return {key: over_shapes(function, item) for key, item in value.items()}
    return [over_shapes(function, item) for item in value]


def arguments(name, seed=0):
    """Values for the call of a case."""
    rng = np.random.default_rng(seed)
    values = over_shapes(lambda s: rng.normal(size=s).astype("float32"), CASES[name][2])
    for key in ("text_mask", "token_mask"):
        if key in values:
            values[key] = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "float32")
    if "label" in values:
        values["label"] = np.array([-1, 3], "int32")
    return values


def make(case, **kwargs):
    cls, config, shapes = CASES[case]
    layer = cls(**config, **kwargs)
    layer.build(*shapes.values())
    randomize(layer, scale=0.1)
    return layer


def flat(outputs):
    return [keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in tree.flatten(outputs)]


def parameters(cls):
    """name -> default of all constructor arguments, those of the bases included."""
    found = {}
    for base in cls.__mro__:
        if base is keras.layers.Layer:
            break
        if "__init__" in vars(base):
            for item in inspect.signature(base.__init__).parameters.values():
                if item.kind is not item.VAR_KEYWORD and item.name != "self":
                    found.setdefault(item.name, item.default)
    return found


def test_every_public_layer_and_every_argument_has_a_case():
    assert {cls.__name__ for cls, _, _ in CASES.values()} == set(layers.__all__)
    for name in layers.__all__:
        cls = getattr(layers, name)
        given = [config for other, config, _ in CASES.values() if other is cls]
        for argument, default in parameters(cls).items():
            values = [config[argument] for config in given if argument in config]
            assert any(value != default for value in values), f"{name}({argument}=...)"


@each_case
def test_every_argument_survives_the_config(name):
    cls, config, _ = CASES[name]
    layer = cls(**config, name="mine", dtype="mixed_bfloat16")
    written = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    read = keras.saving.deserialize_keras_object(written)
    assert type(read) is cls
    assert (read.name, read.dtype_policy.name) == ("mine", "mixed_bfloat16")
    assert read.get_config() == layer.get_config()
    for argument, value in config.items():
        assert read.get_config()[argument] == value, argument
        assert getattr(read, argument) == value, argument


@each_case
def test_the_config_does_not_change_when_the_layer_is_built(name):
    cls, config, _ = CASES[name]
    assert make(name, name="mine").get_config() == cls(**config, name="mine").get_config()


@each_case
def test_a_layer_made_from_a_config_starts_with_the_same_weights(name):
    cls, config, _ = CASES[name]
    first = cls(**config)
    second = cls.from_config(first.get_config())
    outputs = [flat(layer(**arguments(name))) for layer in (first, second)]
    for one, two in zip(*outputs, strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", [name for name in CASES if "-" not in name])
def test_a_saved_layer_computes_the_same(name, tmp_path):
    layer = make(name)
    values = arguments(name)
    symbols = {
        key: keras.Input(value.shape[1:], dtype=str(value.dtype), name=key)
        for key, value in _named(values).items()
    }
    model = keras.Model(symbols, layer(**_unnamed(values, symbols)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = _named(values)
    direct = flat(layer(**values))
    for outputs in (model(inputs), loaded(inputs)):
        for expected, found in zip(direct, flat(outputs), strict=True):
            np.testing.assert_array_equal(found, expected)


def _named(values, prefix=""):
    """Flatten nested values into {"outer__inner": value}."""
    if isinstance(values, np.ndarray):
        return {prefix: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    found = {}
    for key, value in items:
        found |= _named(value, f"{prefix}__{key}" if prefix else str(key))
    return found


def _unnamed(values, symbols, prefix=""):
    """The structure of `values` with the entries of `symbols`."""
    if isinstance(values, np.ndarray):
        return symbols[prefix]
    if isinstance(values, dict):
        return {
            key: _unnamed(value, symbols, f"{prefix}__{key}" if prefix else key)
            for key, value in values.items()
        }
    return [_unnamed(value, symbols, f"{prefix}__{i}") for i, value in enumerate(values)]


@each_case
def test_the_computed_shape_is_the_real_one(name):
    shapes = CASES[name][2]
    layer = make(name)
    outputs = layer(**arguments(name))
    real = tree.map_structure(lambda y: tuple(y.shape), outputs)
    computed = layer.compute_output_shape(*shapes.values())
    assert over_shapes(tuple, computed) == real


@each_case
def test_an_unknown_batch_is_known_to_be_unknown(name):
    """Symbolic outputs have the real shape and dtype, with `None` for the batch or the rows."""
    shapes = CASES[name][2]
    layer = make(name)
    real = tree.flatten(layer(**arguments(name)))
    symbols = over_shapes(lambda s: keras.KerasTensor((None, *s[1:])), shapes)
    if "label" in symbols:
        symbols["label"] = keras.KerasTensor((None,), dtype="int32")
    symbolic = tree.flatten(layer(**symbols))
    for symbol, value in zip(symbolic, real, strict=True):
        assert tuple(symbol.shape) == (None, *value.shape[1:])
        assert symbol.dtype == keras.backend.standardize_dtype(value.dtype)


@pytest.mark.parametrize(
    "dtype", ["mixed_bfloat16", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", [name for name in CASES if name not in EMBEDDINGS])
def test_half_precision_stays_close(name, dtype):
    """Within 5 % of the spread of the float32 output; heads and pooled text are float32."""
    full, mixed = make(name), make(name, dtype=dtype)
    mixed.set_weights(full.get_weights())
    if dtype == "mixed_bfloat16":
        assert all(variable.dtype == "float32" for variable in mixed.weights)
    values = arguments(name)
    found, expected = mixed(**values), full(**values)
    for y, reference in zip(flat(found), flat(expected), strict=True):
        scale = max(float(reference.std()), 1e-3)
        assert np.abs(y - reference).max() < 0.25 * scale
        assert np.sqrt(np.mean((y - reference) ** 2)) < 0.05 * scale
    if isinstance(found, dict):
        for key in {"output", "embedding"} & set(found):
            assert keras.backend.standardize_dtype(found[key].dtype) == "float32"
        for key in {"features", "tokens"} & set(found):
            assert keras.backend.standardize_dtype(found[key].dtype) == "bfloat16"


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_do_not_follow_the_global_policy(name):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        layer = make(name)
    finally:
        keras.config.set_dtype_policy(before)
    assert layer.compute_dtype == "float32"
    reference = make(name)
    for y, expected in zip(
        flat(layer(**arguments(name))), flat(reference(**arguments(name))), strict=True
    ):
        np.testing.assert_array_equal(y, expected)

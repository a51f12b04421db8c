"""NestedUNet: files, optional inputs, smaller batches at outer levels, errors that name things."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from keras_mdm import LevelSpec, build_nested_unet, cut
from keras_mdm.models.resolve import resolve
from keras_mdm.models.specs import NestedUNetSpec

from .networks import (
    CLIP,
    INNER,
    LARGER,
    LARGER_CLIP,
    TEXT,
    make_inputs,
    only,
    randomize,
    small,
)

MICRO = dataclasses.replace(INNER, micro_conditions={"scale": 8.0, "score": 0.5})
UNMASKED = dataclasses.replace(INNER, mask_text=False)
DEEP = LevelSpec(8, channels=(32, 64), blocks=(1, 2), attention=(0, 1), attention_ffn=False)
NETWORKS = {
    "image": lambda: randomize(build_nested_unet([DEEP, 16], time_width=32)),
    "video": lambda: small([CLIP, LARGER_CLIP]),
    "rotary": lambda: small([dataclasses.replace(CLIP, rotary=True, normalize_input=True)]),
    "class": lambda: small([LARGER], num_classes=3),
    "text": lambda: small([LARGER], dtype="mixed_bfloat16", **TEXT),
    "unmasked text": lambda: randomize(build_nested_unet([UNMASKED], **TEXT)),
    "text and class": lambda: small(num_classes=3, text_projection=None, **TEXT),
    "micro-conditions": lambda: randomize(build_nested_unet([MICRO, LARGER], time_width=32)),
    "latents": lambda: small(in_channels=6, out_channels=4),
}


# The others have nothing that these do not have.
SAVED = ("text", "rotary", "micro-conditions", "latents", "text and class")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=() if name in SAVED else pytest.mark.slow)
        for name, make in NETWORKS.items()
    ],
)
def test_a_saved_network_computes_the_same(make, tmp_path):
    unet = make()
    unet.save(tmp_path / "unet.keras")
    loaded = keras.saving.load_model(tmp_path / "unet.keras")
    assert loaded.spec == unet.spec
    assert loaded.policy.name == unet.policy.name
    inputs = make_inputs(unet)
    expected, found = unet(inputs), loaded(inputs)
    assert tuple(found) == unet.levels == unet.output_names
    for level in unet.levels:
        assert keras.backend.standardize_dtype(found[level].dtype) == "float32"
        assert np.abs(expected[level]).max() > 1e-2
        np.testing.assert_array_equal(found[level], expected[level])


def test_the_specification_is_plain_data():
    spec = resolve([MICRO, (2, 8), LevelSpec(16, 2, rotary=True)], text_width=12, width=0.5)
    read = NestedUNetSpec.from_config(json.loads(json.dumps(spec.get_config())))
    assert read == spec


# Outer levels with fewer rows.


def test_fewer_rows_at_outer_levels():
    """Rows that all levels have do not change; inner rows without outer ones get no features."""
    unet = small([LARGER, LevelSpec(32, blocks=(1, 1))], num_classes=3, **TEXT)
    inputs = make_inputs(unet, batch=3)
    full = unet(inputs)
    fewer = unet({**inputs, "z_32": inputs["z_32"][:1], "z_16": inputs["z_16"][:2]})
    rows = {"32": 1, "16": 2, "8": 3}
    assert {level: len(y) for level, y in fewer.items()} == rows

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

    for level in unet.levels:
        close(fewer[level][:1], full[level][:1])
    without_32, alone = cut(unet, "16"), cut(unet, "8")
    middle = without_32(only(inputs, without_32))
    close(fewer["16"][1:], middle["16"][1:2])
    close(fewer["8"][1:2], middle["8"][1:2])
    close(fewer["8"][2:], alone(only(inputs, alone))["8"][2:])
    assert np.abs(full["8"][2:] - fewer["8"][2:]).max() > 1e-3


def test_fewer_clips_than_pictures():
    unet = small([CLIP], **TEXT)
    inputs = make_inputs(unet, batch=3)
    full, alone = unet(inputs), cut(unet, "8")
    fewer = unet({**inputs, "z_2x8": inputs["z_2x8"][:2]})
    np.testing.assert_allclose(fewer["2x8"], full["2x8"][:2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(fewer["8"][:2], full["8"][:2], rtol=0, atol=1e-5)
    inner = alone(only(inputs, alone))["8"]
    np.testing.assert_allclose(fewer["8"][2:], inner[2:], rtol=0, atol=1e-5)


def test_samples_are_independent():
    unet = small([LARGER, LARGER_CLIP], num_classes=3, **TEXT)
    inputs = make_inputs(unet, batch=2)
    whole = unet(inputs)
    alone = unet({name: value[1:] for name, value in inputs.items()})
    for level in unet.levels:
        np.testing.assert_allclose(whole[level][1:], alone[level], rtol=0, atol=1e-5)


# Optional inputs.


@pytest.fixture(scope="module")
def text_unet():
    return small([LARGER], **TEXT)


def test_an_absent_text_mask_means_all_tokens(text_unet):
    inputs = make_inputs(text_unet)
    ones = {**inputs, "text_mask": np.ones((2, 4), "float32")}
    absent = {name: value for name, value in inputs.items() if name != "text_mask"}
    masked, expected, found = text_unet(inputs), text_unet(ones), text_unet(absent)
    for level in text_unet.levels:
        np.testing.assert_array_equal(found[level], expected[level])
        assert np.abs(masked[level] - expected[level]).max() > 1e-4


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float64"])
def test_a_mask_of_any_dtype(text_unet, dtype):
    inputs = make_inputs(text_unet)
    expected = text_unet(inputs)
    found = text_unet({**inputs, "text_mask": inputs["text_mask"].astype(dtype)})
    for level in text_unet.levels:
        np.testing.assert_array_equal(found[level], expected[level])


def test_padding_length_changes_nothing(text_unet):
    inputs = make_inputs(text_unet)
    noise = np.random.default_rng(7).normal(size=(2, 3, 12)).astype("float32")
    padded = {
        **inputs,
        "text": np.concatenate([inputs["text"], noise], axis=1),
        "text_mask": np.pad(inputs["text_mask"], ((0, 0), (0, 3))),
    }
    expected, found = text_unet(inputs), text_unet(padded)
    for level in text_unet.levels:
        np.testing.assert_allclose(found[level], expected[level], rtol=0, atol=1e-5)


def test_absent_micro_conditions_are_the_defaults_of_each_level():
    """16 is the outer level's default and is clamped to the inner one's."""
    outer = dataclasses.replace(LARGER, micro_conditions={"scale": 16.0})
    unet = randomize(build_nested_unet([MICRO, outer], time_width=32))
    assert unet.spec.micro_conditions == ("scale", "score")
    inputs = make_inputs(unet)
    base = {name: value for name, value in inputs.items() if name not in ("scale", "score")}
    defaults = {"scale": np.full(2, 16.0, "float32"), "score": np.full(2, 0.5, "float32")}
    expected = unet(base)
    for given in (defaults, {"scale": defaults["scale"]}, {"score": defaults["score"]}):
        found = unet({**base, **given})
        for level in unet.levels:
            np.testing.assert_array_equal(found[level], expected[level])
    for name in ("scale", "score"):
        found = unet({**base, name: inputs[name]})
        assert np.abs(found["8"] - expected["8"]).max() > 1e-4
    # A condition that only the inner level has reaches the outer one through its features.
    smaller = unet({**base, "scale": np.full(2, 12.0, "float32")})
    assert np.abs(smaller["16"] - expected["16"]).max() > 1e-4


def test_order_of_the_inputs_does_not_matter(text_unet):
    inputs = make_inputs(text_unet)
    expected = text_unet(inputs)
    found = text_unet(dict(reversed(inputs.items())))
    for level in text_unet.levels:
        np.testing.assert_array_equal(found[level], expected[level])


# Errors of the call.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"z_32": 0}, "unknown_keys=['z_32']"),
        ({"label": 0}, "unknown_keys=['label']"),
        ({"time": None}, "add ['time']"),
        ({"z_16": None, "text": None}, "add ['text', 'z_16']"),
        ({"z_16": np.zeros((2, 32, 16, 3), "float32")}, "`z_16`"),
        ({"z_8": np.zeros((2, 8, 8, 4), "float32")}, "shape=(2, 8, 8, 4)"),
        ({"z_8": np.zeros((2, 3, 8, 8), "float32")}, "(B, 8, 8, 3)"),
        ({"text": np.zeros((2, 4, 24), "float32")}, "text_shape=(2, 4, 24)"),
    ],
)
def test_wrong_inputs_are_named(text_unet, change, words):
    inputs = {**make_inputs(text_unet), **change}
    inputs = {name: value for name, value in inputs.items() if value is not None}
    with pytest.raises(ValueError) as failure:
        text_unet(inputs)
    assert words in str(failure.value)


def test_inputs_must_be_a_dict(text_unet):
    with pytest.raises(ValueError, match="type='list'"):
        text_unet(list(make_inputs(text_unet).values()))


# Errors of the builder.


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([], "levels=[]"),
        ("64", "levels='64'"),
        (64, "levels=64"),
        ([16, INNER], "level='8'"),
        ([INNER, 8], "inner_level='8', level='8'"),
        ([INNER, 24], "level='24'"),
        ([INNER, 12], "level='12'"),
        ([INNER, (3, 8)], "level='3x8'"),
        ([INNER, (4, 8), 16], "inner_level='4x8', level='16'"),
        ([INNER, (4, 16)], "put (4, 8) between the two"),
        ([INNER, (4, 8), (8, 16)], "level='8x16'"),
        ([INNER, "big"], "level='big'"),
        ([INNER, 16.0], "level=16.0"),
        ([INNER, True], "level=True"),
        ([INNER, (4, 8, 3)], "level=(4, 8, 3)"),
        ([INNER, None], "level=None"),
        ([LevelSpec(6, channels=(32, 32, 32))], "size=6"),
        ([INNER, LevelSpec(16, use_mid_block=True)], "use_mid_block=True"),
        ([LevelSpec(8, channels=(32,), normalize_input=True)], "normalize_input=True"),
        ([LevelSpec(8, channels=(32,), tiled_adapters=True)], "tiled_adapters=True"),
        ([INNER, (2, 8), LevelSpec(16, 2, tiled_adapters=True)], "frames=2"),
        ([LevelSpec(8, channels=(40,))], "groups=32"),
        ([LevelSpec(8, channels=(32,), attention=(1,), heads=5)], "heads=5"),
        ([LevelSpec(8, channels=(48,), groups=16, temporal_attention=(1,))], "channels=(48,)"),
        ([LevelSpec(8, channels=(32, 32), resolutions=(8, 2))], "resolutions=(8, 2)"),
        ([INNER, LevelSpec(32, resolutions=(32, 16))], "from 32 down to 8"),
    ],
)
def test_wrong_levels_are_named(levels, words):
    with pytest.raises(ValueError) as failure:
        build_nested_unet(levels, time_width=32)
    assert words in str(failure.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 0},
        {"size": 8.0},
        {"size": True},
        {"size": 8, "frames": 0},
        {"size": 8, "heads": 0},
        {"size": 8, "groups": -1},
        {"size": 8, "channels": ()},
        {"size": 8, "channels": "32"},
        {"size": 8, "channels": (32, 0)},
        {"size": 8, "blocks": 2},
        {"size": 8, "channels": (32,), "attention": (-1,)},
    ],
)
def test_wrong_fields_of_a_level_are_named(settings):
    field = list(settings)[-1]
    with pytest.raises(ValueError, match=rf"{field}(\[\])?="):
        LevelSpec(**settings)


def test_sequences_of_a_level_have_one_length():
    with pytest.raises(ValueError, match="channels=2, blocks=3"):
        LevelSpec(8, channels=(32, 64), blocks=(1, 1, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_classes": 0},
        {"text_width": -1},
        {"text_width": 12.0},
        {"in_channels": 0},
        {"out_channels": None},
        {"time_width": 4},
        {"width": 0.0},
        {"width": float("nan")},
        {"seed": -1},
        {"text_width": 12, "text_blocks": -1},
        {"text_width": 12, "text_projection": 0},
    ],
)
def test_wrong_options_are_named(settings):
    name, value = list(settings.items())[-1]
    with pytest.raises(ValueError) as failure:
        build_nested_unet([INNER], **settings)
    assert f"{name}={value!r}" in str(failure.value)


def test_text_tokens_must_fit_the_heads():
    with pytest.raises(ValueError, match="width=30, heads=4"):
        build_nested_unet([INNER], text_width=30, text_projection=None)


def test_levels_may_be_written_in_four_ways():
    ways = ([16, (4, 16)], ["16", "4x16"], [LevelSpec(16), LevelSpec(16, 4)], (16, [4, 16]))
    specs = [resolve([8, *way]) for way in ways]
    assert all(spec == specs[0] for spec in specs)
    assert [level.name for level in specs[0].levels] == ["8", "16", "4x16"]

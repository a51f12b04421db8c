"""Networks of the authors' code: equal results, equal keys, and errors that name everything."""

import copy
import gzip
import json
import pathlib
import warnings

import numpy as np
import pytest
from golden_cases import networks
from golden_cases.released import released_config

from keras_mdm.costs.unallocated import unallocated
from keras_mdm.interop import load_ml_mdm, to_ml_mdm
from keras_mdm.interop.key_map import entries
from keras_mdm.interop.mdm_config import spec_from_config
from keras_mdm.interop.mdm_weights import assign_ml_mdm
from keras_mdm.models import LevelSpec, NestedUNet, build_nested_unet, presets

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LIMIT = 2e-5


def error(case, unet, inputs=None):
    """Largest difference of a network to the stored outputs."""
    outputs = unet(case.inputs if inputs is None else inputs)
    return max(check.error for check in networks.compare_outputs(case, outputs))


@pytest.mark.parametrize("name", ["unet_text_masked", "nested2_text", "nested2_video"])
def test_the_same_weights_start_at_zero(golden_case, name):
    """A new network is zero where, and only where, the official one is."""
    case = golden_case(name)
    unet = NestedUNet(spec_from_config(case.model["config"], size=case.size))
    state = to_ml_mdm(unet)
    norm_offsets = {
        key
        for key in state
        if key.endswith(".bias")
        and state[key.removesuffix("bias") + "weight"].ndim == 1  # of a normalisation
    }
    zero = {key for key, value in state.items() if not value.any()} - norm_offsets
    assert zero == set(case.model["zero_initialised"]) - norm_offsets


# Parity has to be able to fail.


def test_parity_fails_with_keras_default_epsilon(golden_case):
    case = golden_case("unet_plain")
    unet = case.load()
    for layer in unet._flatten_layers():
        if type(layer).__name__ == "GroupNorm":
            layer.epsilon = 1e-3
    assert error(case, unet) > 10 * LIMIT


@pytest.mark.parametrize(
    "key", ["conv_in.weight", "down_blocks.1.attn.0.qkv.weight", "down_blocks.0.resample.weight"]
)
def test_parity_fails_with_permuted_weights(golden_case, key):
    """Every axis matters, also where all extents are equal."""
    case = golden_case("unet_plain")
    value = case.state[key]
    swapped = np.swapaxes(value, 2, 3) if value.shape[2] > 1 else value[::-1]
    assert not np.array_equal(swapped, value)
    unet = case.load({**case.state, key: np.ascontiguousarray(swapped)})
    assert error(case, unet) > 10 * LIMIT


def test_parity_fails_without_the_mask(golden_case):
    case = golden_case("unet_text_masked")
    inputs = case.inputs
    assert not inputs["text_mask"].all()
    inputs["text_mask"] = np.ones_like(inputs["text_mask"])
    assert error(case, case.unet, inputs) > 10 * LIMIT


# The released networks: keys, shapes and order, without allocating them.


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_released_networks_have_the_official_keys(size):
    with gzip.open(GOLDEN / f"state_dict_{size}.json.gz") as file:
        official = json.load(file)
    expected = [(key, tuple(shape)) for key, shape in official["keys"]]
    with unallocated():
        preset = presets.build(f"released_{size}", text_width=2048)
        imported = NestedUNet(spec_from_config(released_config(size), size=size))
    for unet in (preset, imported):
        assert [(entry.key, entry.shape) for entry in entries(unet)] == expected
        assert unet.count_params() == official["total_parameters"]
    assert preset.spec == imported.spec
    assert len(expected) == official["num_tensors"]


# Strictness.


def test_all_differences_are_listed_at_once_and_nothing_changes(golden_case):
    case = golden_case("unet_plain")
    unet = case.load()
    before = to_ml_mdm(unet)
    wrong = {key: value + 1.0 for key, value in case.state.items()}
    missing = ["conv_in.weight", "up_blocks.1.resnets.0.conv1.bias"]
    for key in missing:
        del wrong[key]
    strangers = {"vae.weight": np.zeros(3), "inner_unet.conv_in.bias": np.zeros(32)}
    wrong |= strangers
    wrong["norm_out.weight"] = np.zeros(33)
    wrong["conv_out.weight"] = wrong["conv_out.weight"].transpose(1, 0, 2, 3)
    with pytest.raises(ValueError) as failure:
        assign_ml_mdm(unet, wrong)
    message = str(failure.value)
    for key in (*missing, *strangers, "norm_out.weight", "conv_out.weight"):
        assert key in message
    assert "(33,) instead of (32,)" in message
    assert "down_blocks.0.resample.weight" not in message  # what fits is not listed
    after = to_ml_mdm(unet)
    assert all(np.array_equal(after[key], before[key]) for key in before)


def test_other_rotary_frequencies_are_refused_and_nothing_changes(golden_case):
    case = golden_case("nested2_video_rotary")
    unet = case.load()
    key = next(key for key in case.model["state_dict_order"] if key.endswith("pos_emb.freqs"))
    wrong = {**case.state, key: case.state[key] * 1.01, "conv_in.bias": np.full(64, 7.0)}
    with pytest.raises(ValueError, match="pos_emb.freqs"):
        assign_ml_mdm(unet, wrong)
    np.testing.assert_array_equal(to_ml_mdm(unet)["conv_in.bias"], case.state["conv_in.bias"])


def test_weights_of_another_size_are_refused(golden_case):
    """An inner network alone is not the whole one."""
    case = golden_case("nested2_text")
    inner = {
        key.removeprefix("inner_unet."): value
        for key, value in case.state.items()
        if key.startswith("inner_unet.")
    }
    with pytest.raises(ValueError, match="in_adapter.weight"):
        case.load(inner)


def test_the_inner_network_of_a_nest_is_a_network_of_its_own(golden_case):
    """Key names of a nest begin with `inner_unet.`; without it they are those of the inner one."""
    case = golden_case("nested2_text")
    config = {
        **case.model["config"]["inner_config"],
        "conditioning_feature_dim": case.model["config"]["conditioning_feature_dim"],
    }
    inner = {
        key.removeprefix("inner_unet."): value
        for key, value in case.state.items()
        if key.startswith("inner_unet.")
    }
    unet = load_ml_mdm(inner, config=config, size=8)
    assert list(to_ml_mdm(unet)) == list(inner)


def test_unused_interpolation_layers_are_ignored_only_if_configured(golden_case):
    case = golden_case("nested2_text")
    extra = {"interp_layer1.weight": np.zeros((64, 16)), "interp_layer2.bias": np.zeros(64)}
    state = {**case.state, **extra}
    with pytest.raises(ValueError, match="interp_layer1.weight"):
        case.load(state)
    config = {**case.model["config"], "interp_conditioning": True}
    unet = case.load(state, config)
    np.testing.assert_array_equal(to_ml_mdm(unet)["conv_in.bias"], case.state["conv_in.bias"])


def test_classes_cannot_be_exported():
    unet = build_nested_unet([LevelSpec(4, channels=(32,), blocks=(1,))], num_classes=3)
    with pytest.raises(ValueError, match="num_classes=3"):
        to_ml_mdm(unet)


# Configurations.

TINY = {
    "resolution_channels": [32, 32],
    "num_resnets_per_resolution": 1,
    "attention_levels": [],
    "temporal_dim": 32,
}

CLIP = {**TINY, "resolution_channels": [32] * 3, "temporal_mode": True}


def test_configuration_defaults_are_the_official_ones():
    spec = spec_from_config({}, size=64)
    (level,) = spec.levels
    assert level.channels == (128, 256, 256, 512, 1024)
    assert level.blocks == (2,) * 5
    assert level.attention == (0, 0, 1, 1, 0)
    assert level.resolutions == (64, 32, 16, 8, 4)
    assert (spec.time_width, spec.text_width, spec.text_blocks) == (512, None, 0)
    assert (level.groups, level.attention_ffn, level.mask_text) == (32, False, True)
    assert level.micro_conditions == {}


def test_the_string_none_is_null():
    """The released files write null as "None"."""
    fields = ("temporal_dim", "num_temporal_attention_layers", "micro_conditioning")
    written = {**TINY, **dict.fromkeys(fields, "None")}
    null = {**TINY, **dict.fromkeys(fields)}
    assert spec_from_config(written, size=8) == spec_from_config(null, size=8)
    assert spec_from_config(written, size=8).time_width == 128


def test_dropout_is_left_out_with_a_warning():
    config = {**TINY, "resnet_config": {"dropout": 0.1}}
    with pytest.warns(UserWarning, match="dropout=0.1"):
        spec = spec_from_config(config, size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spec == spec_from_config(TINY, size=8)


def test_freezing_is_left_out_with_a_warning():
    config = {**TINY, "inner_config": TINY, "freeze_inner_unet": True}
    with pytest.warns(UserWarning, match="freeze_inner_unet"):
        spec_from_config(config, size=8)


def test_every_outer_level_hands_its_text_width_on(golden_case):
    """The projection of an outer level replaces the width that the next one sees."""
    config = copy.deepcopy(golden_case("nested3_text").model["config"])
    config["conditioning_feature_dim"] = 24
    spec = spec_from_config(config, size=32)
    assert (spec.text_width, spec.text_projection) == (32, 32)
    config["conditioning_feature_proj_dim"] = -1
    config["inner_config"]["conditioning_feature_proj_dim"] = -1
    assert spec_from_config(config, size=32).text_width == 24


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**TINY, "inner_config": TINY, "skip_inner_unet_input": True}, "skip_inner_unet_input"),
        ({**TINY, "temporal_mode": True}, "temporal_mode"),
        (
            {
                **TINY,
                "conditioning_feature_dim": 16,
                "inner_config": {**TINY, "temporal_dim": 64},
            },
            "temporal_dim=[32, 64]",
        ),
        # Two resolutions of time are no square of frames; nor may a picture lie between clips.
        ({**TINY, "temporal_mode": True, "inner_config": TINY}, "frames=[2]"),
        (
            {**CLIP, "inner_config": {**TINY, "inner_config": TINY}},
            "frames_of_the_official_grid=[16]",
        ),
        (
            {
                **CLIP,
                "temporal_spatial_ds": True,
                "num_temporal_attention_layers": [1, 0, 0],
                "inner_config": TINY,
            },
            "num_temporal_attention_layers=(1, 0, 0)",
        ),
        ({**TINY, "resolution_channels": [32] * 5}, "size=8"),
        ([TINY], "type='list'"),
    ],
)
def test_configurations_that_the_official_code_cannot_run(config, words):
    with pytest.raises(ValueError) as failure:
        spec_from_config(config, size=8)
    assert words in str(failure.value)


def test_weights_must_be_a_mapping_or_a_file():
    with pytest.raises(ValueError, match="type='list'"):
        load_ml_mdm([1, 2], config=TINY, size=8)

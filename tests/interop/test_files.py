"""Loading from the official files: checkpoints and configurations as the official parser has it."""

import json

import numpy as np
import pytest
import yaml
from golden_cases import networks
from golden_cases.checkpoint import state_hash

from keras_mdm.interop import load_ml_mdm, save_ml_mdm, to_ml_mdm
from keras_mdm.interop.mdm_config import spec_from_config
from keras_mdm.interop.mdm_files import read_config
from keras_mdm.interop.torch_writer import write_state_dict
from keras_mdm.models import NestedUNet

from .conftest import GOLDEN
from .test_parity import TINY

# The forms in which the released files write what they mean.
FILE = """
name: tiny
model: {model}
vision_model: {model}
text_model: google/flan-t5-xl
multi_res_weights: '16:1'
diffusion_config:
  sampler_config:
    loss_target_type: HA_STYLE
    schedule_shifted: true
unet_config:
{network}
diffusion_config:
  sampler_config:
    num_diffusion_steps: 1000
    schedule_type: DEEPFLOYD
    prediction_type: V_PREDICTION
    loss_target_type: DDPM
  no_use_residual: true
"""


def write_config(path, network, model="unet"):
    text = yaml.safe_dump(network, default_flow_style=None)
    indented = "\n".join(f"  {line}" for line in text.splitlines())
    path.write_text(FILE.format(model=model, network=indented))
    return path


def unknown_width(config):
    """The configuration as released: the programs fill in the width of the text."""
    config = {**config, "conditioning_feature_dim": -1}
    if config.get("inner_config"):
        config["inner_config"] = unknown_width(config["inner_config"])
    return config


@pytest.mark.parametrize("name", ["unet_text_masked", "nested2_text", "nested3_text"])
def test_files_give_the_numbers_of_the_mapping(golden_case, tmp_path, name):
    case = golden_case(name)
    nests = len(case.unet.levels) - 1
    model = ("unet", "nested_unet", "nested2_unet")[nests]
    config = write_config(tmp_path / "x.yaml", unknown_width(case.model["config"]), model)
    save_ml_mdm(case.unet, tmp_path / "x.pth")
    unet = load_ml_mdm(tmp_path / "x.pth", config=str(config), size=case.size)
    assert unet.spec == case.unet.spec
    before, after = to_ml_mdm(case.unet), to_ml_mdm(unet)
    assert list(after) == case.model["state_dict_order"]
    assert all(np.array_equal(after[key], before[key]) for key in before)
    checks = list(networks.compare_outputs(case, unet(case.inputs)))
    assert all(check.passed for check in checks), checks


def test_the_stored_checkpoint_holds_the_weights_of_the_training_steps():
    settings = json.loads((GOLDEN / "train_steps.json").read_text())
    unet = load_ml_mdm(GOLDEN / "checkpoint.pth", config=settings["model"]["config"], size=8)
    assert state_hash(to_ml_mdm(unet)) == settings["state_sha256"]


def test_of_a_repeated_section_the_last_counts_as_a_whole(tmp_path):
    found = read_config(write_config(tmp_path / "x.yaml", TINY))
    assert found["diffusion_config"]["sampler_config"]["loss_target_type"] == "DDPM"
    assert "schedule_shifted" not in found["diffusion_config"]["sampler_config"]


def test_numbers_may_be_written_as_text():
    text = {
        "resolution_channels": "32,64",
        "num_resnets_per_resolution": "2",
        "attention_levels": "1",
        "num_attention_layers": "0,3",
    }
    lists = {
        "resolution_channels": [32, 64],
        "num_resnets_per_resolution": [2, 2],
        "attention_levels": [1],
        "num_attention_layers": [0, 3],
    }
    assert spec_from_config(text, size=8) == spec_from_config(lists, size=8)
    none = spec_from_config({**text, "attention_levels": ""}, size=8)
    assert none.levels[0].attention == (0, 0)


def test_a_projection_without_text_has_no_effect():
    spec = spec_from_config({**TINY, "conditioning_feature_proj_dim": 64}, size=8)
    assert spec.text_width is None and spec.text_projection is None
    nested = {**TINY, "conditioning_feature_proj_dim": 64, "inner_config": TINY}
    assert spec_from_config(nested, size=8) == spec_from_config(
        {**TINY, "inner_config": TINY}, size=8
    )


def test_levels_without_text_may_embed_time_in_different_widths(tmp_path):
    config = {**TINY, "inner_config": {**TINY, "temporal_dim": 64}}
    spec = spec_from_config(config, size=8)
    assert (spec.time_width, spec.levels[1].time_width) == (64, 32)
    state = to_ml_mdm(NestedUNet(spec))
    assert state["temb_layer2.weight"].shape == (32, 32)
    assert state["inner_unet.temb_layer2.weight"].shape == (64, 64)
    unet = load_ml_mdm(state, config=config, size=8)
    unet.save(tmp_path / "x.keras")
    assert NestedUNet.from_config(unet.get_config()).spec == spec


def test_temporal_layers_of_an_image_network_attend_over_one_frame():
    config = {**TINY, "num_temporal_attention_layers": "1,0"}
    unet = NestedUNet(spec_from_config(config, size=8))
    keys = [key for key in to_ml_mdm(unet) if ".t_attn." in key]
    assert {key.split(".t_attn")[0] for key in keys} == {"down_blocks.0", "up_blocks.1"}
    z = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    with pytest.warns(UserWarning, match="softmax over axis -1 .+ has size 1"):  # which is meant
        found = unet({"z_8": z, "time": np.array([3.0, 4.0], "float32")})
    assert found["8"].shape == (2, 8, 8, 3)


def test_what_the_official_code_makes_and_never_uses_is_left_out(golden_case):
    """Middle blocks and text projections of an outer network."""
    case = golden_case("nested2_text")
    extra = {
        "mid_blocks.0.resnets.0.norm1.weight": np.ones(32),
        "cond_emb.weight": np.ones((64, 24)),
        "lm_head.0.attn.norm.weight": np.ones(24),
    }
    state = {**case.state, **extra}
    with pytest.raises(ValueError, match="mid_blocks.0.resnets.0.norm1.weight"):
        case.load(state)
    config = {**case.model["config"], "skip_mid_blocks": False, "skip_cond_emb": False}
    unet = case.load(state, config)
    assert list(to_ml_mdm(unet)) == case.model["state_dict_order"]


def test_not_a_number_is_named_and_nothing_changes(golden_case):
    case = golden_case("unet_plain")
    broken = {key: value.copy() for key, value in case.state.items()}
    broken["conv_in.weight"][0, 0, 0, 0] = np.nan
    broken["norm_out.bias"][3] = np.inf
    with pytest.raises(ValueError, match="conv_in.weight.*norm_out.bias"):
        case.load(broken)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: unet\n", "unet_config"),
        ("- 1\n", "type='list'"),
        ("unet_config: {a: [}\n", "must be YAML"),
        ("model: big_unet\nunet_config: {}\n", "big_unet"),
        ("model: unet\nunet_config: {inner_config: {}}\n", "inner_configs=1"),
    ],
)
def test_configurations_that_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ValueError) as failure:
        read_config(path)
    assert words in str(failure.value)


def test_absent_and_swapped_files(tmp_path):
    config = write_config(tmp_path / "x.yaml", TINY)
    with pytest.raises(ValueError, match="must be a file"):
        load_ml_mdm(GOLDEN / "checkpoint.pth", config=tmp_path / "absent.yaml", size=8)
    with pytest.raises(ValueError, match="zip archive"):
        load_ml_mdm(config, config=config, size=8)
    with pytest.raises(ValueError, match="must be YAML"):
        load_ml_mdm(GOLDEN / "checkpoint.pth", config=GOLDEN / "checkpoint.pth", size=8)
    with pytest.raises(ValueError, match="missing=.*temb_layer1"):
        write_state_dict({"a": np.zeros(2, "f4")}, tmp_path / "x.pth")
        load_ml_mdm(tmp_path / "x.pth", config=config, size=8)


def test_missing_nests_are_the_official_defaults(tmp_path):
    """`nested_unet` without an inner configuration has the default network inside."""
    network = read_config({"model": "nested_unet", "unet_config": dict(TINY)})["unet_config"]
    assert network["inner_config"] == {}
    given = {"model": "nested_unet", "unet_config": {**TINY, "inner_config": dict(TINY)}}
    assert read_config(given)["unet_config"] == given["unet_config"]

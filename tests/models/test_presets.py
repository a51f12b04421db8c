"""The named networks against the paper's tables and the released networks."""

import functools
import json
import pathlib

import pytest

from keras_mdm import presets
from keras_mdm.costs.describe import count_parameters
from keras_mdm.costs.unallocated import unallocated
from keras_mdm.diffusion import LevelShape, level_shift

PAPER = json.loads((pathlib.Path(__file__).parents[1] / "golden/paper_tables.json").read_text())
ARCHITECTURES = PAPER["A_architectures"]
# Counted independently, for text states of width 2048.
PARAMETERS = {
    "mdm_s64": 435_891_203,
    "mdm_s64s256": 449_833_286,
    "mdm_s64s128s256": 453_483_977,
    "mdm_s64s256s1024": 452_876_617,
    "mdm_s64s128s256s512s1024": 458_135_791,
    "mdm_s64t16": 528_712_966,
    "mdm_s64t16s256": 542_655_049,
    "released_64": 461_359_107,
    "released_256": 476_613_958,
    "released_1024": 480_970_057,
}


@functools.cache
def network(name, **settings):
    """A preset of which nothing is allocated."""
    with unallocated():
        return presets.build(name, **settings)


def test_every_preset_is_listed():
    assert set(presets.NAMES) == set(PARAMETERS)
    assert set(ARCHITECTURES) == {name for name in PARAMETERS if name.startswith("mdm")}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    unet = network(name)
    assert unet.count_params() == sum(count_parameters(unet).values()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_of_the_paper(name):
    table, spec = ARCHITECTURES[name], network(name).spec
    assert spec.time_width == table["emb_channels"]
    assert spec.text_blocks == table["num_lm_attn_layers"]
    assert spec.text_projection == table["lm_feature_projected_channels"]
    assert len(spec.levels) == len(table["levels"])
    for level, row in zip(spec.levels, table["levels"], strict=True):
        count = len(row["resolution_channels"])
        along_time = row.get("temporal_axis", False)
        resolutions = row["temporal_resolutions" if along_time else "resolutions"]
        assert level.resolutions == tuple(resolutions)
        assert level.channels == tuple(row["resolution_channels"])
        assert level.blocks == tuple(row["num_res_blocks"])
        assert level.attention == tuple(row["num_attn_layers_per_block"])
        temporal = row.get("num_temporal_attn_layers_per_block", [0] * count)
        assert level.temporal_attention == tuple(temporal)
        assert level.changes_time == along_time
        assert level.heads == row.get("num_heads", 8)
        assert level.use_mid_block == (level is spec.levels[0])
        assert level.mask_text and not level.normalize_input and not level.micro_conditions


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_schedule_of_the_paper(name):
    """`cosine-shift4` stands for a level four times the innermost; 16 frames count as four."""
    table, unet = ARCHITECTURES[name], network(name)
    shapes = [LevelShape.parse(level) for level in unet.levels]
    for shape, row in zip(shapes, table["levels"], strict=True):
        ratio = level_shift(shape, shapes[0])
        assert row["schedule"] == ("cosine" if ratio == 1 else f"cosine-shift{ratio:g}")
    settings = presets.diffusion(name)
    assert settings["schedule"] == "cosine"
    assert settings["prediction"] == PAPER["C_inference"]["prediction"]
    assert settings["loss_target"] == "v"


@pytest.mark.parametrize("name", ["mdm_s64", "mdm_s64s256"])
def test_class_models_have_no_cross_attention(name):
    """Appendix E: the label is fused with the time embedding."""
    classes = PAPER["E_datasets"]["imagenet"]["classes"]
    unet = network(name, num_classes=classes)
    assert not any("text" in variable.path for variable in unet.weights)
    assert unet.parts["class_embedding"].table.shape == (classes + 1, 1024)


@pytest.mark.parametrize(
    ("name", "power"), [("released_64", 2.0), ("released_256", 1.0), ("released_1024", 2.0)]
)
def test_diffusion_of_the_released_networks(name, power):
    settings = presets.diffusion(name)
    assert (settings["prediction"], settings["loss_target"]) == ("v", "eps")
    assert settings["threshold"] == "static"  # CLIP in all three configurations
    assert name == "released_64" or settings["shift_power"] == power


def test_width_scales_all_channels():
    levels = network("mdm_s64s256", width=0.5).spec.levels
    assert [level.channels for level in levels] == [(128, 256, 384), (32, 64, 128)]


def test_errors():
    with pytest.raises(ValueError, match="name='mdm_s65'"):
        presets.build("mdm_s65")
    with pytest.raises(ValueError, match="num_classes=10"):
        presets.build("released_64", num_classes=10)
    with pytest.raises(ValueError, match="name='huge'"):
        presets.diffusion("huge")

"""Levels: one spelling for each, squares and others, and what they share."""

import json
import math

import numpy as np
import pytest
from tiny_models import THREE_PARTS

from keras_mdm import LevelSpec, build_nested_unet
from keras_mdm.diffusion import LevelShape, build_pyramid, downsample, level_shift, upsample
from keras_mdm.levels import resized
from keras_mdm.models.specs import NestedUNetSpec, parse_level

SPELLINGS = {
    "64": (64, "64", (None, 64), (None, (64, 64)), "h64w64"),
    "16x64": ((16, 64), [16, 64], "16x64", (16, (64, 64))),
    "h48w80": ("h48w80", (None, (48, 80)), (None, [48, 80])),
    "16xh48w80": ("16xh48w80", (16, (48, 80))),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_read_alike_and_named_in_one_way(name):
    shapes = {LevelShape.parse(spelling) for spelling in SPELLINGS[name]}
    assert [shape.name for shape in shapes] == [name]
    for spelling in SPELLINGS[name]:
        level = parse_level(spelling)
        assert level.name == name and level.shape in shapes
        assert (level.size, level.frames) == (level.shape.size, level.shape.frames)


def test_a_square_is_a_number_everywhere():
    assert LevelShape(None, (64, 64)) == LevelShape(None, 64)
    assert LevelSpec((16, 16)).size == 16 and LevelSpec([16, 24]).size == (16, 24)
    assert LevelShape(4, (8, 12)).of_sample(3) == (4, 8, 12, 3)
    assert (LevelShape(None, 8).height, LevelShape(None, (8, 12)).width) == (8, 12)


@pytest.mark.parametrize(
    "bad", ["48x", "h48", "w48h80", "16xh48", "2x3x4", 6.5, (1, 2, 3), (16, (4, 5, 6)), None, ""]
)
def test_what_is_no_level_is_refused_with_what_to_write(bad):
    for read in (LevelShape.parse, parse_level):
        with pytest.raises(ValueError, match=THREE_PARTS):
            read(bad)


def test_a_pair_of_numbers_stays_frames_and_size():
    with pytest.raises(ValueError, match=r"inner_level='12x20'"):
        build_nested_unet([(12, 20), (24, 40)])
    with pytest.raises(ValueError, match="height and width alike.*" + THREE_PARTS):
        build_nested_unet([LevelSpec((12, 20)), LevelSpec((24, 48))])
    with pytest.raises(ValueError, match=r"width that is divisible by 4.*" + THREE_PARTS):
        build_nested_unet([LevelSpec((12, 18))])


def test_a_network_of_other_aspects_goes_to_json_and_back():
    unet = build_nested_unet(["h8w16", LevelSpec((16, 32)), "4xh16w32"], width=1 / 8)
    assert unet.levels == ("h8w16", "h16w32", "4xh16w32")
    config = json.loads(json.dumps(unet.get_config()["spec"]))
    assert NestedUNetSpec.from_config(config) == unet.spec
    inputs = {
        f"z_{level.name}": np.zeros((2, *level.shape.of_sample(3))) for level in unet.spec.levels
    }
    outputs = unet({**inputs, "time": np.zeros(2)})
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        level.name: (2, *level.shape.of_sample(3)) for level in unet.spec.levels
    }


def test_the_channels_of_outer_levels_do_not_depend_on_the_aspect():
    square, wide = (
        build_nested_unet(levels, width=1 / 4) for levels in ([8, 32], ["h8w16", "h32w64"])
    )
    for one, other in zip(square.spec.levels, wide.spec.levels, strict=True):
        assert one.channels == other.channels and one.resolutions == other.resolutions


@pytest.mark.parametrize("kind", ["area", "bilinear"])
def test_the_pyramid_of_a_wide_picture_is_that_of_its_squares_side_by_side(kind):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 2, 8, 8, 3)).astype("float32")
    wide = [LevelShape(None, (2, 4)), LevelShape(None, (4, 8)), LevelShape(None, (8, 16))]
    squares = [LevelShape(None, size) for size in (2, 4, 8)]
    found = build_pyramid(np.concatenate([left, right], axis=2), wide, kind)
    parts = [build_pyramid(part, squares, kind) for part in (left, right)]
    for shape, square in zip(wide, squares, strict=True):
        expected = np.concatenate([np.asarray(part[square.name]) for part in parts], axis=2)
        np.testing.assert_allclose(found[shape.name], expected, rtol=1e-5, atol=1e-6)
    up = upsample(found["h2w4"], wide[0], wide[2])
    again = downsample(up, wide[2], wide[0])
    np.testing.assert_allclose(again, found["h2w4"], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="by the same number.*" + THREE_PARTS):
        downsample(np.zeros((1, 8, 16, 3)), wide[2], LevelShape(None, 2))


def test_the_shift_of_a_level_is_that_of_the_roots_of_areas():
    for ratio in (1, 2, 3, 4, 5, 7, 16):
        for inner in (16, 24, 48):
            shapes = LevelShape(16, inner * ratio), LevelShape(None, inner)
            assert level_shift(*shapes) == ratio * 4.0
            wide = [LevelShape(shape.frames, (shape.size, shape.size * 5 // 4)) for shape in shapes]
            assert level_shift(*wide) == pytest.approx(ratio * 4.0, rel=1e-15)
    other = level_shift(LevelShape(None, (24, 40)), LevelShape(None, 16))
    assert other == pytest.approx(math.sqrt(24 * 40) / 16)


def test_levels_at_another_size_stay_the_same_part_of_the_highest():
    shapes = [LevelShape.parse(level) for level in (16, (4, 16), (4, 64))]
    assert [shape.name for shape in resized(shapes, (48, 80))] == ["h12w20", "4xh12w20", "4xh48w80"]
    assert resized(shapes, 64) == tuple(shapes)
    with pytest.raises(ValueError, match=r"divisible by 4.+nearest size is \(48, 80\)"):
        resized(shapes, (48, 78))

"""Motions of drawings: what moves is where the name says."""

import numpy as np
import pytest

from keras_mdm.data.emoji.motions import MOTIONS, Pose, moved, pose_of
from keras_mdm.data.emoji.rasterise import draw

SQUARE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36"><path d="M0 0h36v36H0z"/></svg>'
)
SIZE = 96


def shape_of(motion, frame, frames=9):
    """Centre, width and height of a black square in one frame, in parts of the picture."""
    pytest.importorskip("resvg_py")
    picture = draw(moved(SQUARE, pose_of(motion, frame, frames)), SIZE)
    dark = picture.mean(axis=-1) < 128
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    centre = (rows.mean() + 0.5) / SIZE, (columns.mean() + 0.5) / SIZE
    return *centre, len(rows) / SIZE, len(columns) / SIZE


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("moving right", 1, 1), ("moving left", 1, -1), ("moving down", 0, 1), ("moving up", 0, -1)],
)
def test_it_moves_where_the_name_says(motion, axis, sign):
    first, last = shape_of(motion, 0), shape_of(motion, 8)
    assert sign * (last[axis] - first[axis]) == pytest.approx(0.48, abs=0.02)
    assert last[1 - axis] == pytest.approx(first[1 - axis], abs=0.01)
    middle = shape_of(motion, 4)
    assert middle[axis] == pytest.approx(0.5, abs=0.01)  # evenly


def test_it_grows_shrinks_turns_and_bounces():
    for motion, ends in (("growing", (0.35, 0.95)), ("shrinking", (0.95, 0.35))):
        for frame, size in zip((0, 8), ends, strict=True):
            assert shape_of(motion, frame)[2:] == pytest.approx((size, size), abs=0.02)
    # An eighth of a turn makes a square's width that of its diagonal.
    assert shape_of("turning", 3)[3] == pytest.approx(0.7 * np.sqrt(2), abs=0.02)
    heights = [shape_of("bouncing", frame)[0] for frame in range(9)]
    assert heights[0] > 0.7 and heights[2] < 0.3 and heights[4] > 0.7 and heights[6] < 0.3


@pytest.mark.parametrize("motion", MOTIONS)
def test_nothing_leaves_the_picture(motion):
    for frame in range(9):
        pose = pose_of(motion, frame, 9)
        reach = pose.scale / 2.0 * (np.sqrt(2) if motion == "turning" else 1.0)
        assert max(abs(pose.x), abs(pose.y)) + reach <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "call",
    [
        lambda: pose_of("flying", 0, 4),
        lambda: pose_of("growing", 4, 4),
        lambda: pose_of("growing", 0, 1),
        lambda: moved("<p>", Pose()),
        lambda: moved("<svg><path/></svg>", Pose()),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        call()

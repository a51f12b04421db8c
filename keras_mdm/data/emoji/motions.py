"""Named motions of a drawing: where it is in every frame of a clip, as a transform of its SVG."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_mdm import checks


@dataclass(frozen=True)
class Pose:
    """Place of a drawing in one frame.

    Args:
        x: how far its centre is to the right of the middle, in widths of the picture.
        y: how far its centre is below the middle, in heights of the picture.
        scale: its size relative to the picture.
        angle: its clockwise turn in degrees.
    """

    x: float = 0.0
    y: float = 0.0
    scale: float = 0.5
    angle: float = 0.0


# A drawing crosses about its own width, and stays inside the picture.
_REACH, _SIZE = 0.24, 0.5

# Maps the elapsed part of the clip, in [0, 1], to the pose.
Motion = Callable[[float], Pose]
MOTIONS: dict[str, Motion] = {
    "moving right": lambda u: Pose(x=_REACH * (2.0 * u - 1.0)),
    "moving left": lambda u: Pose(x=_REACH * (1.0 - 2.0 * u)),
    "moving down": lambda u: Pose(y=_REACH * (2.0 * u - 1.0)),
    "moving up": lambda u: Pose(y=_REACH * (1.0 - 2.0 * u)),
    # A third of a turn: with more, the direction of symmetrical drawings would not show.
    "turning": lambda u: Pose(scale=0.7, angle=120.0 * u),
    "growing": lambda u: Pose(scale=0.35 + 0.6 * u),
    "shrinking": lambda u: Pose(scale=0.95 - 0.6 * u),
    "bouncing": lambda u: Pose(y=_REACH * (1.0 - 2.0 * abs(math.sin(2.0 * math.pi * u)))),
}


def pose_of(motion: str, frame: int, frames: int) -> Pose:
    """Return the pose of a drawing in one frame of a clip.

    Args:
        motion: a key of `MOTIONS`.
        frame: 0..frames-1, from the beginning of the motion to its end.
        frames: length of the clip.

    Returns:
        The pose.

    Raises:
        ValueError: if the motion is unknown or the frame is not in the clip.

    Example:

    >>> [round(pose_of("moving right", frame, 3).x, 2) for frame in range(3)]
    [-0.24, 0.0, 0.24]
    """
    checks.one_of("motion", motion, tuple(MOTIONS))
    frames = checks.integer("frames", frames, minimum=2)
    if checks.integer("frame", frame, minimum=0) >= frames:
        raise checks.error(
            "`frame` must be below `frames`", fix="count from 0", frame=frame, frames=frames
        )
    return MOTIONS[motion](frame / (frames - 1))


def track_of(motion: str, frames: int) -> np.ndarray:
    """Return the course of a motion, in the form in which `evaluation.motion.track` measures it.

    Args:
        motion: a key of `MOTIONS`.
        frames: length T of the clip.

    Returns:
        float64 (T, 4), relative to the first frame: right, down, logarithm of the scale, clockwise
        turn in radians.

    Example:

    >>> track_of("moving right", 3).round(2)[:, 0].tolist()
    [0.0, 0.24, 0.48]
    """
    poses = [pose_of(motion, frame, frames) for frame in range(frames)]
    rows = [(p.x, p.y, math.log(p.scale), math.radians(p.angle)) for p in poses]
    return np.array(rows) - np.array(rows[0])


def moved(svg: str, pose: Pose) -> str:
    """Return an SVG drawing in another place of the same picture.

    Args:
        svg: the text of the file; its root must have a viewBox.
        pose: where the drawing goes.

    Returns:
        The text of an SVG with the same viewBox.

    Raises:
        ValueError: if the text has no `<svg viewBox=...>`.

    Example:

    >>> moved('<svg viewBox="0 0 36 36"><path/></svg>', Pose(x=0.25, scale=0.5))
    '<svg viewBox="0 0 36 36"><g transform="translate(27 18) rotate(0) scale(0.5) translate(-18 -18)"><path/></g></svg>'
    """  # noqa: E501
    root = re.search(r"<svg\b[^>]*>", svg)
    box = root and re.search(r'viewBox="([^"]+)"', root.group())
    end = svg.rfind("</svg>")
    if not box or end < 0:
        raise checks.error(
            "the drawing must be an SVG with a viewBox",
            fix="leave the drawing out",
            svg=svg[:80],
        )
    left, top, width, height = (float(value) for value in box.group(1).split())
    middle = left + width / 2.0, top + height / 2.0
    place = middle[0] + pose.x * width, middle[1] + pose.y * height
    transform = (
        f"translate({place[0]:g} {place[1]:g}) rotate({pose.angle:g}) scale({pose.scale:g}) "
        f"translate({-middle[0]:g} {-middle[1]:g})"
    )
    inside = svg[root.end() : end]
    return f'{svg[: root.end()]}<g transform="{transform}">{inside}</g>{svg[end:]}'

"""One clip from one video file or animation: which frames, and their pixels."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.clips.frames import (
    MAX_FRAME_PIXELS,
    count_video_frames,
    problems_of_files,
    read_frames,
)
from keras_mdm.data.clips.rule import ClipRule
from keras_mdm.data.pictures.files import open_picture, to_channels
from keras_mdm.data.pictures.rule import as_pixels, cut_out
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.data.sources import kinds
from keras_mdm.data.sources.folder import read_whole

VIDEO_EXTENSIONS = kinds.VIDEOS
ANIMATION_EXTENSIONS = (".gif", ".webp")


def fixed_place(key: str) -> float:
    """Where in a video its fixed clip begins, in [0, 1): a hash of the key."""
    digest = hashlib.sha256(f"keras_mdm clip 1:{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def read_clip(
    file: str | os.PathLike, rule: ClipRule, *, place: float, mirror: bool = False
) -> np.ndarray:
    """Read the clip of one file.

    Args:
        file: a video that FFmpeg decodes, or an animated GIF or WebP.
        rule: which frames, and their size.
        place: in [0, 1), where in the video the clip begins.
        mirror: flip left and right.

    Returns:
        uint8 (T, size, size, C), or (size, size, C) if the rule's `frames` is `None`.

    Raises:
        UnusableVideo: if the file is missing, broken, too short, or holds no pictures.
        ValueError: if PyAV is not installed.

    Example:

    >>> read_clip("horse.mp4", ClipRule(64), place=0.0).shape  # doctest: +SKIP
    (16, 64, 64, 3)
    """
    if not 0.0 <= checks.real("place", place, minimum=0.0, maximum=1.0) < 1.0:
        raise checks.error("`place` must be below 1", fix="pass 0 for the beginning", place=place)
    path = Path(file)
    read = _read_animation if path.suffix.lower() in ANIMATION_EXTENSIONS else read_frames
    # Time before space, as in the pyramid.
    clip = rule.joined(np.stack(read(path, rule, place)))
    clip = reduce_pixels(clip, rule.size, rule.downsample)
    if mirror:
        clip = clip[:, :, ::-1]
    return np.ascontiguousarray(clip if rule.frames is not None else clip[0])


def count_frames(file: str | os.PathLike) -> int:
    """Number of frames of a video file or an animation, without decoding where possible.

    Args:
        file: the file.

    Raises:
        UnusableVideo: if it cannot be read.
    """
    path = Path(file)
    if path.suffix.lower() in ANIMATION_EXTENSIONS:
        with _animation(path) as picture:
            return getattr(picture, "n_frames", 1)
    return count_video_frames(path)


# Animated pictures


def _read_animation(path: Path, rule: ClipRule, place: float) -> list[np.ndarray]:
    with _animation(path) as picture:
        count = getattr(picture, "n_frames", 1)
        frames = []
        for number in rule.wanted(count, place):
            picture.seek(number)
            shown = to_channels(picture, rule.channels)
            frames.append(as_pixels(cut_out(shown, rule.drawn)))
        return frames


@contextlib.contextmanager
def _animation(path: Path) -> Iterator[Any]:
    with problems_of_files(), open_picture(read_whole(str(path)), MAX_FRAME_PIXELS) as picture:
        yield picture

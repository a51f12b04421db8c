"""One clip out of one video file: which frames, and their pixels.

Frames are counted as the file holds them, never by the clock: files with a variable frame rate give
exact frames too. The packets are read once without decoding, which tells the times of all frames;
then the decoder starts at the last key frame before the clip and stops after its last frame.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.clip_rule import ClipRule, UnusableVideo
from keras_mdm.data.image_rule import as_pixels, cut_square, to_channels
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.data.skipping import reason_of

VIDEO_EXTENSIONS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
ANIMATION_EXTENSIONS = (".gif", ".webp")
# Bytes: what a machine that has memory left can give.
_SOME_MEMORY = 2**25


def fixed_place(key: str) -> float:
    """Where in a video its one clip begins, in [0, 1): a hash of the key."""
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
    read = _read_animation if path.suffix.lower() in ANIMATION_EXTENSIONS else _read_video
    # Time before space, as in the pyramid.
    clip = rule.joined(np.stack(read(path, rule, place)))
    clip = reduce_pixels(clip, rule.size, rule.downsample)
    if mirror:
        clip = clip[:, :, ::-1]
    return np.ascontiguousarray(clip if rule.frames is not None else clip[0])


def cover(width: float, height: float, size: int) -> tuple[int, int]:
    """Width and height, in whole pixels, at which the shorter side is `size`."""
    scale = size / min(width, height)
    return max(size, round(width * scale)), max(size, round(height * scale))


def _centre(picture: np.ndarray, size: int) -> np.ndarray:
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    return picture[top : top + size, left : left + size]


# Video files


def _read_video(path: Path, rule: ClipRule, place: float) -> list[np.ndarray]:
    with _opened(path) as (container, stream):
        times = _frame_times(container, stream)
        wanted = [times[number] for number in rule.wanted(len(times), place)]
        convert = _converter(stream, rule.drawn, rule.channels)
        found = {}
        # Some containers seek to a later frame than they were asked for: then from the beginning.
        for start in (wanted[0], min(0, times[0])):
            container.seek(start, stream=stream, backward=True)
            for frame in container.decode(stream):
                if not found and frame.pts is not None and frame.pts > wanted[0]:
                    break
                if frame.pts in wanted and frame.pts not in found:
                    found[frame.pts] = convert(frame)
                    if len(found) == len(set(wanted)):
                        return [found[time] for time in wanted]
            if found:
                break
    raise UnusableVideo(f"only {len(found)} of {len(set(wanted))} frames can be decoded")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream."""
    av = require_av()
    with _problems_of_files(), _doubted(path, av.error.FFmpegError):
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams})
                raise UnusableVideo(f"holds no pictures, only {', '.join(kinds) or 'nothing'}")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UnusableVideo("has a codec that FFmpeg does not know")
            # Clips are decoded beside each other; more threads for one of them only wait.
            stream.codec_context.thread_count = 1
            yield container, stream


def _frame_times(container: Any, stream: Any) -> list[int]:
    """Presentation times of all frames in order, from the packets, which are not decoded."""
    times = [packet.pts for packet in container.demux(stream) if packet.size]
    if None in times:  # as in old AVI files: only the decoder knows
        container.seek(0)
        times = [frame.pts for frame in container.decode(stream) if frame.pts is not None]
    return sorted(set(times))


def _converter(stream: Any, size: int, channels: int) -> Callable[[Any], np.ndarray]:
    """Function from a decoded frame to the centre square of its pixels."""
    from PIL import Image

    scaler = require_av().video.reformatter.VideoReformatter()
    shape = float(stream.sample_aspect_ratio or 1.0)  # pixels that are not square

    def convert(frame: Any) -> np.ndarray:
        width, height = cover(frame.width * shape, frame.height, size)
        # Averages of areas where it shrinks, as the levels below are made, and no ringing.
        kind = "AREA" if min(frame.width, frame.height) > size else "BICUBIC"
        small = scaler.reformat(frame, width, height, "rgb24", interpolation=kind)
        picture = _centre(small.to_ndarray(), size)
        turns = round((frame.rotation or 0) / 90) % 4
        picture = np.rot90(picture, turns) if turns else picture
        if channels == 3:
            return picture
        return as_pixels(to_channels(Image.fromarray(picture), channels))

    return convert


def count_frames(file: str | os.PathLike) -> int:
    """Number of frames of a video file or an animation, without decoding.

    Args:
        file: the file.

    Raises:
        UnusableVideo: if it cannot be read.
    """
    path = Path(file)
    if path.suffix.lower() in ANIMATION_EXTENSIONS:
        with _animation(path) as picture:
            return getattr(picture, "n_frames", 1)
    with _opened(path) as (container, stream):
        return len(_frame_times(container, stream))


def require_av() -> Any:
    """PyAV, or the error that says how to install it."""
    try:
        import av
    except ImportError as missing:
        raise checks.error(
            "video files need the package av (PyAV)",
            fix="run `pip install keras-mdm[video]`",
            missing=missing.name,
        ) from missing
    return av


# Animated pictures


def _read_animation(path: Path, rule: ClipRule, place: float) -> list[np.ndarray]:
    with _animation(path) as picture:
        count = getattr(picture, "n_frames", 1)
        frames = []
        for number in rule.wanted(count, place):
            picture.seek(number)
            shown = to_channels(picture, rule.channels)
            frames.append(as_pixels(cut_square(shown, rule.drawn)))
        return frames


@contextlib.contextmanager
def _animation(path: Path) -> Iterator[Any]:
    from PIL import Image

    with _problems_of_files():
        with Image.open(path) as picture:
            yield picture


@contextlib.contextmanager
def _doubted(path: Path, kind: type[Exception]) -> Iterator[None]:
    """Damaged files make FFmpeg say that memory or the disk fails: ask for sizes that no machine
    has, or point behind their end. Whether it is so is seen by trying."""
    try:
        yield
    except kind as problem:
        if problem.errno not in (errno.ENOMEM, errno.EIO):
            raise
        bytearray(_SOME_MEMORY)
        with open(path, "rb") as file:
            while file.read(_SOME_MEMORY):
                pass
        raise UnusableVideo(f"is damaged, FFmpeg says: {problem.strerror}") from None


@contextlib.contextmanager
def _problems_of_files() -> Iterator[None]:
    """Whatever is wrong with a file is one kind of error with one short message."""
    try:
        yield
    except UnusableVideo:
        raise
    except Exception as problem:
        raise UnusableVideo(reason_of(problem)) from problem

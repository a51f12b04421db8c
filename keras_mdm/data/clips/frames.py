"""Frames of video files, by their numbers.

Frames are counted in the order in which the file shows them, never by the clock, so files with a
variable frame rate give exact frames too. The packets are read once without decoding, to get the
times of all frames; then the decoder starts at the last key frame before the clip and stops after
its last frame. Files without these times are decoded from their beginning.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.clips import packets
from keras_mdm.data.clips.rule import ClipRule, UnusableVideo
from keras_mdm.data.pictures.files import to_channels
from keras_mdm.data.pictures.rule import as_pixels, cut_out
from keras_mdm.data.skipping import reason_of
from keras_mdm.data.sources.file_bytes import open_file

# Most pixels of a frame; 8K has 33 million. Decoders keep up to sixteen frames at a time.
MAX_FRAME_PIXELS = 36_000_000
# A pixel wider or thinner than this comes from a damaged number.
_MAX_ASPECT = 64.0
# Frames whose longer side exceeds this multiple of the other are cropped before they are resized.
_LONG = 8
# Bytes that any machine with memory left can give.
_SOME_MEMORY = 2**25


def read_frames(path: Path, rule: ClipRule, place: float) -> list[np.ndarray]:
    """The frames of a clip, cropped and resized.

    Args:
        path: the file.
        rule: which frames, and their size.
        place: in [0, 1), where in the video the clip begins.

    Raises:
        UnusableVideo: if the file is missing, broken, too short, or holds no pictures.
    """
    with _opened(path) as (container, stream):
        convert = _converter(stream, rule.drawn, rule.channels)
        times = packets.frame_times(container, stream)
        if times is None:
            count = sum(1 for _ in packets.from_start(container, stream))
            return _read_by_number(container, stream, rule.wanted(count, place), convert)
        wanted = [times[number] for number in rule.wanted(len(times), place)]
        return _read_by_time(container, stream, wanted, min(0, times[0]), convert)


def count_video_frames(path: Path) -> int:
    """Number of frames of a video file.

    Args:
        path: the file.

    Raises:
        UnusableVideo: if it cannot be read.
    """
    with _opened(path) as (container, stream):
        times = packets.frame_times(container, stream)
        return (
            sum(1 for _ in packets.from_start(container, stream)) if times is None else len(times)
        )


def cover(width: float, height: float, size: int) -> tuple[int, int]:
    """Width and height, in whole pixels, at which the shorter side is `size`."""
    scale = size / min(width, height)
    return max(size, round(width * scale)), max(size, round(height * scale))


def require_av() -> Any:
    """PyAV, or the error that says how to install it."""
    try:
        import av
    except ImportError as missing:
        raise checks.error(
            "video files need the package av (PyAV)",
            fix="run `pip install av`",
            missing=missing.name,
        ) from missing
    return av


@contextlib.contextmanager
def problems_of_files() -> Iterator[None]:
    """Turn whatever is wrong with a file into one kind of error with a short message."""
    try:
        yield
    except UnusableVideo:
        raise
    except Exception as problem:
        raise UnusableVideo(reason_of(problem)) from problem


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream."""
    av = require_av()
    with problems_of_files(), _doubted(path, av.error.FFmpegError):
        open_file(path).close()  # FFmpeg waits for pipes, and reads devices for ever
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams})
                raise UnusableVideo(f"holds no pictures, only {', '.join(kinds) or 'nothing'}")
            stream = container.streams.video[0]
            codec = stream.codec_context
            if codec is None:
                raise UnusableVideo("has a codec that FFmpeg does not know")
            if codec.width * codec.height > MAX_FRAME_PIXELS:
                raise UnusableVideo(
                    f"has {codec.width} x {codec.height} pixels, more than {MAX_FRAME_PIXELS}"
                )
            codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # it may change later
            # Clips are decoded in parallel already; more threads per clip would only wait.
            codec.thread_count = 1
            yield container, stream


@contextlib.contextmanager
def _doubted(path: Path, kind: type[Exception]) -> Iterator[None]:
    """Damaged files make FFmpeg report that memory or the disk fails, as they ask for absurd sizes
    or point beyond their end. Find out by trying whether the report is true."""
    try:
        yield
    except kind as problem:
        if problem.errno not in (errno.ENOMEM, errno.EIO):
            raise
        bytearray(_SOME_MEMORY)
        with open_file(path) as file:
            while file.read(_SOME_MEMORY):
                pass
        raise UnusableVideo(f"is damaged, FFmpeg says: {problem.strerror}") from None


def _read_by_number(
    container: Any, stream: Any, wanted: Sequence[int], convert: Callable[[Any], np.ndarray]
) -> list[np.ndarray]:
    found = {}
    for number, frame in enumerate(packets.from_start(container, stream)):
        if number in wanted:
            found[number] = convert(frame)
        if number >= wanted[-1]:
            break
    return _all_of(found, wanted)


def _read_by_time(
    container: Any,
    stream: Any,
    wanted: Sequence[int],
    begin: int,
    convert: Callable[[Any], np.ndarray],
) -> list[np.ndarray]:
    found: dict[int, np.ndarray] = {}
    # Some containers seek to a later frame than asked for; then read from the beginning.
    for start in (wanted[0], begin):
        packets.seek(container, start, stream)
        for frame in packets.decoded(container, stream):
            if not found and frame.pts is not None and frame.pts > wanted[0]:
                break
            if frame.pts in wanted and frame.pts not in found:
                found[frame.pts] = convert(frame)
                if len(found) == len(set(wanted)):
                    return _all_of(found, wanted)
        if found:
            break
    return _all_of(found, wanted)


def _all_of(found: dict[int, np.ndarray], wanted: Sequence[int]) -> list[np.ndarray]:
    missing = {*wanted} - found.keys()
    if missing:
        count = len({*wanted})
        raise UnusableVideo(f"only {count - len(missing)} of {count} frames can be decoded")
    return [found[frame] for frame in wanted]


def _converter(stream: Any, size: int, channels: int) -> Callable[[Any], np.ndarray]:
    """Function from a decoded frame to the centre square of its pixels."""
    from PIL import Image

    scaler = require_av().video.reformatter.VideoReformatter()
    pixel = float(stream.sample_aspect_ratio or 1.0)  # pixels that are not square
    if not 1 / _MAX_ASPECT <= pixel <= _MAX_ASPECT:
        raise UnusableVideo(f"has pixels {stream.sample_aspect_ratio} times as wide as high")

    def convert(frame: Any) -> np.ndarray:
        width, height = cover(frame.width * pixel, frame.height, size)
        transparent = any(part.is_alpha for part in frame.format.components)
        if transparent or max(width, height) > _LONG * size:
            whole = Image.fromarray(frame.to_ndarray(format="rgba" if transparent else "rgb24"))
            whole = to_channels(whole, channels) if transparent else whole
            picture = as_pixels(cut_out(whole, size, pixel=pixel))
        else:
            # When shrinking, averages of areas, as for the levels below: they do not ring.
            kind = "AREA" if min(frame.width, frame.height) > size else "BICUBIC"
            small = scaler.reformat(frame, width, height, "rgb24", interpolation=kind)
            picture = _centre(small.to_ndarray(), size)
        turns = round((frame.rotation or 0) / 90) % 4
        picture = np.rot90(picture, turns) if turns else picture
        if channels == 3 or transparent:
            return picture
        return as_pixels(to_channels(Image.fromarray(picture), channels))

    return convert


def _centre(picture: np.ndarray, size: int) -> np.ndarray:
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    return picture[top : top + size, left : left + size]

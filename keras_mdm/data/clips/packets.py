"""Packets of video files: when their frames are shown, and where decoding may begin."""

import itertools
from collections.abc import Iterator
from typing import Any

# Containers that store the time at which each frame is shown. Others store the order of decoding
# only, and the times that FFmpeg makes up are wrong where frames are reordered.
_WITH_TIMES = {"mov", "mp4", "mpegts"}


def frame_times(container: Any, stream: Any) -> list[int] | None:
    """Presentation times of all frames in order, from the packets, without decoding; `None` if the
    packets do not have them."""
    packets = [
        (packet.pts, packet.is_keyframe, packet.is_discard)
        for packet in container.demux(stream)
        if packet.size
    ]
    times = [time for time, _, _ in packets]
    if None in times:  # as in old AVI files
        return None
    if stream.codec_context.has_b_frames and not _WITH_TIMES & {*container.format.name.split(",")}:
        if all(one < other for one, other in zip(times, times[1:], strict=False)):
            return None  # made up: frames are reordered, but these times are not
    # A file cut from another one begins in the middle: frames before its first key frame cannot be
    # decoded, and frames hidden by an edit list are decoded but not shown.
    first = next((number for number, (_, key, _) in enumerate(packets) if key), 0)
    begin = times[first] if times else 0
    shown = sorted(time for time, _, hidden in packets[first:] if not hidden and time >= begin)
    # Some of an MPEG program stream's times are made up as well, and then one may come twice.
    return shown if len(set(shown)) == len(shown) else None


def from_start(container: Any, stream: Any) -> Iterator[Any]:
    """All frames from the beginning, in the order in which they are shown."""
    seek(container, 0)
    return decoded(container, stream)


def seek(container: Any, time: int, stream: Any = None) -> None:
    """Go to the last key frame before a time, or to the beginning if there is none, as in files
    that were cut without encoding."""
    import av

    try:
        container.seek(time, stream=stream)
    except av.error.FFmpegError:
        container.seek(time, stream=stream, any_frame=True)


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames from here on. Before a key frame there is nothing to decode, and some decoders
    fail at what a cut left there."""
    waiting = []
    packets = iter(container.demux(stream))
    for packet in packets:
        waiting.append(packet)
        if packet.is_keyframe:
            waiting = [packet]
            break
    # Without any key frame the decoder finds out where it can begin.
    for packet in itertools.chain(waiting, packets):
        yield from packet.decode()

"""Which kind of source of clips is in a folder."""

import json
import os
from pathlib import Path

from keras_mdm.data import sharding
from keras_mdm.data.clips.files import VideoFiles, find_videos, holds_videos
from keras_mdm.data.clips.shards import ClipShards
from keras_mdm.data.skipping import MAX_SKIPPED


def open_clips(
    directory: str | os.PathLike,
    *,
    captions: str | os.PathLike | None = None,
    max_skipped: float = MAX_SKIPPED,
) -> ClipShards | VideoFiles:
    """Open prepared clips, or a folder of videos.

    Args:
        directory: the folder.
        captions: for videos, see `find_videos`; shards hold their captions.
        max_skipped: share of unusable records, among those seen, above which reading stops.

    Returns:
        A source for `clip_dataset`.

    Raises:
        ValueError: if there are no clips.

    Example:

    >>> open_clips("shards", max_skipped=0.05)  # doctest: +SKIP
    """
    if (Path(directory) / sharding.MANIFEST).is_file():
        return ClipShards(directory, max_skipped=max_skipped)
    return find_videos(directory, captions=captions, max_skipped=max_skipped)


def holds_clips(directory: str | os.PathLike) -> bool:
    """Whether a folder holds clips written by `prepare_clips`, or videos."""
    manifest = Path(directory) / sharding.MANIFEST
    try:
        listed = json.loads(manifest.read_bytes()) if manifest.is_file() else None
    except (OSError, ValueError, RecursionError):  # unreadable, or another manifest
        return holds_videos(directory)
    clips = isinstance(listed, dict) and "clips_per_shard" in listed
    return clips or holds_videos(directory)

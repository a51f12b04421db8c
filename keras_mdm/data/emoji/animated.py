"""The animated emoji: short 3D clips with their names as captions."""

import os

from keras_mdm import checks
from keras_mdm.assets import path as asset_path
from keras_mdm.data.clips.files import VideoFiles
from keras_mdm.data.clips.reader import count_frames
from keras_mdm.data.clips.rule import UnusableVideo
from keras_mdm.data.emoji.catalogue import SKIN_TONES, concept_id, names_and_groups

ASSET = "animated-emoji"


def load_animated_emoji(
    *, minimum_frames: int = 2, cache_dir: str | os.PathLike | None = None
) -> VideoFiles:
    """Find the animated emoji in the cache: 256 pixels, mostly 72 frames at 24 per second.

    Skin tones and still pictures are left out.

    Args:
        minimum_frames: clips with fewer frames are left out too; 16 frames at a stride of 4 need
            61.
        cache_dir: as in `keras_mdm.assets.cache_root`.

    Returns:
        The clips, a source for `clip_dataset`, sorted by code points; captions are the English
        names of the Unicode CLDR.

    Raises:
        ValueError: if the asset `animated-emoji` or the package emoji is missing (the error names
            the command), or no clip is long enough.

    Example:

    >>> clips = load_animated_emoji(minimum_frames=61)  # doctest: +SKIP
    >>> len(clips), clips.captions[0]  # doctest: +SKIP
    """
    minimum_frames = checks.integer("minimum_frames", minimum_frames, minimum=2)
    folder = asset_path(ASSET, cache_dir=cache_dir)
    names, _ = names_and_groups()
    found = {}
    for file in sorted(folder.glob("*.webp")):
        key = concept_id(file.stem)
        if key not in names or not SKIN_TONES.isdisjoint(key.split("-")):
            continue
        try:
            if count_frames(file) >= minimum_frames:
                found.setdefault(key, file.name)
        except UnusableVideo:
            continue
    if not found:
        raise checks.error(
            "at least one animated emoji must be long enough",
            fix="ask for fewer frames, or a smaller stride",
            minimum_frames=minimum_frames,
        )
    return VideoFiles(folder, list(found.values()), [names[key] for key in found])

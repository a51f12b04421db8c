"""Files that `keras-mdm sample` writes, each with what it was drawn from."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm import checks

if TYPE_CHECKING:
    import numpy as np

LONGEST_NAME = 60
GRID = "grid"
KEY = "keras_mdm"  # of the texts in PNG files


def first_number(directory: Path) -> int:
    """The number of the first new file of a directory, which may be one that is to be made.

    Args:
        directory: of the files.

    Raises:
        ValueError: if nothing can be written there.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise checks.error(
            "--out must be a directory to write to", fix="pass another one", out=str(directory)
        )
    if existing != directory:
        return 0
    numbers = [int(found[1]) for p in directory.iterdir() if (found := re.match(r"(\d+)-", p.name))]
    return max(numbers, default=-1) + 1


def write(
    images: Mapping[str, "np.ndarray"],
    captions: Sequence[str],
    directory: Path,
    *,
    first: int = 0,
    about: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write pictures of all levels as PNG files, and a grid with the captions.

    Args:
        images: uint8 `(B, H, W, C)`, or clips `(B, T, H, W, C)`, by level name; 1, 3 or 4 channels.
        captions: B texts.
        directory: made if it does not exist.
        first: number of the first picture.
        about: what all pictures were drawn from; every file holds it, with its own caption.

    Returns:
        The paths: per caption `<number>-<caption>_<level>.png`, ascending levels, then the grid.
    """
    from keras_mdm.pictures.grids import captioned_grid, encode_png, image_grid

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, caption in enumerate(captions):
        texts = _texts(about, caption=caption, position=index)
        for level, batch in images.items():
            picture = image_grid(batch[index : index + 1], columns=1)
            path = directory / f"{first + index:03d}-{slug(caption)}_{level}.png"
            paths.append(_written(path, encode_png(picture, texts=texts)))
    grid = encode_png(captioned_grid(images, captions), texts=_texts(about))
    return [*paths, _written(directory / f"{_grid_name(first)}.png", grid)]


def write_codes(
    codes: Mapping[str, "np.ndarray"],
    captions: Sequence[str],
    directory: Path,
    *,
    first: int = 0,
) -> list[Path]:
    """Write codes of all levels as .npy files.

    Args:
        codes: float32 `(B, H, W, C)` by level name.
        captions: B texts.
        directory: see `write`.
        first: see `write`.

    Returns:
        The paths.
    """
    import numpy as np

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, caption in enumerate(captions):
        for level, batch in codes.items():
            paths.append(directory / f"{first + index:03d}-{slug(caption)}_{level}.npy")
            np.save(paths[-1], batch[index])
    return paths


def play(
    images: Mapping[str, "np.ndarray"],
    captions: Sequence[str],
    directory: Path,
    *,
    ending: str,
    speed: float,
    first: int = 0,
    about: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the clips among the results as files that play, and a grid of all.

    Args:
        images: as in `write`.
        captions: B texts.
        directory: where to write.
        ending: "gif" or "mp4".
        speed: frames per second.
        first: see `write`.
        about: see `write`.

    Returns:
        The paths; none for pictures.
    """
    from keras_mdm.pictures.playing import animated_grid, write_clip

    clips = {
        f"{first + index:03d}-{slug(caption)}_{level}": (batch[index], caption, index)
        for index, caption in enumerate(captions)
        for level, batch in images.items()
        if batch.ndim == 5
    }
    paths = []
    for name, (frames, caption, index) in clips.items():
        comment = _texts(about, caption=caption, position=index).get(KEY, "")
        path = directory / f"{name}.{ending}"
        paths.append(write_clip(path, frames, frames_per_second=speed, comment=comment))
    if clips:
        size = max(96, *(batch.shape[-3] for batch in images.values()))
        frames = animated_grid(images, captions, size=size)
        path = directory / f"{_grid_name(first)}.{ending}"
        comment = _texts(about).get(KEY, "")
        paths.append(write_clip(path, frames, frames_per_second=speed, comment=comment))
    return paths


def slug(caption: str) -> str:
    """Letters and digits of a caption, joined by hyphens: a name that every file system takes.

    Example:

    >>> slug("A red apple, 3/4 view")
    'a-red-apple-3-4-view'
    """
    words = re.findall(r"\w+", caption.lower())
    return "-".join(words)[:LONGEST_NAME].strip("-") or "picture"


def _grid_name(first: int) -> str:
    return f"{GRID}-{first:03d}" if first else GRID


def _texts(about: Mapping[str, Any] | None, **own: Any) -> dict[str, str]:
    if about is None:
        return {}
    return {KEY: json.dumps({**about, **own}, default=str, ensure_ascii=False)}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path

"""SVG drawings to pixels, once per size, kept in the cache."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.assets import kept
from keras_mdm.assets.attribution import write_attribution
from keras_mdm.assets.table import Asset
from keras_mdm.data.base import Skipped, area_average

# Part of the cache key: raise it whenever a pixel may come out different.
RULE_VERSION = 1

# Everything is drawn on white at the smallest multiple of its size not below this, then averaged
# over blocks. So pictures of 16 and 64 pixels come from the same drawing of 256, and the smaller
# is the block average of the larger up to rounding, as in the pyramid that is trained on.
_DRAWN_AT_LEAST = 256


def drawing_size(size: int) -> int:
    """Return the size at which pictures of `size` pixels are drawn before averaging.

    Example:

    >>> [drawing_size(size) for size in (16, 48, 64, 256, 1024)]
    [256, 288, 256, 256, 1024]
    """
    return size * max(1, -(-_DRAWN_AT_LEAST // size))


def rasterise(
    files: Sequence[Path],
    sizes: Sequence[int],
    *,
    record: Asset,
    directory: Path,
    progress: bool = True,
) -> tuple[dict[int, np.ndarray], tuple[Skipped, ...]]:
    """Return the drawings at all sizes, from the cache if possible.

    Args:
        files: SVG files.
        sizes: heights and widths in pixels.
        record: the asset that the files belong to; its hashes are part of the cache key.
        directory: where rasterised pictures are kept, a compressed npz per size.
        progress: show a progress bar.

    Returns:
        Size to uint8 (n, size, size, 3), and the files that could not be drawn. Their rows are
        white; the caller drops them.

    Raises:
        ValueError: if something must be drawn and resvg-py is not installed.
    """
    targets = {size: directory / f"{_key(files, size, record)}.npz" for size in sizes}
    images, skipped = {}, set()
    for size, target in targets.items():
        loaded = _load(target, len(files), size)
        if loaded is not None:
            images[size] = loaded[0]
            skipped.update(loaded[1])
    missing = [size for size in sizes if size not in images]
    for drawn_at in sorted({drawing_size(size) for size in missing}):
        group = [size for size in missing if drawing_size(size) == drawn_at]
        drawn, failed = _draw_all(files, drawn_at, group, progress)
        for size in group:
            images[size] = drawn[size]
            _save(targets[size], drawn[size], failed)
        skipped.update(failed)
    if missing:
        write_attribution(directory, record, changes="drawn as pixels on white")
    return images, tuple(sorted(skipped))


def _key(files: Sequence[Path], size: int, record: Asset) -> str:
    parts = [RULE_VERSION, size, [source.sha256 for source in record.sources]]
    parts += [file.name for file in files]
    return f"{record.name}-{size}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"


def _load(target: Path, count: int, size: int) -> tuple[np.ndarray, list[Skipped]] | None:
    def use(archive: Any) -> tuple[np.ndarray, list[Skipped]]:
        images = archive["images"]
        if images.shape != (count, size, size, 3) or images.dtype != np.uint8:
            raise ValueError(f"pictures {images.dtype} {images.shape}")
        return images, [Skipped(*pair) for pair in json.loads(str(archive["skipped"]))]

    return kept.read(target, use)


def _save(target: Path, images: np.ndarray, skipped: Sequence[Skipped]) -> None:
    listed = json.dumps(skipped)
    kept.write(
        target, lambda file: np.savez_compressed(file, images=images, skipped=np.array(listed))
    )


def _draw_all(
    files: Sequence[Path], drawn_at: int, sizes: Sequence[int], progress: bool
) -> tuple[dict[int, np.ndarray], list[Skipped]]:
    from tqdm.auto import tqdm

    images = {size: np.full((len(files), size, size, 3), 255, np.uint8) for size in sizes}
    skipped = []
    _renderer()  # a missing package is one error, not one skipped file after the other
    label = f"drawing {len(files)} pictures, {', '.join(map(str, sizes))} px"
    # One thread: resvg holds the interpreter, so two threads took 1.5 times as long as one.
    for row, file in enumerate(tqdm(files, desc=label, disable=not progress)):
        try:
            drawn = draw(file.read_text(encoding="utf-8"), drawn_at)
        # resvg raises ValueError for most bad files, Pillow and the file system their own errors.
        except (ValueError, OSError) as problem:
            skipped.append(Skipped(file.name, str(problem) or type(problem).__name__))
            continue
        for size in sizes:
            images[size][row] = area_average(drawn[None], size)[0]
    return images, skipped


def draw(svg: str, size: int) -> np.ndarray:
    """Draw one SVG on white.

    Args:
        svg: the text of the file.
        size: height and width in pixels; drawings that are not square are centred.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ValueError: if the text is not a drawing, or resvg-py is not installed.
    """
    from PIL import Image

    png = _renderer().svg_to_bytes(
        svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True
    )
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    if picture.size != (size, size):
        canvas = Image.new("RGB", (size, size), "white")
        canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        picture = canvas
    return np.asarray(picture)


def _renderer():
    try:
        import resvg_py
    except ImportError as missing:
        raise checks.error(
            "drawing the emoji needs the package resvg-py",
            fix="run `pip install resvg-py`",
            missing=missing.name,
        ) from missing
    return resvg_py

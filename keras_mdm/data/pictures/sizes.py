"""Sizes of the pictures of a source: read from the beginnings of their files, once."""

import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from keras_mdm.assets import kept
from keras_mdm.assets.cache import cache_root
from keras_mdm.data.base import Skipped
from keras_mdm.data.pictures.files import picture_size
from keras_mdm.data.sharding import in_order
from keras_mdm.data.sources.base import ImageSource, Rows

# Part of the name in the cache: raise it whenever another size may be found for a picture.
_VERSION = 1
# More than any rule allows, so that the cached sizes serve every rule.
_ANY_PIXELS = 2**62


class Sizes(NamedTuple):
    """Sizes of the pictures of a source.

    Attributes:
        sizes: int32 (n, 2), height and width, upright; zeros where they cannot be read.
        broken: the reasons for these, by row.
    """

    sizes: np.ndarray
    broken: dict[int, str]


# Sizes for sources that are open; those in the cache outlive the process.
_known: weakref.WeakKeyDictionary[ImageSource, Sizes] = weakref.WeakKeyDictionary()


def sizes_of(source: ImageSource, *, progress: bool = True) -> Sizes:
    """Return the sizes of the pictures of a source.

    The first time every record is read, though hardly any picture is decoded; afterwards the sizes
    come from the cache, unless files were changed."""
    if source not in _known:
        _known[source] = _part(source, progress) or _whole(source, progress)
    return _known[source]


def _part(source: ImageSource, progress: bool) -> Sizes | None:
    """Sizes for a part of a source, taken from those of the whole, so that two parts need only one
    pass."""
    if not isinstance(source, Rows) or 2 * len(source) < len(source.source):
        return None
    sizes, broken = sizes_of(source.source, progress=progress)
    rows = np.flatnonzero(np.isin(source.rows, list(broken)))
    return Sizes(sizes[source.rows], {int(row): broken[int(source.rows[row])] for row in rows})


def _whole(source: ImageSource, progress: bool) -> Sizes:
    stamp = source.stamp()
    if stamp is None:
        return _read(source, progress)
    target = cache_root(None) / "index" / f"sizes-{_VERSION}-{stamp}.npz"

    def use(archive: Any) -> Sizes:
        found = Sizes(
            archive["sizes"],
            dict(zip(archive["broken"].tolist(), archive["reasons"].tolist(), strict=True)),
        )
        if found.sizes.shape != (len(source), 2) or found.sizes.dtype != np.int32:
            raise ValueError(f"sizes {found.sizes.dtype} {found.sizes.shape}")
        if np.flatnonzero((found.sizes < 1).any(axis=1)).tolist() != sorted(found.broken):
            raise ValueError("there is not one size for each picture that can be read")
        return found

    found = kept.read(target, use)
    if found is None:
        found = _read(source, progress)
        rows, reasons = np.array([*found.broken], np.int64), np.array([*found.broken.values()], "U")
        arrays = {"sizes": found.sizes, "broken": rows, "reasons": reasons}
        kept.write(target, lambda file: np.savez(file, **arrays))
    return found


def _read(source: ImageSource, progress: bool) -> Sizes:
    def size(row: int) -> tuple[int, int]:
        return picture_size(source.read(row).data, _ANY_PIXELS)

    def work(row: int) -> tuple[int, int] | Skipped:
        return source.attempt(row, size)

    sizes, broken = np.zeros((len(source), 2), np.int32), {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(
            in_order(pool, work, range(len(source))),
            total=len(source),
            desc="reading sizes of pictures",
            unit="picture",
            disable=None if progress else True,
        )
        for row, found in enumerate(bar):
            if isinstance(found, Skipped):
                broken[row] = found.reason
            else:
                sizes[row] = found
    return Sizes(sizes, broken)

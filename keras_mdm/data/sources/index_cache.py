"""Indexes of large files, cached so that each is made only once."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm.assets import kept
from keras_mdm.assets.cache import cache_root
from keras_mdm.data.skipping import reason_of
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.digests import digest

Index = dict[str, np.ndarray]


def index_files(
    paths: Sequence[str],
    make: Callable[[str], Index],
    unreadable: Callable[[str], Index],
    fits: Callable[[Index], bool],
    *,
    kind: str,
    version: int,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[Index]:
    """Return the index of every file, from the cache if possible.

    Args:
        paths: the files.
        make: makes the index of a path.
        unreadable: makes the index of a file that cannot be read from the reason; it is not kept.
        fits: whether arrays from the cache are such an index.
        kind: kind of the files; part of the cache key, with path, size and time of the file.
        version: version of the index; other versions are made anew.
        cache_dir: as in `keras_mdm.assets.cache_root`.
        progress: show a progress bar.
    """
    from tqdm.auto import tqdm

    folder = cache_root(cache_dir) / "index"

    def work(path: str) -> Index:
        target = folder / f"{kind}-{_stamp(path, version)}.npz"
        found = _load(target, fits)
        if found is None:
            try:
                found = make(path)
            except Exception as problem:
                return unreadable(reason_of(problem))
            kept.write(target, lambda file: np.savez(file, **found))
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(
            pool.map(work, paths),
            total=len(paths),
            desc=f"reading {kind} indexes",
            unit="file",
            disable=None if progress else True,
        )
        return list(bar)


def _stamp(path: str, version: int) -> str:
    size, changed = file_bytes.file_size(path), 0
    if not file_bytes.is_remote(path):
        path, changed = os.path.abspath(path), os.stat(path).st_mtime_ns
    what = f"{version} {path} {size} {changed}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(what).hexdigest()[:32]


def stamp_of_files(paths: Iterable[str], *more: Any) -> str:
    """What distinguishes files from others, and from earlier versions of themselves: their paths
    and, on this machine, sizes and times."""

    def facts() -> Iterator[Any]:
        for path in paths:
            if file_bytes.is_remote(path):
                yield path
                continue
            yield os.path.abspath(path)
            try:
                found = os.stat(path)
            except OSError:
                continue
            yield from (found.st_size, found.st_mtime_ns)

    return digest(facts(), more)[:32]


def _load(file: Path, fits: Callable[[Index], bool]) -> Index | None:
    def use(archive: Any) -> Index:
        found = {name: archive[name] for name in archive.files}
        if not fits(found):
            raise ValueError("it is not an index of this kind")
        return found

    return kept.read(file, use)

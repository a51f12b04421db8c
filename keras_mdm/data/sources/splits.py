"""Splits of a data set, by the names of its folders and files."""

import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.sources import kinds

_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_CALLED = {name: split for split, names in _NAMES.items() for name in names}
_WORDS = "|".join(sorted(_CALLED, key=len, reverse=True))
# train, train2017, val_images, split=train, partial-train, trainA; but not train_station, which may
# be a class.
_FOLDER = re.compile(
    rf"(?:split=|partial-)?({_WORDS})(?:[-_. ]?(?:\d+|images?|imgs?|set|data|split|(?-i:[AB])$))*",
    re.IGNORECASE,
)
# Between characters other than letters: mnist-train, test_0.
_FILE = re.compile(rf"(?:^|[-_. \d])({_WORDS})(?=$|[-_. \d])", re.IGNORECASE)
# What may stand before "train" in the name of a shard.
_TRAIN = re.compile(r"(|.*-)train")


def canonical(name: str) -> str:
    """The usual name of a split: "val" is "validation"."""
    return _CALLED.get(name.lower(), name)


def place_in(folder: str) -> int | None:
    """The position of the part of a path that names a split, if one does."""
    parts = folder.split("/")
    return next((n for n, part in enumerate(parts) if _FOLDER.fullmatch(part)), None)


def of_folder(folder: str) -> str | None:
    """The split that a folder belongs to."""
    place = place_in(folder)
    if place is None:
        return None
    return canonical(_FOLDER.fullmatch(folder.split("/")[place])[1])


def of_file(path: str) -> str | None:
    """The split that a shard or a table belongs to: by its folder, else by its own name.

    Args:
        path: relative, with forward slashes.

    Example:

    >>> of_file("data/train-00000-of-00002.parquet"), of_file("test/0.tar"), of_file("0.tar")
    ('train', 'test', None)
    """
    folder, _, name = path.rpartition("/")
    if split := of_folder(folder):
        return split
    found = _FILE.findall(kinds.stem_of(name))
    return canonical(found[-1]) if found else None


def of_shards(paths: Sequence[str]) -> dict[str, str | None]:
    """The split of each of the shards of a folder.

    Hugging Face names files `train-00000-of-00002.parquet`, TFDS `mine-train.tfrecord-00000-of-2`.
    Beside these, `extra-00000-of-00001.parquet` is another split, whatever it is called.

    Args:
        paths: relative, with forward slashes.

    Example:

    >>> of_shards(["train-00000-of-00001.parquet", "extra-00000-of-00001.parquet"])
    {'train-00000-of-00001.parquet': 'train', 'extra-00000-of-00001.parquet': 'extra'}
    """
    found = {path: of_file(path) for path in paths}
    stems = {path: kinds.numbered_stem(path.rpartition("/")[2]) or "" for path in paths}
    before = {match[1] for stem in set(stems.values()) if (match := _TRAIN.fullmatch(stem))}
    for path, stem in stems.items():
        start = next((start for start in before if stem.startswith(start)), None)
        if found[path] is None and start is not None:
            found[path] = stem.removeprefix(start) or None
    return found


def choose(found: Collection[str | None], wanted: str | None, source: str) -> str | None:
    """Which split to read: the one asked for, else the one for training.

    Args:
        found: splits of all files, `None` for those that belong to none.
        wanted: the split that the user asked for.
        source: what to call the data in the error.

    Returns:
        Its name; `None` if all files are read; or "" for the files without a split, which are the
        training split if only other splits have names.

    Raises:
        ValueError: if there is no such split, or there are several and none is for training.
    """
    named = sorted(set(found) - {None})
    if wanted is not None:
        if canonical(wanted) not in named:
            raise checks.error(
                "the data must have such a split",
                fix=f"pass one of {named}" if named else "leave the split out, there is only one",
                source=source,
                split=wanted,
            )
        return canonical(wanted)
    if not named or (None in found and named == ["train"]):
        return None
    if "train" in named or (len(named) == 1 and None not in found):
        return "train" if "train" in named else named[0]
    if None in found:
        return ""
    raise checks.error(
        "there must be a split for training, or one must be named",
        fix=f"pass the source as {source}:{named[0]}, or another one of the splits",
        splits=named,
    )


def not_chosen(split: str | None, chosen: str) -> str:
    """Why a file of another split is not used."""
    read = f"the split {chosen}" if chosen else "what has no split"
    return f"belongs to {f'the split {split}' if split else 'no split'}, {read} is read"


class Parts:
    """The split of every row of a table, by a column or by the folders of the files.

    Args:
        by_folder: whether folders count if there is no column.
    """

    def __init__(self, by_folder: bool):
        self._by_folder = by_folder
        self._codes = array("B")
        self._names: dict[str | None, int] = {None: 0}
        self._folders: dict[str, str | None] = {}
        self.chosen: str | None = None

    def add(self, row: int, value: Any, file: str) -> None:
        """Note the split of a row, given its value in the column `split` and the name of its file.
        Rows come in order, and those not added belong to no split."""
        if isinstance(value, str) and value.strip():
            name = canonical(value.strip())
        else:
            name = self._of_folder(file) if self._by_folder else None
        if name is not None:
            self._codes.frombytes(bytes(row - len(self._codes)))
            self._codes.append(min(self._names.setdefault(name, len(self._names)), 255))

    def _of_folder(self, file: str) -> str | None:
        folder = file.replace("\\", "/").rpartition("/")[0]
        if folder not in self._folders:
            self._folders[folder] = of_folder(folder)
        return self._folders[folder]

    def choose(
        self, rows: int, wanted: str | None, source: str
    ) -> tuple[np.ndarray | None, Iterator[tuple[int, str]]]:
        """The rows to read, `None` for all; and the others, with reasons.

        Args:
            rows: number of rows.
            wanted: the split that the user asked for.
            source: what to call the table in the error.
        """
        if not self._codes and wanted is None:
            return None, iter(())
        codes = np.zeros(rows, np.uint8)
        codes[: len(self._codes)] = np.frombuffer(self._codes, np.uint8) if self._codes else 0
        here = np.unique(codes)
        names = [name for name, code in self._names.items() if code in here]
        # A column of this name may hold something else.
        if wanted is None and not set(names) & set(_NAMES):
            return None, iter(())
        self.chosen = choose(names, wanted, source)
        if self.chosen is None:
            return None, iter(())
        code = self._names[self.chosen or None]
        by_code = {code: name for name, code in self._names.items()}
        others = (
            (int(r), not_chosen(by_code.get(int(codes[r])), self.chosen))
            for r in np.flatnonzero(codes != code)
        )
        return np.flatnonzero(codes == code), others

"""The base of every source of pictures: a number of records, each read by its number."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import Skipping
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.file_bytes import COMPRESSED


class Record(NamedTuple):
    """One record as it is stored.

    Attributes:
        key: its name within the source.
        data: the bytes of a picture file: JPEG, PNG, WebP or another format that Pillow reads.
        captions: texts that describe it; may be empty.
        label: its class, -1 for none.
        original_size: (height, width) before it was prepared; `None` if it was not prepared.
    """

    key: str
    data: bytes
    captions: tuple[str, ...] = ()
    label: int = -1
    original_size: tuple[int, int] | None = None


def class_number(label: Any) -> int:
    """Return the number of a stored class; -1 if there is none, or it is not a whole number: 1.7 is
    not a class, but 3.0 is, as tables with gaps turn 3 into 3.0."""
    try:
        number = int(label)
        whole = not isinstance(label, float | np.floating) or number == label
    except (TypeError, ValueError, OverflowError):
        return -1
    return number if whole and 0 <= number < 2**31 else -1


class ImageSource(Skipping, ABC):
    """Pictures in files: folders, tables, tar shards, record files, data sets of TFDS.

    A source of your own needs `__len__` and `read`. Reading happens in several threads at once.

    Attributes:
        label_names: names of the classes, empty if there are none.
        found: number of files of each kind in the folder that was opened.
        shard_sizes: records per shard, if shards have to be read as a whole; records are then
            shuffled within a few shards at a time. `None` if every record can be read alone.
        shard_window: how many shards may be mixed at a time, as more do not fit into memory;
            `None` for any number.

    Args:
        left_out: files that were found unusable before.
        max_skipped: share of unusable records, among those seen, above which reading stops.

    Raises:
        ValueError: if too many files were left out.

    Example:

    >>> class Squares(ImageSource):
    ...     def __len__(self):
    ...         return 10
    ...
    ...     def read(self, row):
    ...         return Record(str(row), png_of(row), ("a square",))
    """

    label_names: tuple[str, ...] = ()
    found: Mapping[str, int] = MappingProxyType({})
    shard_sizes: Sequence[int] | None = None
    shard_window: int | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, row: int) -> Record:
        """Read one record.

        Args:
            row: number of the record, from 0.

        Raises:
            Unusable: if the record cannot be used.
        """

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return {"records": len(self)}

    def stamp(self) -> str | None:
        """What distinguishes the picture files from others, and from earlier versions of
        themselves: the key under which findings about them are cached. With `None`, as for sources
        of your own, every process finds these out again."""
        return None

    def check_shards(self, broken: Sequence[Skipped], total: int, usable: int = 0) -> None:
        """Raise if more than `max_skipped` of the shards cannot be read, or none can.

        Args:
            broken: shards that cannot be read, or not to their end.
            total: number of all shards.
            usable: number of records that can be read nevertheless.
        """
        if (len(broken) == total and not usable) or len(broken) > self.max_skipped * total:
            fix = "copy or write these files again, or raise max_skipped"
            if any(COMPRESSED in reason for _, reason in broken):
                fix = (
                    "unpack the compressed files, for example with gunzip: they are read at random"
                )
            raise checks.error(
                f"at most {self.max_skipped:.2%} of the files may be unreadable",
                fix=fix,
                unreadable=f"{len(broken)} of {total}",
                first=[f"{file}: {reason}" for file, reason in broken[:3]],
            )


def require_source(source: Any) -> ImageSource:
    """Return a source of pictures, or raise if it is something else or has no records."""
    if not isinstance(source, ImageSource):
        raise checks.error(
            "`source` must be a source of pictures",
            fix="pass what open_images returns, or derive from ImageSource",
            source=source,
        )
    if not len(source):
        raise checks.error("`source` must have records", fix="check the data", records=0)
    return source


class Rows(ImageSource):
    """Some records of a source, for example one part of a split.

    Args:
        source: where they come from.
        rows: their numbers, ascending.

    Raises:
        ValueError: if there are none, or the source does not have them.
    """

    def __init__(self, source: ImageSource, rows: Sequence[int] | np.ndarray):
        super().__init__(max_skipped=require_source(source).max_skipped)
        rows = np.asarray(rows)
        if not rows.size:
            raise checks.error(
                "a part of the data must hold at least one record",
                fix="use a larger share, or all of the data",
                records=len(source),
            )
        ascending = rows.ndim == 1 and rows.dtype.kind in "iu" and not (rows[1:] <= rows[:-1]).any()
        if not ascending or rows[0] < 0 or rows[-1] >= len(source):
            raise checks.error(
                f"`rows` must be ascending whole numbers from 0 to {len(source) - 1}",
                fix="pass numbers of records of the source, each once",
                rows=rows,
            )
        self.source = source
        self.unused, self.choices = source.unused, source.choices
        self.found = source.found
        self.rows = np.asarray(rows, np.uint32 if len(source) < 2**32 else np.int64)
        self.label_names = source.label_names
        self.shard_window = source.shard_window
        if source.shard_sizes is not None:
            ends = np.searchsorted(self.rows, np.cumsum(source.shard_sizes))
            self.shard_sizes = np.diff(ends, prepend=0)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> Record:
        """Read one record; see `ImageSource.read`."""
        return self.source.read(int(self.rows[row]))

    def name(self, row: int) -> str:
        """What a record is called in its source."""
        return self.source.name(int(self.rows[row]))

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the source, and which part of it this is."""
        return {**self.source.identity, "part": [len(self), int(self.rows.sum(dtype=np.uint64))]}

    def stamp(self) -> str | None:
        """The stamp of the source, with its rows."""
        whole = self.source.stamp()
        return whole and digest([whole], [hashlib.sha256(self.rows.tobytes()).hexdigest()])[:32]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was skipped, with what the source left out."""
        return self.source._left_out + super().skipped


def split(source: ImageSource, part: str, *, share: float = 1e-3) -> ImageSource:
    """Return the training or the validation part of a source.

    A hash of a record's number decides its part, so records that are added later do not move the
    others.

    Args:
        source: all of the data.
        part: `"train"`, `"validation"` or `"all"`.
        share: approximate share of the records that are for validation.

    Returns:
        The part.

    Raises:
        ValueError: if a part would be empty.

    Example:

    >>> train = split(source, "train")  # doctest: +SKIP

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix D: one of 1000 pairs of CC12M.
    """
    checks.one_of("part", part, ("train", "validation", "all"))
    share = checks.real("share", share, minimum=0.0, maximum=1.0)
    require_source(source)
    if part == "all":
        return source
    chosen = _hashes(len(source)) < np.uint64(min(share * 2.0**64, 2.0**64 - 2048))
    return Rows(source, np.flatnonzero(chosen if part == "validation" else ~chosen))


def _hashes(count: int) -> np.ndarray:
    """Well-mixed 64-bit hashes of 0..count-1: the SplitMix64 finalizer."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))

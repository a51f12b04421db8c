"""Millions of short texts in two arrays, and lists of files with reasons built on them."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keras_mdm.data.base import Skipped


def short_names(paths: Sequence[str]) -> list[str]:
    """Names by which files can be told apart: without folders, unless names come twice.

    Args:
        paths: the files.

    Example:

    >>> short_names(["x/a.tar", "x/b.tar"]), short_names(["x/en/0.tar", "x/fr/0.tar"])
    (['a.tar', 'b.tar'], ['en/0.tar', 'fr/0.tar'])
    """
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    whole = [path.replace(os.sep, "/") for path in paths]
    before = os.path.commonprefix(whole).rpartition("/")[0]
    return [path.removeprefix(before).lstrip("/") for path in whole]


class Strings(Sequence):
    """A list of texts that needs only their bytes and eight more each, and grows at its end.

    Args:
        texts: read once.

    Example:

    >>> names = Strings(["a.png", "b.png"])
    >>> names[1], len(names)
    ('b.png', 2)
    """

    def __init__(self, texts: Iterable[str] = ()):
        self._blob, self._ends = bytearray(), array("Q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add one text at the end."""
        self._blob += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._blob))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> str:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        piece = self._blob[self._ends[row] : self._ends[row + 1]]
        return piece.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None


class Listed(Sequence):
    """Files with one of a few reasons each: `Skipped` entries that take the bytes of the names.

    Example:

    >>> found = Listed()
    >>> found.append("a.md5", "is a checksum")
    >>> found[0].reason
    'is a checksum'
    """

    def __init__(self, entries: Iterable[tuple[str, str]] = ()):
        self._files, self._reasons, self._numbers = Strings(), array("I"), {}
        for entry in entries:
            self.append(*entry)

    def append(self, file: str, reason: str) -> None:
        """Add one file at the end."""
        self._files.append(file)
        self._reasons.append(self._numbers.setdefault(reason, len(self._numbers)))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: Any) -> Any:
        reasons = list(self._numbers)
        if isinstance(row, slice):
            return tuple(self[number] for number in range(len(self))[row])
        return Skipped(self._files[row], reasons[self._reasons[row]])

    def __iter__(self) -> Iterator[Skipped]:
        reasons = list(self._numbers)
        for file, number in zip(self._files, self._reasons, strict=True):
            yield Skipped(file, reasons[number])

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"Listed({list(self[:3])!r}{', ...' if len(self) > 3 else ''})"

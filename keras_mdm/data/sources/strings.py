"""Millions of short texts in two arrays."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class Strings(Sequence):
    """A list of texts that takes their bytes and eight more each, and grows at its end.

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

"""Millions of short texts in two arrays."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class Strings(Sequence):
    """A list of texts that takes their bytes and eight more each.

    Args:
        texts: read once.

    Example:

    >>> names = Strings(["a.png", "b.png"])
    >>> names[1], len(names)
    ('b.png', 2)
    """

    def __init__(self, texts: Iterable[str]):
        blob, ends = bytearray(), array("Q", [0])
        for text in texts:
            blob += text.encode("utf-8", "surrogateescape")
            ends.append(len(blob))
        self._blob, self._ends = bytes(blob), np.frombuffer(ends, np.uint64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> str:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        begin, end = self._ends[row], self._ends[row + 1]
        return self._blob[int(begin) : int(end)].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

"""Groups of rows that are kept in memory for a while, as many as fit."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

# Most groups in memory: two windows of the order, and one that is read ahead.
_MOST = 24
# Fewer would be read again for every record where a window begins.
_LEAST = 3
# Windows of the order that are in use at a time, and a group that is about to be read.
_WINDOWS, _AHEAD = 2, 1


class KeptGroups:
    """The groups loaded last, up to a number of bytes.

    Attributes:
        window: how many groups may be mixed at a time and still fit.
        least: bytes that are needed at least.

    Args:
        sizes: bytes that each group is expected to take in memory.
        load: loads the group of a given number.
        memory: bytes that all kept groups may take; three are kept in any case.
        size_of: bytes of a group that was loaded, if it may take more than was expected.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        load: Callable[[int], Any],
        memory: int,
        size_of: Callable[[Any], int] = lambda loaded: 0,
    ):
        self._sizes, self._load, self._memory, self._size_of = sizes, load, memory, size_of
        self._taken: dict[int, int] = {}
        largest = max(sizes, default=0)
        self.window = max(1, (memory // max(1, largest) - _AHEAD) // _WINDOWS)
        self.least = sum(sorted(sizes)[-_LEAST:])
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        # One thread reads a group, the others wait for it.
        self._reading = [threading.Lock() for _ in range(8)]

    def __getitem__(self, group: int) -> Any:
        with self._reading[group % len(self._reading)]:
            with self._lock:
                if group in self._kept:
                    self._kept.move_to_end(group)
                    return self._kept[group]
            loaded = self._load(group)
            # Repeated values are stored once in a file, but not in memory.
            size = max(self._sizes[group], self._size_of(loaded))
            with self._lock:
                self._kept[group], self._taken[group] = loaded, size
                self._bytes += size
                while len(self._kept) > _LEAST and (
                    len(self._kept) > _MOST or self._bytes > self._memory
                ):
                    oldest, _ = self._kept.popitem(last=False)
                    self._bytes -= self._taken.pop(oldest)
            return loaded

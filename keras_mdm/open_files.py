"""Open files that are kept for the next reading, so many that others still get theirs."""

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Opened = TypeVar("Opened")

# Where the system says nothing, and where it says that there is no bound.
_FEW, _MANY = 256, 16384
# Of the whole process, by number of the list and of the file; that was used last is last. A list
# can be collected while this thread holds the lock, hence one that may be taken twice.
_kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
_lock = threading.RLock()
_numbers = itertools.count()


class OpenFiles(Generic[Opened]):
    """A list of files that are opened when they are read, and kept open for a while.

    All lists of a process together keep half of the files that it may have open. What falls out is
    closed when the last thread that reads from it lets go of it.

    Args:
        paths: the files.
        open_one: function of a path that opens it; called by several threads at once.

    Example:

    >>> files = OpenFiles(["a.bin", "b.bin"], lambda path: open(path, "rb"))
    >>> len(files)
    2
    """

    def __init__(self, paths: Sequence[Any], open_one: Callable[[Any], Opened]):
        self.paths, self._open_one = list(paths), open_one
        self._number = next(_numbers)
        weakref.finalize(self, _forget, self._number)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, file: int) -> Opened:
        key = self._number, file
        with _lock:
            if key in _kept:
                _kept.move_to_end(key)
                return _kept[key]
        opened = self._open_one(self.paths[file])  # others may go on
        with _lock:
            opened = _kept.setdefault(key, opened)
            while len(_kept) > most():
                _kept.popitem(last=False)
        return opened


def most() -> int:
    """How many files are kept open."""
    try:
        import resource
    except ImportError:  # on Windows
        return _FEW
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MANY if allowed == resource.RLIM_INFINITY else max(1, min(_MANY, allowed // 2))


def _forget(number: int) -> None:
    with _lock:
        for key in [key for key in _kept if key[0] == number]:
            del _kept[key]

"""Files that are kept open for the next read, few enough to leave descriptors for others."""

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Opened = TypeVar("Opened")

# Used where the system gives no limit, and where it says there is none.
_FEW, _MANY = 256, 16384
# Open files of the whole process, by number of the list and of the file, least recently used first.
# The lock is reentrant because a list can be collected while this thread holds it.
_kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
_lock = threading.RLock()
_numbers = itertools.count()


class OpenFiles(Generic[Opened]):
    """A list of files that are opened when first read and then kept open for a while.

    All lists of a process together keep at most half as many files open as it may. A file that is
    dropped is closed when the last thread has finished reading it.

    Args:
        paths: the files.
        open_one: function that opens a path; several threads may call it at once.

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
        opened = self._open_one(self.paths[file])  # outside the lock: other threads may continue
        with _lock:
            opened = _kept.setdefault(key, opened)
            while len(_kept) > most():
                _kept.popitem(last=False)
        return opened


def most() -> int:
    """The largest number of files kept open."""
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

"""One process at a time where several would do the same work."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK = ".lock"


@contextlib.contextmanager
def take_turn(
    directory: str | os.PathLike, waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Have the body of the `with` statement to oneself, among all that share a directory.

    Who comes second looks again at what is there, and mostly finds the work done: so do several
    workers of one run. It needs no agreement among them, and none waits for one that was killed:
    the system takes its lock away. Where a file system has no locks, or each machine has a
    directory of its own, all go on at once, which costs time but harms nothing.

    Args:
        directory: where the lock lies, a file that stays; made if it is not there.
        waiting: called once if another process is at it.

    Example:

    >>> with take_turn("runs/x/embeddings"):  # doctest: +SKIP
    ...     write_what_is_missing()
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Nothing of what the body raises is kept back here.
        with contextlib.suppress(OSError, ImportError):
            import fcntl  # not on Windows

            lock = stack.enter_context(open(Path(directory, LOCK), "ab"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield

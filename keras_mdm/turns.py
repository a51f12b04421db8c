"""One process at a time where several would do the same work."""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK = ".lock"
# Where a file system has no locks: the file of who is at it, touched as long as it lives.
LEASE = ".lock-owner"
# Seconds between two signs of life, and without one after which an owner is dead.
_BEAT, _DEAD = 5.0, 60.0


@contextlib.contextmanager
def take_turn(
    directory: str | os.PathLike,
    waiting: Callable[[], None] = lambda: None,
    *,
    lock: str = LOCK,
) -> Iterator[None]:
    """Have the body of the `with` statement to oneself, among all that share a directory.

    Who comes second looks again at what is there, and mostly finds the work done: so do several
    workers of one run. It needs no agreement among them, and none waits for one that was killed:
    the system takes its lock away. Where a file system has no locks, such as Lustre mounted
    without them, a file says who is at it; one that was killed is waited for a minute. A directory
    that cannot be written gives no turns: nothing can be written in the body either.

    Args:
        directory: where the lock lies, a file that stays; the directory is made if it is not there.
        waiting: called once if another process is at it.
        lock: name of the file that is locked; its content is left alone.

    Example:

    >>> with take_turn("runs/x/embeddings"):  # doctest: +SKIP
    ...     write_what_is_missing()
    """
    with contextlib.ExitStack() as stack:
        # Nothing of what the body raises is kept back here.
        with contextlib.suppress(OSError):
            Path(directory).mkdir(parents=True, exist_ok=True)
            if not _lock(Path(directory, lock), stack, waiting):
                _lease(Path(directory, LEASE), stack, waiting)
        yield


def _lock(file: Path, stack: contextlib.ExitStack, waiting: Callable[[], None]) -> bool:
    """Whether the system has locks there; this one is then held until the stack is left."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return False
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # somebody else's file may be locked, too
        lock = os.open(file, os.O_RDONLY)
    stack.callback(os.close, lock)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _lease(file: Path, stack: contextlib.ExitStack, waiting: Callable[[], None]) -> None:
    """Wait until nobody alive owns the file, and own it until the stack is left."""
    told, seen, since = False, None, 0.0
    while not _made(file):
        if not told:
            waiting()
            told = True
        beat = _beat(file)
        if beat != seen:  # by this machine's clock alone: others may be set differently
            seen, since = beat, time.monotonic()
        elif beat is not None and time.monotonic() - since > _DEAD:
            # Renamed, so that of several that wait one takes it away.
            taken = file.with_name(f"{file.name}-{uuid.uuid4().hex}")
            with contextlib.suppress(OSError):
                os.rename(file, taken)
                os.unlink(taken)
        time.sleep(_BEAT / 10)
    done = threading.Event()

    def live() -> None:
        while not done.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=live, daemon=True)
    stack.callback(file.unlink, missing_ok=True)
    stack.callback(thread.join)
    stack.callback(done.set)
    thread.start()


def _made(file: Path) -> bool:
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True


def _beat(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None

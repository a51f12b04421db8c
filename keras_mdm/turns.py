"""One process at a time, where several would do the same work."""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK = ".lock"
# Where a file system has no locks: the owner's file, touched for as long as the owner lives.
LEASE = ".lock-owner"
# Seconds between two signs of life, and seconds without one after which an owner counts as dead.
_BEAT, _DEAD = 5.0, 60.0


@contextlib.contextmanager
def take_turn(
    directory: str | os.PathLike,
    waiting: Callable[[], None] = lambda: None,
    *,
    lock: str = LOCK,
) -> Iterator[None]:
    """Run the body of the `with` statement alone among all processes that share a directory.

    The second process checks again what is there, and mostly finds the work done; the workers of
    one run do this. They need no agreement, and none waits for a killed process: the system
    releases its lock. Where a file system has no locks, such as Lustre mounted without them, a file
    names the owner, and a killed owner counts as dead after a minute. A directory that cannot be
    written gives no turns: the body could not write there either.

    Args:
        directory: where the lock file is kept; created if missing. The file stays.
        waiting: called once if another process has the turn.
        lock: name of the locked file; its content is left alone.

    Example:

    >>> with take_turn("runs/x/embeddings"):  # doctest: +SKIP
    ...     write_what_is_missing()
    """
    with contextlib.ExitStack() as stack:
        # Ends before the body, whose errors are not suppressed.
        with contextlib.suppress(OSError):
            Path(directory).mkdir(parents=True, exist_ok=True)
            if not _lock(Path(directory, lock), stack, waiting):
                _lease(Path(directory, LEASE), stack, waiting)
        yield


def _lock(file: Path, stack: contextlib.ExitStack, waiting: Callable[[], None]) -> bool:
    """Take the lock until the stack is left; return whether the file system has locks."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return False
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # another user's file can be locked, too
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
    """Wait until no living process owns the file, then own it until the stack is left."""
    told, seen, since = False, None, 0.0
    while not _made(file):
        if not told:
            waiting()
            told = True
        beat = _beat(file)
        if beat != seen:  # timed by this machine's clock only: others may differ
            seen, since = beat, time.monotonic()
        elif beat is not None and time.monotonic() - since > _DEAD:
            # Renamed, so that only one of several waiting processes removes it.
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

"""Files that are either complete or absent, whatever happens while they are written."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import time
import tokenize
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_mdm import checks

TEMPORARY_PREFIX = ".tmp-"
# What reading a damaged archive of arrays can raise. An empty one raises EOFError. A flipped bit
# can make it look encrypted (RuntimeError) or compressed in another way, or give an array 2^60
# entries. An array's header is parsed as Python.
DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error),
    *(RuntimeError, MemoryError, OverflowError, TypeError, SyntaxError, tokenize.TokenError),
)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# Seconds after which a file with no known owner counts as abandoned.
_DAY = 24 * 3600.0
_OWNED = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}([0-9a-f]{{12}})-(\d+)-(\d+)-[0-9a-f]{{12}}-.+")
_UNOWNED = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{32}}-.+")  # of earlier versions
_swept: set[Path] = set()


def is_full(problem: Exception) -> bool:
    """Whether an error says that the disk is full; TensorFlow has classes of its own."""
    known = isinstance(problem, OSError) and problem.errno in DISK_FULL
    return known or any(os.strerror(number) in str(problem) for number in DISK_FULL)


@contextlib.contextmanager
def unless_full(what: str) -> Iterator[None]:
    """Go on with a warning if something that a training can do without does not fit on the disk.

    Args:
        what: is written.
    """
    try:
        yield
    except Exception as problem:
        if not is_full(problem):
            raise
        warnings.warn(
            f"{what} could not be written: {problem}. The run continues; make room", stacklevel=3
        )


def fsync_path(path: str | Path) -> None:
    """Have the operating system write a file, or a directory's list of names, to the disk."""
    path = Path(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems refuse to sync directories; a rename is still atomic there.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def temporary_path(path: str | Path) -> Path:
    """A name beside `path`, with the same suffix, that says which process owns it.

    Args:
        path: the final path.

    Returns:
        A new name for each call; nothing is created.
    """
    path = Path(path)
    owner = f"{_machine()}-{os.getpid()}-{_started(os.getpid()) or 0}"
    # Threads share a process number, and machines may share a directory.
    return path.with_name(f"{TEMPORARY_PREFIX}{owner}-{uuid.uuid4().hex[:12]}-{path.name}")


def is_temporary(path: str | Path) -> bool:
    """Whether `temporary_path` makes such a name, or made it in an earlier version."""
    name = Path(path).name
    return bool(_OWNED.fullmatch(name) or _UNOWNED.fullmatch(name))


def remove_dead_temporaries(directory: str | Path, *, recursive: bool = False) -> list[Path]:
    """Delete the files left by processes that were killed while writing.

    Files of a process that is alive on this machine stay, however old they are; those of a dead one
    are deleted at once. For other machines, for this one before its last restart, and for earlier
    versions of this package, the owner's state is unknown: their files are deleted when nothing was
    written to them for a day. What cannot be deleted stays, without a message: it does no harm.

    Args:
        directory: where to look; need not exist.
        recursive: also look in its sub-directories; links are not followed.

    Returns:
        What was deleted.
    """
    removed = []
    for folder, folders, files in os.walk(directory):
        for name in filter(is_temporary, [*folders, *files]):
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if _left_behind(path):
                    is_folder = path.is_dir() and not path.is_symlink()
                    shutil.rmtree(path) if is_folder else path.unlink()
                    removed.append(path)
        folders[:] = [name for name in folders if recursive and not is_temporary(name)]
    return removed


def write_atomically(
    path: str | Path,
    content: bytes | str | Callable[[Path], Any],
    *,
    make_directory: bool = True,
) -> Path:
    """Write a file so that a reader sees either the old or the new one, even after a crash.

    A process's first call in a directory removes what killed processes left there.

    Args:
        path: the file.
        content: bytes, text, or a function that writes to the path it is given. That path has the
            same suffix, which `keras.Model.save` and Pillow depend on.
        make_directory: create the file's directory if needed.

    Returns:
        The path.

    Example:

    ```python
    write_atomically("runs/x/model.keras", model.save)
    ```
    """
    path = Path(path)
    if make_directory:
        path.parent.mkdir(parents=True, exist_ok=True)
    if (directory := path.parent.absolute()) not in _swept:
        _swept.add(directory)
        remove_dead_temporaries(directory)
    temporary = temporary_path(path)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        fsync_path(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)
    return path


def write_once(path: str | Path, content: str) -> bool:
    """Write a file unless it exists; of several concurrent calls, one writes it.

    Args:
        path: the file; its directory must exist.
        content: a text.

    Returns:
        Whether this call wrote it.
    """
    path = Path(path)
    if path.exists():
        return False
    temporary = temporary_path(path)
    try:
        temporary.write_text(content)
        fsync_path(temporary)
        try:
            os.link(temporary, path)  # fails if the path exists; a rename would replace it
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)
    return True


@contextlib.contextmanager
def temporary_directory(path: str | Path) -> Iterator[Path]:
    """A directory beside `path` for the body of the `with` statement.

    Args:
        path: the final path; its directory must exist.
    """
    remove_dead_temporaries(Path(path).parent)
    scratch = temporary_path(path)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_json(path: str | Path, *, what: str, fix: str, keys: Any = dict) -> Any:
    """Read a JSON file that this package wrote.

    Args:
        path: the file.
        what: the file's name in errors, such as "the manifest of prepared pictures".
        fix: what to do about a damaged file.
        keys: what it must hold: a type, a tuple of types, `{name: keys of its value}` for an
            object, which may hold more, or `[keys of each entry]` for a list.

    Returns:
        Its content.

    Raises:
        ValueError: if it is not JSON or does not match `keys`; names the file.
        OSError: if it cannot be read.

    Example:

    >>> read_json("shards/plan.json", what="the plan", fix="remove the folder",
    ...           keys={"format": int, "shards": [{"file": str}]})  # doctest: +SKIP
    """
    return parse_json(Path(path).read_bytes(), path, what=what, fix=fix, keys=keys)


def parse_json(content: bytes, path: str | Path, *, what: str, fix: str, keys: Any = dict) -> Any:
    """As `read_json`, for a file whose bytes have been read already."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as problem:
        wrong: str | None = "it is empty" if not content.strip() else f"it is not JSON: {problem}"
    else:
        wrong = _difference(found, keys, "")
    if wrong:
        raise checks.error(f"{what} must be whole", fix=fix, file=str(path), problem=wrong)
    return found


def _difference(found: Any, keys: Any, place: str) -> str | None:
    """The first mismatch with `keys`, see `read_json`, or `None`."""
    where = place or "it"
    if isinstance(keys, dict):
        if not isinstance(found, dict):
            return f"{where} is not an object"
        missing = [name for name in keys if name not in found]
        if missing:
            return f"{where} has no {missing[0]!r}"
        inner = ((found[name], keys[name], f"{place}.{name}".lstrip(".")) for name in keys)
    elif isinstance(keys, list):
        if not isinstance(found, list):
            return f"{where} is not a list"
        inner = ((value, keys[0], f"{place}[{n}]") for n, value in enumerate(found))
    else:
        kinds = keys if isinstance(keys, tuple) else (keys,)
        if isinstance(found, kinds) and (not isinstance(found, bool) or bool in kinds):
            return None
        return f"{where} is {found!r:.40}, not {' or '.join(kind.__name__ for kind in kinds)}"
    return next(filter(None, (_difference(*each) for each in inner)), None)


def _left_behind(path: Path) -> bool:
    owned = _OWNED.fullmatch(path.name)
    # Elsewhere `os.kill(pid, 0)` does more than ask.
    if owned is not None and owned[1] == _machine() and os.name == "posix":
        return not _lives(int(owned[2]), int(owned[3]))
    return time.time() - path.lstat().st_mtime > _DAY


def _lives(pid: int, started: int) -> bool:
    """Whether the process that started then is still alive, and not another with its number."""
    now = _started(pid)
    if now is not None and started:
        return now == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        return True
    # Without /proc the number alone decides; with it, the process is gone or about to be reaped.
    return not os.path.exists("/proc/self/stat")


def _started(pid: int) -> int | None:
    """When a process started, in ticks since boot; `None` if it is not running or the system does
    not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name is in brackets and may hold anything; fields count from the state after it.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@functools.cache
def _machine() -> str:
    """Identifies this machine since its last boot, and its process numbers; containers have their
    own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

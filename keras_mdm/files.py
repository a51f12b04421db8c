"""Files that are whole or absent, whatever happens while they are written."""

import contextlib
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
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_mdm import checks

TEMPORARY_PREFIX = ".tmp-"
# What reading a damaged archive of arrays can raise; an empty one is an EOFError. A flipped bit
# makes an archive encrypted (RuntimeError) or packed in another way, or an array one of 2^60
# entries; the header of an array is read as Python.
DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error),
    *(RuntimeError, MemoryError, OverflowError, TypeError, SyntaxError, tokenize.TokenError),
)

# When what belongs to nobody known is taken for left behind.
_DAY = 24 * 3600.0
_OWNED = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}([0-9a-f]{{12}})-(\d+)-(\d+)-[0-9a-f]{{12}}-.+")
_UNOWNED = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{32}}-.+")  # of earlier versions
_swept: set[Path] = set()


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
    """A name beside `path`, with its suffix, that tells which process it belongs to.

    Args:
        path: what will be there in the end.

    Returns:
        A new name for each call; nothing is made.
    """
    path = Path(path)
    owner = f"{_machine()}-{os.getpid()}-{_started(os.getpid()) or 0}"
    # Threads share the number of their process, and machines may share a directory.
    return path.with_name(f"{TEMPORARY_PREFIX}{owner}-{uuid.uuid4().hex[:12]}-{path.name}")


def is_temporary(path: str | Path) -> bool:
    """Whether a name is one that `temporary_path` makes, or made in an earlier version."""
    name = Path(path).name
    return bool(_OWNED.fullmatch(name) or _UNOWNED.fullmatch(name))


def remove_dead_temporaries(directory: str | Path, *, recursive: bool = False) -> list[Path]:
    """Delete what processes left behind that were killed while they wrote.

    Those of a process that lives on this machine stay, however old they are; those of one that is
    dead go at once. Of other machines, of this one before it was started anew, and of earlier
    versions of this package, nobody can say: theirs go when nothing was written to them for a day.
    What cannot be deleted stays, in silence: it is only in the way.

    Args:
        directory: where to look; need not exist.
        recursive: look in its sub-directories, too; links are not followed.

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
    """Write a file so that a reader, or a crash at any moment, sees the old one or the new one.

    The first call of a process in a directory removes what killed ones left there.

    Args:
        path: the file.
        content: the bytes, a text, or a function that writes to the path it is given. That path
            has the same suffix, which `keras.Model.save` and Pillow look at.
        make_directory: make the directory of the file if need be.

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
    """Write a file unless it is there; of several that try at once, one does.

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
            os.link(temporary, path)  # which fails where a rename would replace
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
        path: what is made by way of it; its directory must exist.
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
        what: what it is called in the error, such as "the manifest of prepared pictures".
        fix: what to do about a damaged one.
        keys: what it must hold: a type, a tuple of types, `{name: of its value}` of an object that
            may hold more, or `[of each]` of a list.

    Returns:
        Its content.

    Raises:
        ValueError: if it is no JSON, or does not hold that; names the file.
        OSError: if it cannot be read.

    Example:

    >>> read_json("shards/plan.json", what="the plan", fix="remove the folder",
    ...           keys={"format": int, "shards": [{"file": str}]})  # doctest: +SKIP
    """
    return parse_json(Path(path).read_bytes(), path, what=what, fix=fix, keys=keys)


def parse_json(content: bytes, path: str | Path, *, what: str, fix: str, keys: Any = dict) -> Any:
    """As `read_json`, of a file whose bytes were read already."""
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
    """What of `keys` does not hold; see `read_json`."""
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
    # Elsewhere `os.kill` would not ask.
    if owned is not None and owned[1] == _machine() and os.name == "posix":
        return not _lives(int(owned[2]), int(owned[3]))
    return time.time() - path.lstat().st_mtime > _DAY


def _lives(pid: int, started: int) -> bool:
    """Whether the process that started then is still there, and no other one of its number."""
    now = _started(pid)
    if now is not None and started:
        return now == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    # Without /proc, the number alone; with it, the process is gone or waits to be reaped.
    return not os.path.exists("/proc/self/stat")


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; `None` if it is not running, or the
    system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name stands in brackets and may hold anything; fields count from the state behind it.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@functools.cache
def _machine() -> str:
    """What tells this machine, since it was started, and its numbering of processes (containers
    have their own) from others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

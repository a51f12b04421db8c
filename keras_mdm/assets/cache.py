"""The cache directory, and files in it that are either whole or absent."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the directory that holds fetched assets and what is computed from them.

    Args:
        cache_dir: used as it is when given; otherwise `$KERAS_MDM_CACHE`, else
            `$XDG_CACHE_HOME/keras_mdm`, else `~/.cache/keras_mdm`.

    Returns:
        The directory, which need not exist yet.

    Example:

    >>> str(cache_root("elsewhere"))
    'elsewhere'
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.environ.get("KERAS_MDM_CACHE"):
        return Path(os.environ["KERAS_MDM_CACHE"]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]).expanduser() / "keras_mdm"
    return Path.home() / ".cache" / "keras_mdm"


def sha256_file(file: Path) -> str:
    """Return the sha256 of a file in hexadecimal, read in blocks."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(file: Path) -> None:
    """Force a file or a directory entry to the disk, so that a later rename cannot overtake it."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems refuse to sync directories; the rename is still atomic there.
        if not file.is_dir():
            raise
    finally:
        os.close(descriptor)


def write_atomically(target: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary name beside `target`, then rename it into place.

    A reader, or a run after a crash, sees the old file, the new one, or none; never a part of one.

    Args:
        target: the file to make; its directory is created when missing.
        write: writes the whole file at the path that it is given. The suffix is that of `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes files for the owner alone; caches on a shared disk follow the umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        flush(temporary)
        os.replace(temporary, target)
        flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes for the body of the `with` statement.

    The lock belongs to the open file, so a killed process releases it. Where the platform has no
    such locks the body runs without one: renames stay atomic, work may be done twice.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(file, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def replace_directory(new: Path, target: Path) -> None:
    """Rename the finished directory `new` to `target`, removing what stood there before."""
    if target.exists():
        shutil.rmtree(target)
    os.rename(new, target)
    flush(target.parent)

"""The cache directory, and directories in it that are either whole or absent."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_mdm.files import fsync_path

# The cache for users without a home: it holds nothing, and nothing can be written to it.
NOWHERE = Path(os.devnull, "keras_mdm")


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the directory that holds fetched assets and what is computed from them.

    Args:
        cache_dir: used as it is if given; otherwise `$KERAS_MDM_CACHE`, else
            `$XDG_CACHE_HOME/keras_mdm`, else `~/.cache/keras_mdm`.

    Returns:
        The directory, which need not exist yet; for users without a home, one that cannot exist.

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
    try:
        return Path.home() / ".cache" / "keras_mdm"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return NOWHERE


def sha256_file(file: Path) -> str:
    """Return the sha256 of a file in hexadecimal, read in blocks."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes for the body of the `with` statement.

    The lock belongs to the open file, so a killed process releases it. If the platform has no such
    locks, the body runs without one: renames stay atomic, but work may be done twice.
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
    """Rename the finished directory `new` to `target`, removing any earlier one."""
    if target.exists():
        shutil.rmtree(target)
    os.rename(new, target)
    fsync_path(target.parent)

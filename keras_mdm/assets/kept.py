"""Files of the cache: made again if they cannot be read, done without if they cannot be written."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_mdm.assets.cache import NOWHERE
from keras_mdm.files import write_atomically
from keras_mdm.machine_faults import of_the_machine

_log = logging.getLogger(__name__)
Used = TypeVar("Used")
# Files and folders that were warned about.
_told: set[Path] = set()


def read(file: Path, use: Callable[[Any], Used]) -> Used | None:
    """Use a file of arrays in the cache.

    Args:
        file: an archive of arrays (`.npz`), which need not exist.
        use: function of the open archive, a mapping of names to arrays. It should check what it
            gets: if it raises, the file counts as damaged.

    Returns:
        What `use` returned; `None` if the file does not exist or is damaged, of which a warning
        tells once.

    Raises:
        OSError: if nothing can be read, as no descriptors are left or the disk is gone.

    Example:

    >>> read(Path("no such file.npz"), lambda arrays: arrays["x"]) is None
    True
    """
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is not a file")  # opening a pipe would wait for a writer
        # Opened here, or it would stay open if it is not an archive.
        with open(file, "rb") as stream, np.load(stream) as arrays:
            return use(arrays)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # The parsers of archives, members and their headers raise many kinds of errors; a damaged array
    # may claim to be larger than the memory.
    except Exception as problem:
        if isinstance(problem, OSError) and of_the_machine(problem):
            raise
        if file not in _told:  # the new file may get another name, and this one stay
            _told.add(file)
            why = str(problem) or type(problem).__name__
            _log.warning("ignoring %s in the cache, it is made again: %s", file, why)
        return None


def write(file: Path, content: bytes | str | Callable[[Path], Any]) -> bool:
    """Keep a file in the cache, if possible. Otherwise warn, once per folder.

    Args:
        file: the file.
        content: as for `write_atomically`.

    Returns:
        Whether the file was written.
    """
    try:
        write_atomically(file, content)
        _told.discard(file)
    except OSError as problem:
        if file.parent not in _told:
            _told.add(file.parent)
            lost = NOWHERE in file.parents
            why = "there is no home directory" if lost else problem.strerror or str(problem)
            _log.warning(
                "nothing is kept in the cache%s, so it is made again each time: %s. To keep it, "
                "set KERAS_MDM_CACHE to a folder that can be written",
                "" if lost else f" {file.parent}",
                why,
            )
        return False
    return True

"""Files that are whole or absent, whatever happens while they are written."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".tmp-"


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


def write_atomically(path: str | Path, content: bytes | str | Callable[[Path], Any]) -> Path:
    """Write a file so that a reader, or a crash at any moment, sees the old one or the new one.

    Args:
        path: the file; its directory is made if need be.
        content: the bytes, a text, or a function that writes to the path it is given. That path
            has the same suffix, which `keras.Model.save` and Pillow look at.

    Returns:
        The path.

    Example:

    ```python
    write_atomically("runs/x/model.keras", model.save)
    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Threads share the number of their process, and machines may share a directory.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
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

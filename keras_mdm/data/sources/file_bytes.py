"""Pieces of files, read by place from many threads, here or wherever TensorFlow can read."""

import errno
import io
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from keras_mdm import checks
from keras_mdm.data.sources.links import Links
from keras_mdm.machine_faults import of_the_machine
from keras_mdm.open_files import OpenFiles

# Bytes that are requested from a remote file at once.
_BUFFER = 1 << 20
# What packed files begin with.
_PACKED = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zip": b"PK\x03\x04",
    "zlib": b"x\x9c",
}
COMPRESSED = "is compressed"
HIDDEN = "is hidden"


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is a URL such as gs://bucket/file."""
    return "://" in os.fspath(path)


def open_file(path: str | os.PathLike) -> Any:
    """Open a file for reading bytes.

    Raises:
        OSError: if it does not exist or is not a file: a device never ends, and a pipe waits for a
            writer.
    """
    if not is_remote(path):
        return open(path, "rb", opener=_open_regular)
    return io.BufferedReader(_RemoteFile(os.fspath(path)), _BUFFER)


def _open_regular(path: str, flags: int) -> int:
    special = OSError(errno.EINVAL, "is a device or a pipe, not a file", path)
    try:
        # Without O_NONBLOCK, opening a pipe would wait.
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    except OSError as problem:
        # Sockets and some devices cannot be opened at all; a disk that is gone looks the same.
        if problem.errno in (errno.ENXIO, errno.ENODEV) and not os.path.isfile(path):
            raise special from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise special


class _RemoteFile(io.RawIOBase):
    """A file of TensorFlow's file systems as a proper Python file, which `GFile` is not quite."""

    def __init__(self, path: str):
        import tensorflow as tf

        self._file = tf.io.gfile.GFile(path, "rb")
        self._size = file_size(path)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._place)
        found = self._file.read(min(len(buffer), max(0, self._size - self._place)))
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def file_size(path: str | os.PathLike) -> int:
    """Size of a file in bytes."""
    if not is_remote(path):
        return os.stat(path).st_size
    import tensorflow as tf

    return tf.io.gfile.stat(os.fspath(path)).length


def packed(start: bytes) -> str:
    """How a file is compressed that must not be; empty if in no known way."""
    found = next((name for name, mark in _PACKED.items() if start.startswith(mark)), "")
    return f"{COMPRESSED} with {found}" if found else ""


def exists(path: str | os.PathLike) -> bool:
    """Whether there is such a file or folder."""
    if not is_remote(path):
        return os.path.exists(path)
    import tensorflow as tf

    return tf.io.gfile.exists(os.fspath(path))


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is a file, rather than a folder, device or pipe."""
    if not is_remote(path):
        return os.path.isfile(path)
    import tensorflow as tf

    return tf.io.gfile.exists(os.fspath(path)) and not tf.io.gfile.isdir(os.fspath(path))


def join(root: str | os.PathLike, name: str) -> str:
    """The path of a file in a folder."""
    return f"{os.fspath(root).rstrip('/')}/{name}" if is_remote(root) else os.path.join(root, name)


def walk(
    root: str | os.PathLike, left: Callable[[str, str], Any] = lambda name, reason: None
) -> Iterator[tuple[str, list[str]]]:
    """(path relative to the root with forward slashes, sorted names of the files) of every folder,
    in order; hidden ones are left out.

    Links to folders are followed, except links into the root, whose files are read in their own
    place, and links to a folder that another link leads to.

    Args:
        root: the folder.
        left: called with the name of each file and folder that is left out, and why.
    """
    if is_remote(root):
        import tensorflow as tf

        steps = tf.io.gfile.walk(os.fspath(root))
    else:

        def failed(problem: OSError) -> None:
            """Leave the folder out, unless the machine is at fault."""
            if of_the_machine(problem):
                raise problem
            inside = os.path.relpath(os.fspath(problem.filename), root).replace(os.sep, "/")
            left(f"{inside}/", f"cannot be listed: {problem.strerror}")

        steps = os.walk(root, onerror=failed, followlinks=True)
    base = os.fspath(root).rstrip("/" if is_remote(root) else os.sep)
    links = Links(base or os.sep)
    for folder, folders, names in steps:
        inside = os.fspath(folder)[len(base) :].strip("/\\").replace(os.sep, "/")
        before = f"{inside}/" if inside else ""
        kept = []
        for name in sorted(name.rstrip("/") for name in folders):
            reason = HIDDEN if name.startswith(".") else None
            if not reason and not is_remote(root):
                reason = links.problem(os.path.join(folder, name))
            if reason:
                left(f"{before}{name}/", reason)
            else:
                kept.append(name)
        # In place: a top-down walk visits the folders in this list.
        folders[:] = kept
        if any(part.startswith(".") for part in PurePosixPath(inside).parts):
            continue
        for name in names:
            if name.startswith("."):
                left(before + name, HIDDEN)
        yield inside, sorted(name for name in names if not name.startswith("."))


class _Descriptor:
    """An open file that is closed when no longer referenced; a Python file would warn."""

    def __init__(self, path: str):
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self):
        if self.number >= 0:
            os.close(self.number)


def same_file(root: str | os.PathLike, name: str) -> str | None:
    """The file that a table names differently from the file system: with backslashes, or with
    accents composed or decomposed; `None` if there is none.

    Args:
        root: the folder.
        name: the name in the table; no file has exactly this name.
    """
    found = os.fspath(root)
    for part in name.replace("\\", "/").split("/"):
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        paths = (join(found, form) for form in forms)
        there = next((path for path in paths if exists(path)), None)
        if there is None:
            return None
        found = there
    return found


class FileBytes:
    """Reads pieces of a list of files.

    Args:
        paths: the files.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = list(paths)
        self._open = OpenFiles(self.paths, _Descriptor)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Read a piece of one file.

        Args:
            number: which file.
            offset: where the piece begins.
            size: how long it is.

        Raises:
            OSError: if the file cannot be read, or ends too early.
        """
        path = self.paths[number]
        if is_remote(path):
            with open_file(path) as file:  # the file system below reads ahead and caches
                file.seek(offset)
                found = file.read(size)
        else:
            file = self._open[number]  # kept open while it is read
            found = os.pread(file.number, size, offset)
        if len(found) != size:
            raise OSError(f"{os.path.basename(path)} ends before byte {offset + size}")
        return found


def require_files(files: Any, what: str) -> list[str]:
    """Return paths as a list of strings, or raise unless they exist."""
    single = isinstance(files, str | os.PathLike) or not isinstance(files, Sequence)
    if single or not files or not all(isinstance(file, str | os.PathLike) for file in files):
        raise checks.error(
            f"there must be a list of at least one {what}",
            fix="pass a list of paths",
            files=files,
        )
    paths = [os.fspath(file) for file in files]
    missing = [path for path in paths if not exists(path)]
    if missing:
        raise checks.error(
            "all files must be there",
            fix="copy the missing files, or write them again",
            missing=missing[:3],
        )
    return paths

"""A folder of picture files: captions beside them, folders as classes."""

import os
import re
from collections.abc import Collection, Sequence

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import MAX_SKIPPED, Unusable, reason_of
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.base import ImageSource, Record
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.strings import Strings
from keras_mdm.data.sources.texts import text_of

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Larger files are no pictures: those of the most pixels that are read have half as many, unpacked.
MAX_BYTES = 2**30


class FolderImages(ImageSource):
    """Pictures of a folder and its sub-folders.

    The caption of `horse.jpg` is the text of `horse.txt` beside it, one caption a line; without
    one, the name of the file. The class of a picture is the top sub-folder that it is in.

    Args:
        directory: the folder; a URL that TensorFlow can list will do.
        extensions: endings of picture files, in any case.
        max_skipped: see `ImageSource`.

    Raises:
        ValueError: if there is no such folder, or it holds no pictures.

    Example:

    >>> source = FolderImages("my_pictures")  # doctest: +SKIP
    >>> len(source), source.label_names  # doctest: +SKIP
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        extensions: Collection[str] = EXTENSIONS,
        max_skipped: float = MAX_SKIPPED,
    ):
        self.root = os.fspath(directory)
        endings = tuple(extension.lower() for extension in extensions)
        folders, counts, names, texts = [], [], [], 0
        used, seen = set(), set()
        for folder, files in file_bytes.walk(self.root):
            pictures = [name for name in files if name.lower().endswith(endings)]
            texts += sum(name.endswith(".txt") for name in files)
            top = folder.partition("/")[0]
            seen.add(top)
            if pictures:
                used.add(top)
                folders.append(folder)
                counts.append(len(pictures))
                names.append(pictures)
        if not folders:
            raise checks.error(
                f"the folder must hold pictures ending in {', '.join(sorted(endings))}",
                fix="pass the folder that holds the pictures",
                directory=self.root,
            )
        empty = [Skipped(f"{name}/", "holds no pictures") for name in sorted(seen - used - {""})]
        super().__init__(empty, max_skipped)
        self._folders, self._ends = folders, np.cumsum(counts)
        self._names = Strings(name for group in names for name in group)
        self._has_texts = bool(texts)
        self.label_names = tuple(sorted({f.partition("/")[0] for f in folders} - {""}))
        numbers = {name: number for number, name in enumerate(self.label_names)}
        self._labels = [numbers.get(folder.partition("/")[0], -1) for folder in folders]

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """Path of a picture relative to the folder."""
        folder = self._folders[int(np.searchsorted(self._ends, row, side="right"))]
        return f"{folder}/{self._names[row]}" if folder else self._names[row]

    @property
    def identity(self) -> dict:
        """Number of records, and a SHA-256 of their names."""
        return {
            "records": len(self),
            "sha256": digest(self._folders, self._ends.tolist(), self._names),
        }

    def read(self, row: int) -> Record:
        """Read one picture and its text; see `ImageSource.read`."""
        name = self.name(row)
        path = file_bytes.join(self.root, name)
        data = read_whole(path)
        folder = int(np.searchsorted(self._ends, row, side="right"))
        return Record(name, data, self._captions(path), self._labels[folder])

    def _captions(self, path: str) -> tuple[str, ...]:
        stem = os.path.splitext(path)[0]
        if self._has_texts:
            try:
                with file_bytes.open_file(f"{stem}.txt") as file:
                    text = text_of(file.read())
            # One that is there and cannot be read must not become the name of the file.
            except Exception:
                if file_bytes.exists(f"{stem}.txt"):
                    raise
                text = ""
            lines = tuple(line.strip() for line in text.splitlines() if line.strip())
            if lines:
                return lines
        return (caption_from_name(os.path.basename(stem)),)


def caption_from_name(stem: str) -> str:
    """What the name of a file says: "red_apple" is "red apple"."""
    return " ".join(re.sub(r"[_\s]+", " ", stem).split())


def read_whole(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        Unusable: if it cannot be read.
    """
    try:
        with file_bytes.open_file(path) as file:
            # Holes of a file take no space on the disk, but would in memory.
            size = file.seek(0, os.SEEK_END)
            if size > MAX_BYTES:
                raise Unusable(f"has {size} bytes, more than {MAX_BYTES}")
            file.seek(0)
            return file.read()
    except Unusable:
        raise
    # TensorFlow's file systems have errors of their own.
    except Exception as problem:
        missing = isinstance(problem, FileNotFoundError) or not file_bytes.exists(path)
        raise Unusable("is missing" if missing else reason_of(problem)) from problem


def sorted_files(directory: str, parts: Sequence[str]) -> list[str]:
    """Paths of the files of a folder and its sub-folders with one of some parts in their names."""
    return [
        file_bytes.join(directory, f"{folder}/{name}" if folder else name)
        for folder, names in file_bytes.walk(directory)
        for name in names
        if any(part in name for part in parts)
    ]

"""A folder of picture files: captions beside them, folders as classes."""

import os
import re
from array import array
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import MAX_SKIPPED, Unusable, reason_of
from keras_mdm.data.sources import beside, file_bytes, kinds, splits
from keras_mdm.data.sources.base import ImageSource, Record
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.index_cache import stamp_of_files
from keras_mdm.data.sources.listing import DANGLING, beside_pictures, dangling, kind_of
from keras_mdm.data.sources.parquet_contents import content_of, why_not
from keras_mdm.data.sources.strings import Listed, Strings

EXTENSIONS = kinds.USUAL

# img2dataset's note on one of the folders that it numbers.
_OF_SHARD = re.compile(r"(\d+)_stats\.json")
_ANOTHER = "is another text of a picture, of which one is read"
# Larger files are not pictures: the largest readable picture, unpacked, has half as many bytes.
MAX_BYTES = 2**30


class FolderImages(ImageSource):
    """Pictures of a folder and its sub-folders.

    The captions of `horse.jpg` are the lines of `horse.txt` beside it, of `horse.jpg.txt` or of
    `horse.caption`, or a field `caption` of `horse.json`, with endings in upper or lower case; or,
    if there is no such text, the name of the file. The class of a picture is its top sub-folder.
    Files that are neither pictures nor such texts are listed in `unused`.

    Args:
        directory: the folder, or a URL that TensorFlow can list.
        extensions: endings of picture files, in upper or lower case; those that Pillow cannot
            decode here are listed in `unused`.
        split: read only pictures in folders named after this split (`train`, or `train2017`);
            classes are then the folders below.
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
        extensions: Collection[str] = kinds.PICTURES,
        split: str | None = None,
        max_skipped: float = MAX_SKIPPED,
    ):
        self.root = os.fspath(directory)
        endings = {extension.lower() for extension in extensions}
        endings = tuple(endings - (set(kinds.PICTURES) - set(kinds.decodable())))
        walked = _Walked(self.root, endings, split)
        for folder, files in file_bytes.walk(self.root, walked.leave):
            walked.add(folder, files)
        left = walked.left
        if not walked.folders:
            raise checks.error(
                f"the folder must hold pictures ending in {', '.join(sorted(endings))}",
                fix="pass the folder that holds the pictures",
                directory=self.root,
                **({"not_used": [tuple(entry) for entry in left[:3]]} if len(left) else {}),
            )
        empty = [Skipped(f"{name}/", "holds no pictures") for name in walked.empty]
        super().__init__(empty if split is None else (), max_skipped)
        self.unused, self.found = left, dict(walked.found)
        self.choices = {} if split is None else {"split": split}
        self._folders, self._ends = walked.folders, np.cumsum(walked.counts)
        self._names = Strings(name for group in walked.names for name in group)
        self._beside_rows, self._beside = walked.beside_rows, walked.beside
        self._has_texts = walked.has_texts
        classes = _classes(self._folders, split is not None)
        if walked.shards:
            classes = ["" if name in walked.shards else name for name in classes]
        self.label_names = tuple(sorted(set(classes) - {""}))
        numbers = {name: number for number, name in enumerate(self.label_names)}
        self._labels = [numbers.get(name, -1) for name in classes]

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

    def stamp(self) -> str | None:
        """Paths, sizes and times of the files."""
        names = map(self.name, range(len(self)))
        return stamp_of_files(file_bytes.join(self.root, name) for name in names)

    def read(self, row: int) -> Record:
        """Read one picture and its text; see `ImageSource.read`."""
        name = self.name(row)
        path = file_bytes.join(self.root, name)
        data = read_whole(path)
        folder = int(np.searchsorted(self._ends, row, side="right"))
        return Record(name, data, self._captions(row, path), self._labels[folder])

    def _captions(self, row: int, path: str) -> tuple[str, ...]:
        stem = os.path.splitext(path)[0]
        if self._has_texts:
            text = f"{stem}.txt"
            place = int(np.searchsorted(self._beside_rows, row)) if self._beside_rows else 0
            if place < len(self._beside_rows) and self._beside_rows[place] == row:
                text = file_bytes.join(os.path.dirname(path), self._beside[place])
            found = beside.captions_of_file(text)
            if found is not None:
                return found
        return (caption_from_name(os.path.basename(stem)),)


class _Walked:
    """What was found in the folders so far.

    Attributes:
        folders: folders with pictures that are read.
        counts: number of pictures in each.
        names: names of the pictures in each.
        beside_rows: pictures whose text has an unusual name.
        beside: the names of these texts.
        has_texts: whether there are texts at all.
        left: files that are not used.
        found: number of files of each kind.
        shards: top folders that are parts of a download, not classes.

    Args:
        root: the folder that is walked through.
        endings: endings of pictures.
        split: the split that is read.
    """

    def __init__(self, root: str, endings: tuple[str, ...], split: str | None):
        self._root, self._endings, self._split = root, endings, split
        self.folders, self.counts, self.names = [], [], []
        self.beside_rows, self.beside = array("Q"), Strings()
        self.has_texts = False
        self.left, self.found = Listed(), Counter()
        self.shards: set[str] = set()
        self._used, self._seen, self._rows = set(), set(), 0

    @property
    def empty(self) -> list[str]:
        """The top folders without pictures."""
        return sorted(self._seen - self._used - {""})

    def leave(self, name: str, why: str) -> None:
        """Note a file or folder that is not looked into."""
        self.left.append(name, why)
        self.found["hidden" if why == file_bytes.HIDDEN else "links to folders"] += 1

    def add(self, folder: str, files: Sequence[str]) -> None:
        """Note the files of a folder."""
        before, top = f"{folder}/" if folder else "", folder.partition("/")[0]
        pictures = [name for name in files if name.lower().endswith(self._endings)]
        self.found["pictures"] += len(pictures)
        others = []
        if len(pictures) < len(files):
            known = set(pictures)
            others = [name for name in files if name not in known]
            self.found.update(map(kind_of, others))
        part = splits.of_folder(folder) if self._split is not None else None
        if part != self._split:
            why = splits.not_chosen(part, self._split)
            for name in files:
                self.left.append(before + name, why)
            return
        self._seen.add(top)
        if not folder:
            self.shards = {found[1] for name in others if (found := _OF_SHARD.fullmatch(name))}
        if others:
            self._add_texts(before, pictures, others)
        if pictures:
            self._used.add(top)
            self.folders.append(folder)
            self.counts.append(len(pictures))
            self._rows += len(pictures)
            self.names.append(pictures)

    def _add_texts(self, before: str, pictures: Sequence[str], others: Sequence[str]) -> None:
        """Note the texts beside the pictures of a folder, and the files that are neither."""
        texts = beside.Texts(others)
        self.has_texts |= texts.any
        for row, name in enumerate(pictures if texts.any else ()):
            if other := texts.unusual(name):
                self.beside_rows.append(self._rows + row)
                self.beside.append(other)
        taken = texts.used(pictures)
        more = texts.more(pictures, taken)
        for name in others:
            if name not in taken:
                why = _ANOTHER if name in more else self._why_not(before + name)
                self.left.append(before + name, why)

    def _why_not(self, path: str) -> str:
        """Why a file is neither a picture nor the text of one."""
        if dangling(self._root, path):
            return DANGLING
        name = path.rpartition("/")[2]
        found = None
        if kinds.shard_kind(name) == "Parquet":
            found = why_not(content_of(file_bytes.join(self._root, path)))
        return found or beside_pictures(name)


def _classes(folders: Sequence[str], of_split: bool) -> list[str]:
    """The class of each folder, "" for none: the top folder, or the one below the split if the path
    names one; but the top folder if several folders each contain splits. Folders of one split with
    different names, such as trainA and trainB, are classes as well."""
    if not of_split:
        return [folder.partition("/")[0] for folder in folders]
    found = []
    places = [splits.place_in(folder) for folder in folders]
    parts = [folder.split("/") for folder in folders]
    tops = {tuple(part[:place]) for part, place in zip(parts, places, strict=True)}
    names = {part[place] for part, place in zip(parts, places, strict=True)}
    for part, place in zip(parts, places, strict=True):
        below = part[place + 1 :] or (part[place:] if len(names) > 1 else [""])
        found.append(part[0] if len(tops) > 1 else below[0])
    return found


def caption_from_name(stem: str) -> str:
    """The caption in the name of a file: "red_apple" gives "red apple"."""
    return " ".join(re.sub(r"[_\s]+", " ", stem).split())


def read_whole(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        Unusable: if it cannot be read.
    """
    try:
        with file_bytes.open_file(path) as file:
            # Holes in a file take no space on disk, but would in memory.
            size = file.seek(0, os.SEEK_END)
            if size > MAX_BYTES:
                raise Unusable(f"has {size} bytes, more than {MAX_BYTES}")
            file.seek(0)
            return file.read()
    except Unusable:
        raise
    # TensorFlow's file systems have their own errors.
    except Exception as problem:
        missing = isinstance(problem, FileNotFoundError) or not file_bytes.exists(path)
        raise Unusable("is missing" if missing else reason_of(problem)) from problem

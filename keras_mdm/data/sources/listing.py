"""The contents of a folder: found in one walk, and accounted for in another."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from keras_mdm.data.sources import file_bytes, kinds, splits
from keras_mdm.data.sources.links import leads_nowhere
from keras_mdm.data.sources.parquet_contents import content_of, why_not
from keras_mdm.data.sources.strings import Listed
from keras_mdm.data.sources.table_bytes import is_table

# Why a link is not used whose target, perhaps a whole folder, is missing.
DANGLING = "is a link that leads nowhere"
# Function (path of a folder, names of its files) -> whether each file is used.
Used = Callable[[str, Sequence[str]], Sequence[bool]]


class Survey:
    """Shards, tables and pictures of a folder.

    Args:
        root: the folder.

    Attributes:
        shards: paths relative to the folder, by kind.
        tables: paths of tables, likewise relative.
        pictures: number of pictures.
        splits: splits that folders with pictures belong to.
    """

    def __init__(self, root: str):
        self.root = root
        self.shards: dict[str, list[str]] = defaultdict(list)
        self.tables: list[str] = []
        self.pictures, self.splits = 0, set()
        self._contents: dict[str, str] = {}
        numbered = []
        for folder, names in file_bytes.walk(root):
            pictures = 0
            for name in names:
                if name.lower().endswith(kinds.PICTURES):
                    pictures += 1
                    continue
                path = f"{folder}/{name}" if folder else name
                if kind := kinds.shard_kind(name):
                    self.shards[kind].append(path)
                elif is_table(name):
                    self.tables.append(path)
                elif kinds.is_unnamed_tfrecord(file_bytes.join(root, path)):
                    self.shards["TFRecord"].append(path)
                elif kinds.numbered_stem(path):
                    numbered.append(path)
            if pictures:
                self.pictures += pictures
                self.splits.add(splits.of_folder(folder))
        # Beside readable parts of the same whole, the others are damaged parts.
        unnamed = (path for path in self.shards.get("TFRecord", ()) if not kinds.shard_kind(path))
        known = set(map(kinds.numbered_stem, unnamed))
        damaged = [path for path in numbered if kinds.numbered_stem(path) in known]
        if damaged:
            self.shards["TFRecord"] = sorted(self.shards["TFRecord"] + damaged)

    def content(self, shard: str) -> str:
        """What a Parquet file is for, see `content_of`; its end is read once.

        Args:
            shard: its path in the folder.
        """
        if shard not in self._contents:
            self._contents[shard] = content_of(file_bytes.join(self.root, shard))
        return self._contents[shard]

    def why_not(self, path: str, reason: Callable[[str], str]) -> str:
        """Why a file is not used; of Parquet files only the content tells.

        Args:
            path: its path in the folder.
            reason: why another file is not used.
        """
        if kinds.shard_kind(path) != "Parquet":
            return reason(path)
        return why_not(self.content(path)) or reason(path)


def account(root: str, used: Used, reason: Callable[[str], str]) -> tuple[Listed, Counter]:
    """The files of a folder that are not used, and how many there are of each kind.

    Args:
        root: the folder.
        used: which files are used.
        reason: why a file is not used, by its path in the folder.
    """
    left, found = Listed(), Counter()

    def leave(name: str, why: str) -> None:
        left.append(name, why)
        found["hidden" if why == file_bytes.HIDDEN else "links to folders"] += 1

    for folder, names in file_bytes.walk(root, leave):
        for name, is_used in zip(names, used(folder, names), strict=True):
            found[kind_of(name)] += 1
            if not is_used:
                path = f"{folder}/{name}" if folder else name
                left.append(path, DANGLING if dangling(root, path) else reason(path))
    return left, found


def dangling(root: str, path: str) -> bool:
    """Whether a file of a folder is a link that leads nowhere."""
    return not file_bytes.is_remote(root) and leads_nowhere(file_bytes.join(root, path))


def kind_of(name: str) -> str:
    """The name of a file's kind in an overview."""
    if name.lower().endswith(kinds.PICTURES):
        return "pictures"
    if kind := kinds.shard_kind(name):
        return f"{kind} files"
    if kinds.ending_of(name) == ".arrow":
        return "Arrow files"
    if is_table(name):
        return "tables"
    return "texts" if kinds.ending_of(name) in kinds.BESIDE else "other files"


def listed(paths: Sequence[str]) -> Used:
    """A `Used` that says that the files of a list are used."""
    known = set(paths)
    return lambda folder, names: [
        (f"{folder}/{name}" if folder else name) in known for name in names
    ]


def named(tables: Sequence[str], hashes: Sequence[np.ndarray]) -> Used:
    """A `Used` that says that tables are used, and the files that they name.

    Args:
        tables: paths of the tables.
        hashes: `name_hash` of the names in each table.
    """
    own = listed(tables)
    sets = [
        (f"{folder}/" if (folder := table.rpartition("/")[0]) else "", np.unique(found))
        for table, found in zip(tables, hashes, strict=True)
    ]

    def used(folder: str, names: Sequence[str]) -> Sequence[bool]:
        found = np.asarray(own(folder, names), bool)
        before = f"{folder}/" if folder else ""
        for prefix, known in sets:
            if before.startswith(prefix):
                inside = before[len(prefix) :]
                keys = np.array([name_hash(inside + name) for name in names], np.int64)
                found |= np.isin(keys, known)
        return found

    return used


def name_hash(name: str) -> int:
    """A number that identifies the name of a file within one run, however a table writes it."""
    if not name.isascii() or "\\" in name or "./" in name or "//" in name:
        name = os.path.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    return hash(name)


def beside_shards(path: str) -> str:
    """Why a file beside shards is not used."""
    return _reason(
        path,
        tables="is a table beside records that hold their captions",
        texts="is a text beside records that hold their captions",
    )


def beside_tables(path: str) -> str:
    """Why a file is not used if a table says what is read."""
    return _reason(
        path,
        pictures="is a picture that the table does not name",
        tables="is a table, but another one is read",
        texts="is a text, but the table gives the captions",
    )


def beside_pictures(path: str) -> str:
    """Why a file is not used in a folder of pictures."""
    reasons = {
        "pictures": "is a picture with an ending that is not read here",
    }
    if kinds.ending_of(path) == ".json":
        reasons["tables"] = "is not a list of objects that name pictures"
    return _reason(path, **reasons)


def _reason(path: str, **reasons: str) -> str:
    """The reason given for the kind of a file, see `kind_of`, or else the general one."""
    name = path.rpartition("/")[2]
    return reasons.get(kind_of(name)) or kinds.reason_of(name)

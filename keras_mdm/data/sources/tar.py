"""WebDataset tar shards, such as img2dataset writes: read at random, without unpacking."""

import json
import os
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import MAX_SKIPPED, Unusable
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.base import ImageSource, Record, class_number
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.folder import EXTENSIONS
from keras_mdm.data.sources.index_cache import Index, index_files
from keras_mdm.data.sources.table import CAPTION
from keras_mdm.data.sources.texts import text_of

# Members begin at multiples of this, so that 32 bits reach 2 TB.
_BLOCK = 512
_PICTURE = tuple(ending.lstrip(".") for ending in EXTENSIONS)
# Parts of a record beside the picture, by the ending of the member.
_PARTS = ("txt", "json", "cls")
_COLUMNS = ("picture", *_PARTS)
# What is behind a place from which on a shard cannot be read.
_REST = "the rest"


class TarImages(ImageSource):
    """Pictures of WebDataset shards: `000.jpg`, `000.txt`, `000.json`, `000.cls` are one record.

    A caption is the text of the `txt` member, else `caption` or `text` of the `json` member; a
    class is the number of the `cls` member. Of a shard only the places of its members are kept,
    32 bytes a record; they are found once and cached.

    Args:
        shards: paths of uncompressed tar files, in the order of the records.
        max_skipped: see `ImageSource`.
        cache_dir: where indexes are kept, as in `keras_mdm.assets.cache_root`.
        progress: show a bar while shards are indexed.

    Raises:
        ValueError: if there are no shards, or none holds a picture.

    Example:

    >>> source = TarImages(sorted(Path("cc12m").glob("*.tar")))  # doctest: +SKIP

    Reference: github.com/webdataset/webdataset for the layout.
    """

    def __init__(
        self,
        shards: Sequence[str | os.PathLike],
        *,
        max_skipped: float = MAX_SKIPPED,
        cache_dir: str | os.PathLike | None = None,
        progress: bool = True,
    ):
        paths = file_bytes.require_files(shards, "tar shard")
        found = index_files(paths, _index, kind="tar", cache_dir=cache_dir, progress=progress)
        left_out = []
        for path, index in zip(paths, found, strict=True):
            for name, reason in zip(index["bad_name"], index["bad_reason"], strict=True):
                left_out.append(Skipped(f"{os.path.basename(path)}: {name}", str(reason)))
        self._members = np.concatenate([index["members"] for index in found])
        counts = [len(index["members"]) for index in found]
        self._ends = np.cumsum(counts)
        self._bytes = file_bytes.FileBytes(paths)
        if not len(self._members):
            raise checks.error(
                "the shards must hold pictures",
                fix="check that they are uncompressed tar files with members such as 000.jpg",
                shards=paths[:3],
                left_out=left_out[:3],
            )
        self._digest = digest(
            map(os.path.basename, paths), counts, [self._members[:, :, 1].sum(dtype=np.uint64)]
        )
        super().__init__(left_out, max_skipped)
        self.check_shards([bad for bad in left_out if bad.file.endswith(_REST)], len(paths))
        self.check_share()

    def __len__(self) -> int:
        return len(self._members)

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._ends, row, side="right"))

    def name(self, row: int) -> str:
        """Shard, and where in it."""
        path = self._bytes.paths[self._shard(row)]
        return f"{os.path.basename(path)}: byte {int(self._members[row, 0, 0]) * _BLOCK}"

    @property
    def identity(self) -> dict[str, Any]:
        """Number of records, and a SHA-256 of shards, counts and sizes."""
        return {"records": len(self), "sha256": self._digest}

    def read(self, row: int) -> Record:
        """Read one picture and what belongs to it; see `ImageSource.read`."""
        shard = self._shard(row)
        parts = {}
        for part, (block, size) in zip(_COLUMNS, self._members[row].tolist(), strict=True):
            # Block 0 is the header of the first member: no member's content begins there.
            if block:
                try:
                    parts[part] = self._bytes.read(shard, block * _BLOCK, size)
                except OSError as problem:
                    raise Unusable(f"cannot be read: {problem}") from problem
        return Record(
            f"{shard}:{row}", parts["picture"], _captions(parts), class_number(parts.get("cls"))
        )


def _captions(parts: dict[str, bytes]) -> tuple[str, ...]:
    if parts.get("txt"):
        return (text_of(parts["txt"]).strip(),)
    if parts.get("json"):
        try:
            fields = json.loads(text_of(parts["json"]))
        except ValueError:
            return ()
        if not isinstance(fields, dict):
            return ()
        found = next((fields[name] for name in CAPTION if fields.get(name)), ())
        return tuple(map(str, found)) if isinstance(found, list) else (str(found),) * bool(found)
    return ()


def _index(path: str) -> Index:
    """Places of the members of one shard, by record, in the order of the pictures."""
    rows: dict[str, np.ndarray] = {}
    bad = []
    try:
        with file_bytes.open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as shard:
            for member in shard:
                shard.members = []  # or it keeps all of them
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                ending = ending.lower()
                part = "picture" if ending in _PICTURE else ending
                if part not in _COLUMNS or not stem:
                    continue
                if member.size >= 2**32:
                    bad.append((member.name, f"has {member.size} bytes"))
                    continue
                column = _COLUMNS.index(part)
                row = rows.setdefault(f"{folder}/{stem}", np.zeros((len(_COLUMNS), 2), np.uint32))
                if row[column, 0]:
                    bad.append((member.name, "is there before"))
                    continue
                row[column] = member.offset_data // _BLOCK, member.size
    # What is before a cut is used; a file that is no tar gives nothing.
    except (tarfile.TarError, OSError, EOFError) as problem:
        bad.append((_REST, f"cannot be read: {problem}"))
    whole = {key: row for key, row in rows.items() if row[0, 0]}
    bad += [(key.lstrip("/"), "has no picture") for key in rows.keys() - whole.keys()]
    members = np.stack(list(whole.values())) if whole else np.zeros((0, len(_COLUMNS), 2))
    return {
        "members": members.astype(np.uint32),
        "bad_name": np.asarray([name for name, _ in bad], np.str_),
        "bad_reason": np.asarray([reason for _, reason in bad], np.str_),
    }

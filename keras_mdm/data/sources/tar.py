"""WebDataset tar shards, such as those of img2dataset: read at random, without unpacking."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import MAX_SKIPPED, Unusable, reason_of
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.base import ImageSource, Record, class_number
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.index_cache import index_files, stamp_of_files
from keras_mdm.data.sources.strings import short_names
from keras_mdm.data.sources.table import CAPTION
from keras_mdm.data.sources.tar_index import COLUMNS, REST, fits, index_of, unreadable
from keras_mdm.data.sources.tar_members import BLOCK
from keras_mdm.data.sources.texts import captions_in, text_of


class TarImages(ImageSource):
    """Pictures of WebDataset shards: `000.jpg`, `000.txt`, `000.json`, `000.cls` form one record.

    A caption is the text of the `txt` member, else `caption` or `text` of the `json` member; a
    class is the number of the `cls` member. Only the places of a shard's members are kept, 32 bytes
    per record; they are found once and cached.

    Args:
        shards: paths of uncompressed tar files, in the order of the records.
        max_skipped: see `ImageSource`.
        cache_dir: where indexes are kept, as in `keras_mdm.assets.cache_root`.
        progress: show a progress bar while shards are indexed.

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
        found = index_files(
            paths,
            index_of,
            unreadable,
            fits,
            kind="tar",
            version=5,
            cache_dir=cache_dir,
            progress=progress,
        )
        left_out, unused = [], []
        self._shown = short_names(paths)
        for path, index in zip(self._shown, found, strict=True):
            for listed, kind in ((left_out, "bad"), (unused, "unused")):
                names, reasons = index[f"{kind}_name"], index[f"{kind}_reason"]
                for name, reason in zip(names, reasons, strict=True):
                    listed.append(Skipped(f"{path}: {name}", str(reason)))
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
        self.unused = tuple(unused)
        cut = [bad for bad in left_out if bad.file.endswith(f": {REST}")]
        self.check_shards(cut, len(paths), usable=len(self))
        self.check_share()

    def __len__(self) -> int:
        return len(self._members)

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._ends, row, side="right"))

    def name(self, row: int) -> str:
        """Shard, and place in it."""
        return f"{self._shown[self._shard(row)]}: byte {int(self._members[row, 0, 0]) * BLOCK}"

    @property
    def identity(self) -> dict[str, Any]:
        """Number of records, and a SHA-256 of shards, counts and sizes."""
        return {"records": len(self), "sha256": self._digest}

    def stamp(self) -> str | None:
        """Paths, sizes and times of the shards."""
        return stamp_of_files(self._bytes.paths, self.identity)

    def read(self, row: int) -> Record:
        """Read one picture and what belongs to it; see `ImageSource.read`."""
        shard = self._shard(row)
        parts = {}
        for part, (block, size) in zip(COLUMNS, self._members[row].tolist(), strict=True):
            # Block 0 is the header of the first member: no member's content begins there.
            if block:
                try:
                    parts[part] = self._bytes.read(shard, block * BLOCK, size)
                except OSError as problem:
                    raise Unusable(f"cannot be read: {problem}") from problem
        return Record(
            f"{shard}:{row}",
            parts["picture"],
            _captions(parts),
            class_number(text_of(parts.get("cls", b""))),
        )


def _captions(parts: dict[str, bytes]) -> tuple[str, ...]:
    if parts.get("txt"):
        return (text_of(parts["txt"]).strip(),)
    if not parts.get("json"):
        return ()
    try:
        fields = json.loads(text_of(parts["json"]))
    except (ValueError, RecursionError) as problem:  # or is nested too deeply
        raise Unusable(f"its json {reason_of(problem)}") from problem
    if not isinstance(fields, dict):
        return ()
    return next(filter(None, (captions_in(fields.get(name)) for name in CAPTION)), ())

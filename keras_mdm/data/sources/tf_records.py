"""Readers of TFRecord files."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm.data.base import Skipped
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.index_cache import Index, index_files
from keras_mdm.data.sources.strings import short_names


class TFRecords:
    """Records of TFRecord files, at places that are found once and cached.

    Args:
        paths: the files.
        **options: as in `index_files`.

    Attributes:
        counts: number of records in each.
        broken: files that cannot be read, or not to their end.
    """

    def __init__(self, paths: Sequence[str], **options: Any):
        found = index_files(
            paths, _index, _unreadable, _fits, kind="tfrecord", version=2, **options
        )
        self._places = [index["place"] for index in found]
        self._sizes = [index["size"] for index in found]
        self.counts = [len(places) for places in self._places]
        self.broken = []
        for path, shown, index in zip(paths, short_names(paths), found, strict=True):
            reason = str(index["reason"]) if "reason" in index else ""
            if not reason and index["end"] != file_bytes.file_size(path):
                reason = f"cannot be read from byte {int(index['end'])} on"
                with file_bytes.open_file(path) as file:
                    packed = file_bytes.packed(file.read(6)) if not index["end"] else ""
                reason += f": {packed}" if packed else ""
            if reason:
                self.broken.append(Skipped(shown, reason))
        self._bytes = file_bytes.FileBytes(paths)

    def read(self, file: int, record: int) -> bytes:
        """The bytes of a record.

        Args:
            file: number of the file.
            record: number of the record in it.
        """
        place, size = int(self._places[file][record]), int(self._sizes[file][record])
        data = self._bytes.read(file, place, size + 4)
        if not _holds(data):
            raise OSError("the content does not match its checksum")
        return data[:-4]


def _holds(data: bytes) -> bool:
    """Whether the last four bytes are the checksum of the others, as TFRecord masks it."""
    import google_crc32c

    found = google_crc32c.value(data[:-4])
    rotated = (found >> 15 | found << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF == int.from_bytes(data[-4:], "little")


def _index(path: str) -> Index:
    """Place and size of every record of a TFRecord file, and the byte where its records end."""
    places, sizes = [], []
    total, position = file_bytes.file_size(path), 0
    with file_bytes.open_file(path) as file:
        while position + 12 <= total:
            file.seek(position)
            # Length and its checksum before, the checksum of the content after.
            header = file.read(12)
            (size,) = struct.unpack("<Q", header[:8])
            if position + 16 + size > total or not _holds(header):
                break
            places.append(position + 12)
            sizes.append(size)
            position += 16 + size
    return {
        "place": np.asarray(places, np.uint64),
        "size": np.asarray(sizes, np.uint32),
        "end": np.asarray(position, np.uint64),
    }


def _unreadable(reason: str) -> Index:
    nothing, end = np.zeros(0, np.uint64), np.asarray(0, np.uint64)
    return {"place": nothing, "size": nothing, "end": end, "reason": np.asarray(reason)}


def _fits(found: Index) -> bool:
    place, size, end = found["place"], found["size"], found["end"]
    return (
        place.ndim == size.ndim == 1
        and len(place) == len(size)
        and end.ndim == 0
        and [column.dtype for column in (place, size, end)] == [np.uint64, np.uint32, np.uint64]
    )

"""Readers of ArrayRecord files."""

import os
from collections.abc import Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import reason_of
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.strings import short_names
from keras_mdm.open_files import OpenFiles


def open_array_record(path: str) -> Any:
    """Open an ArrayRecord file for reading at random.

    Args:
        path: the file, on this machine.

    Raises:
        OSError: if it cannot be opened; without an errno if it is not an ArrayRecord file.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    # A pipe would wait for a writer, and the reader does not say what is wrong.
    with file_bytes.open_file(path):
        pass
    # Without reading ahead, which is wasted on random access.
    reader = ArrayRecordReader(os.fsencode(path), options="readahead_buffer_size:0")
    if not reader.ok():
        # The reader does not say why. If no descriptors are left, `open` does.
        with open(path, "rb"):
            reader = ArrayRecordReader(os.fsencode(path), options="readahead_buffer_size:0")
        if not reader.ok():
            raise OSError("is not an ArrayRecord file")
    return reader


class ArrayRecords:
    """Records of ArrayRecord files, which contain their own index.

    Args:
        paths: the files.
        **_: ignored.

    Attributes:
        counts: number of records in each.
        broken: files that cannot be read.
    """

    def __init__(self, paths: Sequence[str], **_: Any):
        self._readers = OpenFiles(paths, open_array_record)
        self.counts, self.broken = [], []
        for number, (path, shown) in enumerate(zip(paths, short_names(paths), strict=True)):
            if file_bytes.is_remote(path):
                raise checks.error(
                    "ArrayRecord files must be on this machine",
                    fix="copy them, or mount the bucket",
                    path=path,
                )
            try:
                self.counts.append(self._readers[number].num_records())
            except Exception as problem:
                self.broken.append(Skipped(shown, reason_of(problem)))
                self.counts.append(0)

    def read(self, file: int, record: int) -> bytes:
        """The bytes of a record.

        Args:
            file: number of the file.
            record: number of the record in it.
        """
        return self._readers[file].read([record])[0]

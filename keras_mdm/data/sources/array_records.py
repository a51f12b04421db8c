"""Readers of ArrayRecord files."""

import os
from typing import Any

from keras_mdm.data.sources import file_bytes


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

"""Tables that cannot be read row by row in place: packed ones, JSON lists, Parquet."""

import gzip
import io
import json
import os
import zlib
from typing import Any

from keras_mdm import checks
from keras_mdm.data.sources import file_bytes, kinds
from keras_mdm.data.sources.texts import text_of

PACKED = tuple(f"{ending}.gz" for ending in kinds.TABLES)
# Another name for a table without bytes of pictures, in Hugging Face's layout.
_METADATA = "metadata"
# Most bytes that are held in memory as a whole.
MAX_BYTES = 2 << 30
# Most bytes of a line that shows how a .json file is written.
_LONGEST_LINE = 1 << 20


def is_table(name: str) -> bool:
    """Whether a file is a table by its name; of .json files, only `metadata.json` is one."""
    lowered = name.lower()
    if lowered.endswith((*kinds.TABLES, *PACKED)):
        return True
    return lowered == f"{_METADATA}.json"


def is_metadata(name: str) -> bool:
    """Whether a file is called metadata, whatever its ending."""
    return os.path.basename(name).lower().partition(".")[0] == _METADATA


class InMemory:
    """The bytes of a table, read by place.

    Args:
        data: all bytes.
    """

    def __init__(self, data: bytes):
        self.data = data

    def read(self, number: int, offset: int, size: int) -> bytes:
        """A piece of the bytes."""
        return self.data[offset : offset + size]


def load(path: str) -> tuple[str, InMemory | None]:
    """The ending that says how a table is read, and its bytes if it cannot be read in place.

    Args:
        path: path of the table.

    Raises:
        ValueError: if it is damaged, too large, or not a table.
    """
    lowered = path.lower()
    ending = kinds.ending_of(path)
    if lowered.endswith(PACKED):
        return kinds.ending_of(lowered.removesuffix(".gz")), InMemory(_unpacked(path))
    if ending == ".json" and is_json_lines(path):
        return ".jsonl", None
    if ending == ".json":
        return ".jsonl", InMemory(_lines(path, _objects(path)))
    if kinds.shard_kind(path) == "Parquet":
        return ".jsonl", InMemory(_lines(path, _rows(path)))
    return ending, None


def has_no_lines(path: str) -> bool:
    """Whether a table is one JSON document, or Parquet."""
    if kinds.ending_of(path) == ".json":
        return not is_json_lines(path)
    return kinds.shard_kind(path) == "Parquet"


def _too_large(path: str) -> ValueError:
    return checks.error(
        f"a packed table, or one in JSON or Parquet, may have at most {MAX_BYTES} bytes as lines",
        fix="write it as .jsonl or .csv, which is read row by row",
        table=path,
    )


def _unpacked(path: str) -> bytes:
    try:
        with file_bytes.open_file(path) as file, gzip.open(file) as opened:
            data = opened.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise checks.error(
            "a packed table must be whole",
            fix="copy it again, or unpack it",
            table=path,
            problem=str(problem),
        ) from problem
    if len(data) > MAX_BYTES:
        raise _too_large(path)
    return data


def is_json_lines(path: str) -> bool:
    """Whether a .json file holds one object a line, as pandas and Hugging Face write it."""
    with file_bytes.open_file(path) as file:
        first, second = file.readline(_LONGEST_LINE), file.readline(_LONGEST_LINE)
    try:
        return isinstance(json.loads(text_of(first)), dict) and second.lstrip().startswith(b"{")
    except (ValueError, RecursionError):
        return False


def lists_files(path: str) -> bool:
    """Whether a .json file is a list of objects, rather than a description of the data."""
    if file_bytes.is_file(path) and is_json_lines(path):
        return True
    if file_bytes.file_size(path) > MAX_BYTES // 8:
        raise _too_large(path)
    if not file_bytes.is_file(path):
        return True  # opening it will report the problem
    try:
        return bool(_objects(path))
    except ValueError:
        with file_bytes.open_file(path) as file:
            start = text_of(file.read(64))
        # Otherwise names of files would replace the captions of a damaged list.
        if start.lstrip().startswith("["):
            raise
        return False


def json_of(path: str) -> Any:
    """What a JSON file holds, or raise if it is no JSON."""
    with file_bytes.open_file(path) as file:
        content = file.read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise checks.error(
            "a table in JSON must be a list of objects",
            fix="write one object a line into metadata.jsonl",
            table=path,
            problem=str(problem),
        ) from problem


def _objects(path: str) -> list[dict[str, Any]]:
    found = json_of(path)
    # Others among the objects are listed as rows that cannot be used.
    rows = isinstance(found, list) and any(isinstance(row, dict) for row in found)
    return found if rows else []


def _rows(path: str) -> Any:
    import pyarrow.parquet

    with file_bytes.open_file(path) as file:
        opened = pyarrow.parquet.ParquetFile(file)
        for batch in opened.iter_batches():
            for row in batch.to_pylist():
                yield {name: _named(value) for name, value in row.items()}


def _named(value: Any) -> Any:
    """The name of a picture, for a `{bytes, path}` without bytes."""
    return value["path"] if isinstance(value, dict) and value.keys() == {"bytes", "path"} else value


def _lines(path: str, rows: Any) -> bytes:
    buffer = io.BytesIO()
    for row in rows:
        buffer.write(json.dumps(row, default=str).encode() + b"\n")
        if buffer.tell() > MAX_BYTES:
            raise _too_large(path)
    return buffer.getvalue()

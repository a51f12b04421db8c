"""What a Parquet file is for: it may hold pictures, name them like a table, or do neither."""

import json
from typing import Any

from keras_mdm.data.skipping import reason_of
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.examples import IMAGE
from keras_mdm.data.sources.kinds import FILE

# Columns in which img2dataset notes what it could not download.
_OF_DOWNLOADS = {"status", "error_message"}
PICTURES, NAMES, NEITHER, UNREADABLE = "pictures", "names", "neither", "unreadable"


def content_of(path: str) -> str:
    """What a Parquet file holds: `PICTURES`, `NAMES` of pictures, or `NEITHER`; or `UNREADABLE`.

    Pictures of which only the names are there, as Hugging Face's `{bytes, path}` allows, are names.

    Args:
        path: the file.
    """
    import pyarrow.parquet

    try:
        with file_bytes.open_file(path) as file:
            opened = pyarrow.parquet.ParquetFile(file)
            meta, schema = opened.metadata, opened.schema_arrow
    except Exception as problem:
        reason_of(problem)  # raises what is not the file's fault
        return UNREADABLE
    pictures = pictures_in(schema)
    if any(not _without_bytes(meta, schema.field(name)) for name in pictures):
        return PICTURES
    named = [name for name in FILE if name in schema.names]
    return NAMES if any(_is_name(schema.field(name).type) for name in named) else NEITHER


def why_not(content: str) -> str | None:
    """Why a Parquet file is not used, given what it holds; `None` for pictures.

    Args:
        content: from `content_of`.
    """
    return {
        NAMES: "is a table in Parquet, but not the one that is read",
        NEITHER: "is a Parquet file without pictures",
        UNREADABLE: "is a Parquet file that cannot be read: copy or write it again",
    }.get(content)


def pictures_in(schema: Any) -> list[str]:
    """The columns with usual names that hold bytes of pictures, not names of files; else columns
    of Hugging Face's pictures.

    Args:
        schema: Arrow schema of a file.
    """
    import pyarrow

    def is_picture(field: Any) -> bool:
        kind = field.type
        both = pyarrow.types.is_struct(kind) and {"bytes", "path"} == {one.name for one in kind}
        return both and feature_of(schema, field.name).get("_type", "Image") == "Image"

    names = (name for name in IMAGE if name in schema.names)
    usual = [name for name in names if holds_bytes(schema.field(name).type)]
    # Hugging Face's pictures have this type, under any name.
    return usual or [field.name for field in schema if is_picture(field)]


def holds_bytes(kind: Any) -> bool:
    """Whether values of an Arrow type may be pictures: bytes, or `{bytes, path}`."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def downloads(opened: Any, group: int) -> list[str | None]:
    """Why each row of a group has no picture, `None` if it has one, as img2dataset notes it; an
    empty list if nothing is noted.

    Args:
        opened: a `pyarrow.parquet.ParquetFile`.
        group: number of the group.
    """
    if not _OF_DOWNLOADS <= set(opened.schema_arrow.names):
        return []
    noted = opened.read_row_group(group, columns=["status"]).column("status").to_pylist()
    failed = [str(value).startswith("failed") for value in noted]
    return [
        f"has no picture: {value}" if fails else None
        for value, fails in zip(noted, failed, strict=True)
    ]


def feature_of(schema: Any, column: str) -> dict[str, Any]:
    """What Hugging Face's datasets notes about a column; empty if nothing.

    Args:
        schema: Arrow schema of a file.
        column: name of the column.
    """
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _without_bytes(meta: Any, field: Any) -> bool:
    """Whether all pictures of a column are given by their names only."""
    import pyarrow

    if not pyarrow.types.is_struct(field.type) or field.type.get_field_index("path") < 0:
        return False
    wanted, empty = f"{field.name}.bytes", False
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        columns = map(group.column, range(group.num_columns))
        column = next((found for found in columns if found.path_in_schema == wanted), None)
        statistics = column.statistics if column is not None else None
        if statistics is None or statistics.null_count != group.num_rows:
            return False
        empty = True
    return empty


def _is_name(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):  # {bytes, path} without bytes
        return kind.get_field_index("path") >= 0
    return is_text(kind) and not pyarrow.types.is_binary(kind)


def is_text(kind: Any) -> bool:
    """Whether values of an Arrow type are texts, or bytes that may be."""
    import pyarrow

    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    types = pyarrow.types
    known = (types.is_string, types.is_large_string, types.is_string_view)
    return any(rule(kind) for rule in (*known, types.is_binary, types.is_large_binary))

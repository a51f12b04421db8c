"""Columns of Arrow tables: which are the picture, its captions and its class, and their values."""

from typing import Any

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.sources.examples import CAPTION, IMAGE, LABEL
from keras_mdm.data.sources.parquet_contents import (
    feature_of,
    holds_bytes,
    is_text,
    pictures_in,
)
from keras_mdm.data.sources.texts import captions_in, text_of

__all__ = ["choose", "class_name", "is_text", "names_of_classes", "not_chosen", "texts_in"]


def choose(schema: Any, wanted: dict[str, str | None]) -> dict[str, str | None]:
    """The columns to use.

    Args:
        schema: Arrow schema of the first file.
        wanted: names for "image", "caption" and "label" that the user gave.

    Raises:
        ValueError: if there is no such column, or none of pictures.
    """
    usual = {"image": IMAGE, "caption": CAPTION, "label": LABEL}
    chosen = {
        part: wanted[part] or next((name for name in names if name in schema.names), None)
        for part, names in usual.items()
    }
    if not wanted["image"]:
        chosen["image"] = next(iter(pictures_in(schema)), None)
    for part, name in chosen.items():
        if (part == "image" or wanted[part]) and name not in schema.names:
            raise checks.error(
                f"the files must have a column for `{part}`",
                fix=f"pass {part}=, the name of the column",
                looked_for=name or usual[part],
                columns=sorted(schema.names),
            )
    return chosen


def not_chosen(schema: Any, chosen: dict[str, str | None]) -> list[Skipped]:
    """The columns that could have been read instead: of pictures, or with usual names.

    Args:
        schema: Arrow schema of a file.
        chosen: the columns that are read, from `choose`.
    """
    usual = {**dict.fromkeys(CAPTION, "caption"), **dict.fromkeys(LABEL, "label")}
    found = (
        (usual.get(f.name) or ("image" if holds_bytes(f.type) else None), f.name) for f in schema
    )
    return [
        Skipped(f"column {name}", f"is not read: {part}={name!r} chooses it")
        for part, name in found
        if part and name not in chosen.values()
    ]


def class_name(value: Any) -> str | None:
    """The name of a class, stored as text, as bytes, or in another file as a number."""
    if value is None or isinstance(value, str):
        return value
    return text_of(value) if isinstance(value, bytes) else str(value)


def names_of_classes(schema: Any, column: str) -> tuple[str, ...]:
    """Names of numbered classes, as Hugging Face's datasets notes them; empty if there are none.

    Args:
        schema: Arrow schema of a file.
        column: name of the column.
    """
    names = feature_of(schema, column).get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def texts_in(value: Any) -> list[str]:
    """The texts of a field, one or a list; they may be stored as bytes, in any encoding."""
    if not value.is_valid:
        return []
    value = getattr(value, "value", value) if hasattr(value, "dictionary") else value
    if hasattr(value, "as_buffer"):
        return [text_of(value.as_buffer().to_pybytes())]
    if hasattr(value, "values") and not hasattr(value, "keys"):
        return [text for part in value.values for text in texts_in(part)]
    return list(captions_in(value.as_py()))

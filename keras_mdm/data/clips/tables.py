"""CSV and TSV files that list videos and their captions: the user's own, and WebVid's."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.sources import delimited
from keras_mdm.data.sources.strings import Strings
from keras_mdm.data.sources.texts import NOT_UTF8, Lines, is_text

# Columns of a CSV: the file and its caption, or WebVid-10M's.
OWN_COLUMNS = ("file", "caption")
WEBVID_COLUMNS = ("videoid", "page_dir", "name")
_USED = {*OWN_COLUMNS, *WEBVID_COLUMNS}
# The column that distinguishes WebVid's tables from others.
_KEY = "videoid"
# How the list of skipped records reports a missing caption.
NO_CAPTION = "has no caption"


def is_webvid(table: Path) -> bool:
    """Whether a CSV file has the columns of WebVid."""
    if not table.is_file():  # reading a pipe would wait
        return False
    with table.open("rb") as file:
        try:
            return _KEY in _header(Lines(file), table)
        except csv.Error:  # reported when the table is read
            return False


def read_table(table: Path) -> tuple[Sequence[str], Sequence[str], list[Skipped], bool]:
    """Read a CSV or TSV file that lists videos.

    Args:
        table: the file; ten million rows fit into memory.

    Returns:
        Files, captions, rows that were left out, and whether the table is WebVid's.

    Raises:
        ValueError: if there is no such file, columns are missing, or no row names a video with a
            caption.
    """
    columns, skipped = _read_csv(table)
    webvid = _KEY in columns
    wanted = WEBVID_COLUMNS if webvid else OWN_COLUMNS
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise checks.error(
            f"a CSV file must have the columns {', '.join(OWN_COLUMNS)}, or WebVid's "
            f"{', '.join(WEBVID_COLUMNS)}",
            fix=f"add or rename columns: {', '.join(missing)} missing",
            columns=list(columns),
            file=table.name,
        )
    if webvid:
        files = Strings(
            "/".join(filter(None, (page.strip("/"), f"{video}.mp4"))) if video else ""
            for page, video in zip(columns["page_dir"], columns["videoid"], strict=True)
        )
        captions = columns["name"]
    else:
        files, captions = columns["file"], columns["caption"]
    # Ten million rows as Python strings would take some GB.
    kept, texts = Strings(), Strings()
    for file, caption in zip(files, captions, strict=True):
        problem = problem_of(caption) if file else "has no file"
        if problem:
            skipped.append(Skipped(file or "(no file)", problem))
        else:
            kept.append(file)
            texts.append(" ".join(caption.split()))
    if not kept:
        raise checks.error(
            "a CSV file must list videos with captions",
            fix="check its rows",
            file=table.name,
            rows=len(files),
        )
    return kept, texts, skipped, webvid


def problem_of(caption: str) -> str | None:
    """What is wrong with a caption, if anything.

    Args:
        caption: as `texts.text_of` returns it.
    """
    if not is_text(caption):
        return f"has a caption that {NOT_UTF8}"
    if "\0" in caption:
        return "has a caption with a NUL character"
    return None if caption.split() else NO_CAPTION


def _read_csv(table: Path) -> tuple[dict[str, Sequence[str]], list[Skipped]]:
    if not table.is_file():
        raise checks.error(
            "`captions` must be a CSV file",
            fix="pass the path of one, or 'names'",
            captions=str(table),
        )
    # Line by line, keeping only the columns that are used: so ten million rows fit.
    with table.open("rb") as file:
        lines = Lines(file)
        size = os.fstat(file.fileno()).st_size - lines.position
        try:
            header = _header(lines, table)
        except csv.Error as problem:
            raise _unreadable(table, line=1, problem=str(problem)) from None
        if size % len("\n".encode(lines.encoding)):
            raise _unreadable(table, problem=f"it ends within a character of {lines.encoding}")
        return _columns(lines, header, table.name)


def _header(lines: Lines, table: Path) -> list[str]:
    first = next(iter(lines), "")
    return [name.strip() for name in delimited.values_of(first, _delimiter(table.name))]


def _delimiter(table: str) -> str:
    return "\t" if table.lower().endswith(".tsv") else ","


def _unreadable(table: Path, **received: Any) -> ValueError:
    return checks.error(
        "a CSV file must be readable to its end",
        fix="look for a quote that is never closed, or copy the file again",
        file=table.name,
        **received,
    )


def _columns(
    lines: Lines, header: Sequence[str], table: str
) -> tuple[dict[str, Sequence[str]], list[Skipped]]:
    """The columns that are used, and the rows that cannot be read."""
    used = {name: header.index(name) for name in header if name in _USED}
    columns: dict[str, Strings] = {name: Strings() for name in used}
    key = next((name for name in (_KEY, *OWN_COLUMNS) if name in used), None)
    broken = []
    rows = delimited.rows_of(lines, _delimiter(table), header, key) if key else ()
    for number, _, _, row in rows:
        if isinstance(row, str):
            broken.append(Skipped(f"{table}, line {number}", row))
            continue
        for name, place in used.items():
            columns[name].append(row[place] if place < len(row) else "")
    return {name: columns.get(name, []) for name in header}, broken

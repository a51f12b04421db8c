"""CSV files that list videos and their captions: of one's own, and WebVid's."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.sources.strings import Strings
from keras_mdm.data.sources.texts import NOT_UTF8, encoding_of, is_text, marked

# Columns of a CSV: the file and its caption, or WebVid-10M's.
OWN_COLUMNS = ("file", "caption")
WEBVID_COLUMNS = ("videoid", "page_dir", "name")
_USED = {*OWN_COLUMNS, *WEBVID_COLUMNS}
# What tells WebVid's tables from others.
_KEY = "videoid"
# What a missing caption is called in the list of what was skipped.
NO_CAPTION = "has no caption"


def is_webvid(table: Path) -> bool:
    """Whether a CSV file has the columns of WebVid's.

    Args:
        table: the file.
    """
    with _opened(table) as file:
        try:
            return _KEY in [name.strip() for name in next(csv.reader(file), [])]
        except (csv.Error, UnicodeError):  # whoever reads it will say so
            return False


def read_table(table: Path) -> tuple[Sequence[str], Sequence[str], list[Skipped], bool]:
    """Read which videos a CSV file lists.

    Args:
        table: the file; ten million rows fit.

    Returns:
        Files, captions, rows that were left out, and whether it is WebVid's.

    Raises:
        ValueError: if there is no such file, columns are missing, or no row names a video with a
            caption.
    """
    columns = _read_csv(table)
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
    kept, texts, skipped = Strings(), Strings(), []
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
        caption: of `texts.text_of`.
    """
    if not is_text(caption):
        return f"has a caption that {NOT_UTF8}"
    if "\0" in caption:
        return "has a caption with a NUL character"
    return None if caption.split() else NO_CAPTION


def _opened(table: Path) -> TextIO:
    """A table open as text: by its byte order mark or as UTF-8."""
    with table.open("rb") as file:
        encoding, mark = encoding_of(file.read(4))
    if encoding == "utf-8":
        return table.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    opened = table.open(encoding=encoding, errors="surrogatepass", newline="")
    opened.seek(mark)
    return opened


def _read_csv(table: Path) -> dict[str, Sequence[str]]:
    if not table.is_file():
        raise checks.error(
            "`captions` must be a CSV file",
            fix="pass the path of one, or 'names'",
            captions=str(table),
        )
    # Line by line: ten million rows fit, and nothing but what is used is kept.
    with _opened(table) as file:
        rows = csv.reader(map(marked, file))
        try:
            return _columns(rows)
        except (csv.Error, UnicodeError) as problem:
            raise checks.error(
                "a CSV file must be readable to its end",
                fix="look at the line, and for a quote before it that is never closed",
                file=table.name,
                line=rows.line_num,
                problem=str(problem),
            ) from None


def _columns(rows: Iterator[list[str]]) -> dict[str, Sequence[str]]:
    header = [name.strip() for name in next(rows, [])]
    used = {name: header.index(name) for name in header if name in _USED}
    columns: dict[str, Strings] = {name: Strings() for name in used}
    for row in rows:
        for name, place in used.items():
            columns[name].append(row[place] if place < len(row) else "")
    return {name: columns.get(name, []) for name in header}

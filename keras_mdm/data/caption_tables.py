"""Captions of a table, whether or not its pictures are at hand."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.pictures.dataset import usable_captions
from keras_mdm.data.skipping import Unusable, reason_of
from keras_mdm.data.sources import delimited, file_bytes, kinds, splits, table_bytes
from keras_mdm.data.sources.base import Record
from keras_mdm.data.sources.columns import texts_in
from keras_mdm.data.sources.examples import CAPTION as CAPTION_OF_RECORDS
from keras_mdm.data.sources.kinds import FILE
from keras_mdm.data.sources.table import CAPTION as CAPTION_OF_TABLES
from keras_mdm.data.sources.table import SPLIT
from keras_mdm.data.sources.texts import Lines, captions_in

CAPTION = tuple(dict.fromkeys((*CAPTION_OF_TABLES, *CAPTION_OF_RECORDS)))
# A row: its number, and its values or what is wrong with it.
_Row = tuple[int, dict[str, Any] | str]


def is_caption_table(path: str | os.PathLike) -> bool:
    """Whether a path has the ending of a table: CSV, TSV or JSON lines, also packed; JSON;
    Parquet."""
    name = os.path.basename(os.fspath(path)).lower()
    endings = (*kinds.TABLES, *table_bytes.PACKED, ".json")
    return name.endswith(endings) or kinds.shard_kind(name) == "Parquet"


def captions_of_table(
    table: str | os.PathLike, *, skipped: Callable[[Skipped], Any] = lambda entry: None
) -> list[str]:
    """All captions of a table, in order, without its pictures: for prompts.

    Args:
        table: a CSV, TSV, JSON-lines, JSON or Parquet file with a column of captions, called as in
            `TableImages`; other columns may be missing. Of a column `split` that names splits, the
            one for training is read. JSON may also be COCO's: an object with `annotations`.
        skipped: called with every row that gives no caption, and the reason.

    Returns:
        The captions, each in one line; several of one row follow one another.

    Raises:
        ValueError: if the file cannot be read as a table, or has no captions.

    Example:

    >>> captions_of_table("annotations/captions_val2014.json")[:2]  # doctest: +SKIP
    """
    path = os.fspath(table)
    rows, what = _rows(path)
    found: list[list[str]] = []
    parts, columns, problems = splits.Parts(by_folder=False), dict[str, None](), 0
    for number, row in rows:
        try:
            if isinstance(row, str):
                raise Unusable(row)
            columns |= dict.fromkeys(row)
            values = (captions_in(row[name]) for name in CAPTION if name in row)
            record = Record("", b"", next(filter(None, values), ()))
            found.append(usable_captions(record))
            if SPLIT in row:
                parts.add(len(found) - 1, row[SPLIT], "")
        except Unusable as problem:
            problems += 1
            place = f"{os.path.basename(path)}, {what} {number}"
            skipped(Skipped(place, str(problem)))
    if not found:
        raise _no_captions(path, columns, rows_without_caption=problems)
    chosen, _ = parts.choose(len(found), None, path)
    kept = range(len(found)) if chosen is None else chosen.tolist()
    return [caption for row in kept for caption in found[row]]


def _no_captions(path: str, columns: Iterable[str], **received: Any) -> ValueError:
    return checks.error(
        f"the table must have a column of captions, called one of {', '.join(CAPTION)}",
        fix="rename the column, or write the header line",
        table=path,
        columns=list(columns)[:20],
        **received,
    )


def _rows(path: str) -> tuple[Iterator[_Row], str]:
    """All rows, and what one of them is called."""
    if not file_bytes.is_file(path):
        raise checks.error("the table must be a file", fix="check its path", table=path)
    if kinds.shard_kind(path) == "Parquet":
        return _parquet_rows(path), "row"
    if kinds.ending_of(path) == ".json" and not table_bytes.is_json_lines(path):
        return iter(enumerate(_objects(path), 1)), "object"
    ending, memory = table_bytes.load(path)
    delimiter = {".csv": ",", ".tsv": "\t"}.get(ending)
    return _lines_of(path, memory, delimiter), "line"


def _lines_of(path: str, memory: Any, delimiter: str | None) -> Iterator[_Row]:
    with io.BytesIO(memory.data) if memory else file_bytes.open_file(path) as file:
        lines = Lines(file)
        if delimiter is None:
            yield from ((lines.number, _object(line)) for line in lines if line.strip())
            return
        try:
            header = delimited.values_of(next(iter(lines), ""), delimiter)
        except csv.Error:
            header = []
        header = [name.strip() for name in header]
        if not set(CAPTION) & set(header):
            raise _no_captions(path, header)
        # By its values the reader tells rows from lines within quotes: names of files do it best.
        key = next(name for name in (*FILE, *CAPTION) if name in header)
        for number, _, _, values in delimited.rows_of(lines, delimiter, header, key):
            if isinstance(values, str):  # what is wrong with the row
                yield number, values
            else:
                yield number, dict(zip(header, values, strict=False))


def _object(line: str) -> dict[str, Any] | str:
    try:
        found = json.loads(line.lstrip(delimited.MARK))
    except (ValueError, RecursionError) as problem:
        return f"is not JSON: {problem}"
    return found if isinstance(found, dict) else "is not a JSON object"


def _objects(path: str) -> list[Any]:
    """The rows of a JSON file: a list of objects, or COCO's `annotations`."""
    if file_bytes.file_size(path) > table_bytes.MAX_BYTES:
        raise checks.error(
            f"a table in JSON may have at most {table_bytes.MAX_BYTES} bytes",
            fix="write it as .jsonl or .csv",
            table=path,
        )
    found = table_bytes.json_of(path)
    if isinstance(found, dict):
        found = found.get("annotations")
    if not isinstance(found, list):
        raise checks.error(
            "captions in JSON must be a list of objects, or COCO's object with `annotations`",
            fix="pass for example annotations/captions_val2014.json",
            table=path,
        )
    return [row if isinstance(row, dict) else "is not a JSON object" for row in found]


def _parquet_rows(path: str) -> Iterator[_Row]:
    import pyarrow.parquet

    with file_bytes.open_file(path) as file:
        try:
            opened = pyarrow.parquet.ParquetFile(file)
        except pyarrow.ArrowException as problem:
            raise checks.error(
                "a table must be a whole Parquet file",
                fix="copy it again",
                table=path,
                problem=reason_of(problem),
            ) from problem
        known = opened.schema_arrow.names
        if not set(CAPTION) & set(known):
            raise _no_captions(path, known)
        # Pictures stay unread.
        wanted = [name for name in (*CAPTION, SPLIT) if name in known]
        number = 0
        for batch in opened.iter_batches(columns=wanted):
            columns = {name: batch.column(name) for name in wanted}
            for row in range(batch.num_rows):
                number += 1
                texts = {name: texts_in(column[row]) for name, column in columns.items()}
                yield number, {**texts, SPLIT: next(iter(texts.get(SPLIT, [])), "")}

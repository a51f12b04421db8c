"""A table that names picture files: CSV, TSV or JSON lines."""

import csv
import io
import itertools
import json
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import MAX_SKIPPED, Unusable
from keras_mdm.data.sources import delimited, file_bytes, splits, table_bytes
from keras_mdm.data.sources.base import ImageSource, Record
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.folder import read_whole
from keras_mdm.data.sources.index_cache import stamp_of_files
from keras_mdm.data.sources.kinds import FILE
from keras_mdm.data.sources.kinds import TABLES as ENDINGS
from keras_mdm.data.sources.listing import name_hash
from keras_mdm.data.sources.strings import Listed
from keras_mdm.data.sources.texts import NOT_UTF8, Lines, captions_in, decode, is_text, marked

# A row: its line, first byte, byte after the last one, and its values or what is wrong with it.
Found = tuple[int, int, int, dict[str, Any] | str]
# Usual names of columns; the first one present counts.
CAPTION = ("caption", "captions", "text", "prompt", "title")
LABEL = ("label", "class", "label_name")
SPLIT = "split"
# Larger numbers count as names of classes, or every number below them would be a class as well.
MAX_CLASSES = 100_000


class TableImages(ImageSource):
    """Pictures named by the rows of a CSV, TSV or JSON-lines file.

    The table is UTF-8, or what its byte order mark says; other rows are skipped if their captions
    or classes are needed. Only the place of each row in the table is kept in memory. Files are not
    looked for in advance: missing ones are skipped when their turn comes. Packed tables (.gz),
    .json and .parquet files are held in memory as lines of JSON.

    Args:
        table: the file. One column names files (`file`, `file_name`, `path`); others may hold
            captions (`caption`, `text`; in JSON also lists of captions), classes (`label`,
            `class`), named or numbered, and splits (`split`).
        root: folder that the files are relative to; by default that of the table.
        split: the split to read, if there is a column `split`; "train" by default.
        by_folder: recognise splits by the folders of the files as well, such as train/ and test/.
        named: called with the `name_hash` of every name.
        max_skipped: see `ImageSource`.

    Raises:
        ValueError: if there is no such table, it has no column of files, or no rows.

    Example:

    >>> source = TableImages("pictures/metadata.jsonl")  # doctest: +SKIP
    """

    def __init__(
        self,
        table: str | os.PathLike,
        *,
        root: str | os.PathLike | None = None,
        split: str | None = None,
        by_folder: bool = False,
        named: Callable[[np.ndarray], Any] = lambda hashes: None,
        max_skipped: float = MAX_SKIPPED,
    ):
        self.table = os.fspath(table)
        if not file_bytes.is_file(self.table):
            raise checks.error(
                "`table` must be a file", fix="check its path", table=os.fspath(table)
            )
        self.root = os.path.dirname(self.table) if root is None else os.fspath(root)
        ending, self._memory = table_bytes.load(self.table)
        checks.one_of("the ending of the table", ending, ENDINGS)
        # Tables that did not consist of lines are counted by their objects or rows.
        self._unit = "row" if table_bytes.has_no_lines(self.table) else "line"
        self._delimiter = {".csv": ",", ".tsv": "\t"}.get(ending)
        self._header: list[str] = []
        places, sizes, labels = array("Q"), array("I"), array("i")
        hashes, classes, left_out, numbers = array("q"), {}, [], array("I")
        parts = splits.Parts(by_folder)
        for number, begin, end, row in self._rows():
            problem = row if isinstance(row, str) else _problem(row)
            if problem:
                left_out.append(Skipped(self._place(number), problem))
                continue
            places.append(begin)
            sizes.append(end - begin)
            numbers.append(number)
            name = _first(row, FILE)
            hashes.append(name_hash(name))
            if by_folder or SPLIT in row:
                parts.add(len(places) - 1, row.get(SPLIT), name)
            label = _first(row, LABEL)
            is_class = isinstance(label, str | int) and label != ""
            labels.append(classes.setdefault(label, len(classes)) if is_class else -1)
        again = repeated(np.frombuffer(hashes, np.int64))
        left_out += [Skipped(self._place(numbers[n]), "names a file again") for n in again]
        if not places:
            raise _no_pictures(self.table, left_out)
        named(np.frombuffer(hashes, np.int64))
        chosen, others = parts.choose(len(places), split, self.table)
        kept = np.setdiff1d(np.arange(len(places)), again)
        kept = kept if chosen is None else np.intersect1d(kept, chosen)
        self._places = np.frombuffer(places, np.uint64)[kept]
        self._sizes = np.frombuffer(sizes, np.uint32)[kept]
        self.label_names, moved = number_classes(list(classes))
        self._labels = moved[np.frombuffer(labels, np.int32)[kept]]
        self._bytes = self._memory or file_bytes.FileBytes([self.table])
        self._digest = digest(self._places.tolist(), [file_bytes.file_size(self.table)])
        super().__init__(left_out, max_skipped)
        self.unused = Listed((self._place(numbers[row]), reason) for row, reason in others)
        if chosen is not None:
            self.choices = {"split": parts.chosen or "rows without a split"}
        self.check_share()

    def __len__(self) -> int:
        return len(self._places)

    def name(self, row: int) -> str:
        """The file that a row names."""
        return str(_first(self._row(row), FILE))

    @property
    def identity(self) -> dict[str, Any]:
        """Number of records, and a SHA-256 of the places of the rows."""
        return {"records": len(self), "sha256": self._digest}

    def stamp(self) -> str | None:
        """Paths, sizes and times of the table and the files that it names."""
        names = map(self.name, range(len(self)))
        paths = (file_bytes.join(self.root, name) for name in names)
        return stamp_of_files(itertools.chain([self.table], paths))

    def read(self, row: int) -> Record:
        """Read one picture; see `ImageSource.read`."""
        found = self._row(row)
        name = str(_first(found, FILE))
        captions = (captions_in(found[column]) for column in CAPTION if column in found)
        return Record(
            name, self._picture(name), next(filter(None, captions), ()), int(self._labels[row])
        )

    def _picture(self, name: str) -> bytes:
        try:
            return read_whole(file_bytes.join(self.root, name))
        except Unusable:
            other = file_bytes.same_file(self.root, name)
            if other is None or other == file_bytes.join(self.root, name):
                raise
            return read_whole(other)

    def _row(self, row: int) -> dict[str, Any]:
        raw = self._bytes.read(0, int(self._places[row]), int(self._sizes[row]))
        return self._parse(decode(raw, self._encoding))

    def _parse(self, text: str) -> dict[str, Any]:
        if self._delimiter is None:
            try:
                found = json.loads(text.lstrip(delimited.MARK))
            except (ValueError, RecursionError) as problem:  # or is nested too deeply
                raise Unusable(f"is not JSON: {problem}") from problem
            if not isinstance(found, dict):
                raise Unusable("is not a JSON object")
            return found
        values = delimited.values_of(text, self._delimiter, len(self._header))
        return dict(zip(self._header, values, strict=False))

    def _rows(self) -> Iterator[Found]:
        """All rows, in order."""
        memory = self._memory and io.BytesIO(self._memory.data)
        with memory or file_bytes.open_file(self.table) as file:
            lines = Lines(file)
            self._encoding = lines.encoding
            yield from self._json_rows(lines) if self._delimiter is None else self._csv_rows(lines)

    def _json_rows(self, lines: Lines) -> Iterator[Found]:
        begin = lines.position
        for line in lines:
            if line.strip():
                try:
                    yield lines.number, begin, lines.position, self._parse(line)
                except Unusable as problem:
                    yield lines.number, begin, lines.position, str(problem)
            begin = lines.position

    def _csv_rows(self, lines: Lines) -> Iterator[Found]:
        try:
            header = delimited.values_of(next(iter(lines), ""), self._delimiter)
        except csv.Error as problem:
            raise checks.error(
                "the table must begin with a line of column names",
                fix="write that line, and end lines with a line feed",
                table=self.table,
                reason=str(problem),
            ) from problem
        self._header = [name.strip() for name in header]
        key = next((name for name in FILE if name in self._header), None)
        if key is None:
            raise checks.error(
                f"the table must have a column of files, called one of {', '.join(FILE)}",
                fix="rename the column, or write the header line",
                columns=self._header[:20],
                table=self.table,
            )
        rows = delimited.rows_of(lines, self._delimiter, self._header, key)
        for number, begin, end, values in rows:
            wrong = isinstance(values, str)
            row = values if wrong else dict(zip(self._header, values, strict=False))
            yield number, begin, end, row

    def _place(self, number: int) -> str:
        return f"{os.path.basename(self.table)}, {self._unit} {number}"


def _problem(row: dict[str, Any]) -> str | None:
    """What is wrong with a row, if anything."""
    name, label = _first(row, FILE), _first(row, LABEL)
    if not name or not isinstance(name, str):
        return "names no file"
    if not name.isascii() and marked(name) != name:
        return "names a file with half of a character"
    # Captions are judged when they are used.
    wrong = isinstance(label, str) and not is_text(label)
    return f"has a class that {NOT_UTF8}" if wrong else None


def _first(row: dict[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if name in row), None)


def repeated(hashes: np.ndarray) -> np.ndarray:
    """Positions of repetitions, in order; of hashes, as millions of names need too much memory."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    return np.sort(order[same])


def number_classes(classes: Sequence[Any]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes, and the number of each.

    Numbers stay as they are if they are small enough to number classes; names, and numbers such as
    those of a catalogue, are sorted and numbered.

    Args:
        classes: names or numbers, each once.

    Returns:
        The names, and int32 numbers in the order of `classes` with -1 at the end, for none.
    """
    try:
        numbers = [int(label) for label in classes]
    except (TypeError, ValueError):
        numbers = [-1]
    if min(numbers, default=0) >= 0 and max(numbers, default=0) < MAX_CLASSES:
        names = tuple(map(str, range(max(numbers, default=-1) + 1)))
    else:
        names = tuple(sorted(map(str, classes)))
        places = {name: number for number, name in enumerate(names)}
        numbers = [places[str(label)] for label in classes]
    return names, np.asarray([*numbers, -1], np.int32)


def _no_pictures(table: str, left_out: Sequence[Skipped]) -> ValueError:
    return checks.error(
        "the table must list pictures", fix="check its rows", table=table, left_out=left_out[:3]
    )

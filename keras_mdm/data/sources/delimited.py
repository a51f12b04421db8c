"""Rows of CSV and TSV files: a stray quote costs its own row, and no other."""

import csv
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence

from keras_mdm.data.sources import kinds
from keras_mdm.data.sources.texts import Lines

# A row with a field over more lines than this is not used.
MAX_LINES = 64
# If a quoted field spans even more lines, its quote counts as never closed.
_SEARCHED = 1024
OPEN_QUOTE = "has a quote that is not closed in its line"
# The error of Python's reader for a text that ends within quotes.
_UNFINISHED = "unexpected end of data"
_ENDING = re.compile(r"\.[A-Za-z0-9]{2,5}")
MARK = "\ufeff"
# Endings of the files that tables name.
_FILES = kinds.PICTURES + kinds.VIDEOS

Row = tuple[int, int, int, list[str] | str]


def values_of(text: str, delimiter: str, width: int = 0) -> list[str]:
    """The values of one row.

    TSV files have no quoting: a line is a row, whatever quotes it holds. Fields quoted as a whole,
    as some programs write them nevertheless, lose these quotes.

    Args:
        text: a line of a TSV file; one line of a CSV file, or several if quotes span them.
        delimiter: what separates values.
        width: number of columns, if known.

    Raises:
        csv.Error: if a quote is not closed, or a value is too long.

    Example:

    >>> values_of('a.png,"red, large"', ","), values_of('a.png\\t5" pipe', "\\t")
    (['a.png', 'red, large'], ['a.png', '5" pipe'])
    """
    # Concatenated tables have byte order marks in the middle.
    text = text.lstrip(MARK).rstrip("\r\n")
    if '"' not in text and "\r" not in text and len(text) < csv.field_size_limit():
        return text.split(delimiter)
    if delimiter == "\t":
        values = text.split(delimiter)
        if width and len(values) != width:  # quotes around a tab
            quoted = next(csv.reader([text], delimiter=delimiter), [])
            values = quoted if len(quoted) == width else values
        return [_unquoted(value) for value in values]
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as problem:
        if str(problem) == _UNFINISHED:
            raise
    # There are quotes within quotes that are not doubled.
    return next(csv.reader([text], delimiter=delimiter), [])


def _unquoted(value: str) -> str:
    inner = value[1:-1]
    whole = len(value) > 1 and value[0] == value[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else value


def rows_of(lines: Lines, delimiter: str, header: Sequence[str], key: str) -> Iterator[Row]:
    """Rows of a table: the line and the byte where each begins, the byte after its last one, and
    its values or what is wrong with it.

    A quoted field may span several lines, but not a line that is a row by itself: then its opening
    quote is a stray one.

    Args:
        lines: the file after its header.
        delimiter: what separates values.
        header: names of the columns.
        key: the column that names the file of a row.
    """
    reader = _Rows(lines, delimiter, len(header), header.index(key))
    while (line := reader.take()) is not None:
        text, begin, end, number = line
        if not text.strip("\r\n" + MARK):
            continue
        try:
            values = values_of(text, delimiter, reader.width)
        except csv.Error as problem:
            if str(problem) != _UNFINISHED:
                yield number, begin, end, f"cannot be read: {problem}"
                continue
            reader.learn(next(csv.reader([text], delimiter=delimiter))[:-1])  # the last is open
            found = reader.go_on(text)
            if found is None:
                yield number, begin, end, OPEN_QUOTE
                continue
            values, end, count = found
            if count > MAX_LINES:
                yield number, begin, end, OPEN_QUOTE
                continue
        if len(values) > reader.width and any(values[reader.width :]):
            more = f"has {len(values)} values for {reader.width} columns"
            more += f": write quotes around values that hold a {_NAMES[delimiter]}"
            yield number, begin, end, more
            continue
        reader.learn(values)
        yield number, begin, end, values


_NAMES = {",": "comma", "\t": "tab"}


class _Rows:
    """Lines of a table, some of them read ahead."""

    def __init__(self, lines: Lines, delimiter: str, width: int, key: int):
        self._lines, self._iterator = lines, iter(lines)
        self._delimiter, self.width, self._key = delimiter, width, key
        self._waiting: deque[tuple[str, int, int, int]] = deque()
        self._plain: bool | None = None
        self._spaced = False

    def take(self) -> tuple[str, int, int, int] | None:
        """The next line, where it begins and ends, and its number."""
        return self._waiting.popleft() if self._waiting else self._next()

    def _next(self) -> tuple[str, int, int, int] | None:
        begin = self._lines.position
        text = next(self._iterator, None)
        return None if text is None else (text, begin, self._lines.position, self._lines.number)

    def learn(self, values: Sequence[str]) -> None:
        """Learn what names of files look like, from the first row that can be read."""
        if self._plain is None and len(values) > self._key:
            name = values[self._key]
            self._plain, self._spaced = not _has_ending(name), " " in name

    def go_on(self, text: str) -> tuple[list[str], int, int] | None:
        """The values of a row that continues on the next lines, where it ends, and its number of
        lines; `None` if the quote is a stray one."""
        for number in range(_SEARCHED):
            if number == len(self._waiting):
                line = self._next()
                if line is None:
                    return None
                self._waiting.append(line)
            following, _, end, _ = self._waiting[number]
            if self._is_row(following):
                return None
            text += following
            if '"' not in following:
                continue
            try:
                values = next(csv.reader([text.rstrip("\r\n")], strict=True), [])
            except csv.Error as problem:
                if str(problem) == _UNFINISHED:
                    continue
                return None
            for _ in range(number + 1):
                self._waiting.popleft()
            return values, end, number + 2
        return None

    def _is_row(self, text: str) -> bool:
        try:
            values = next(csv.reader([text.rstrip("\r\n")], delimiter=self._delimiter), [])
        except csv.Error:
            return False
        if len(values) != self.width:
            return False
        name = values[self._key]
        if name.lower().endswith(_FILES):
            return True
        if not name or (" " in name and not self._spaced):
            return False
        return _has_ending(name) or bool(self._plain)


def _has_ending(name: str) -> bool:
    return bool(_ENDING.fullmatch(os.path.splitext(name)[1]))

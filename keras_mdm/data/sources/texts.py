"""Texts from files, decoded by their byte order mark, else as UTF-8; other bytes stay visible."""

import codecs
import re
from collections.abc import Iterator
from typing import Any

from keras_mdm import checks

# Byte order marks, each before any shorter one that it begins with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_AT_A_TIME = 2**20
# How the list of skipped records reports a text that is not UTF-8.
NOT_UTF8 = "is not UTF-8: save the file as UTF-8, or as UTF-16 with its byte order mark"


def encoding_of(start: bytes) -> tuple[str, int]:
    """The encoding that a file's byte order mark declares, UTF-8 without a mark, and the length of
    the mark in bytes.

    Args:
        start: first four bytes of the file, or more.
    """
    return next(
        ((name, len(mark)) for mark, name in _MARKS if start.startswith(mark)), ("utf-8", 0)
    )


def decode(data: bytes, encoding: str = "utf-8") -> str:
    """The text of some bytes. Bytes that are invalid in the encoding become lone surrogates, which
    no valid text holds: `is_text` finds them.

    Args:
        data: bytes without a byte order mark.
        encoding: as `encoding_of` returns it.
    """
    if encoding == "utf-8":
        return data.decode(encoding, "surrogateescape")
    try:
        return marked(data.decode(encoding, "surrogatepass"))
    except UnicodeDecodeError:  # part of a character at the end
        return data.decode("ascii", "surrogateescape")


def marked(text: str) -> str:
    """Replace halves of characters in a text by one that file names may hold."""
    return text if is_text(text) else re.sub("[\ud800-\udc7f\udd00-\udfff]", "\udcff", text)


def printable(text: str) -> str:
    r"""The text in one line, with escapes for what no output should hold: bytes of file names that
    are not text, and characters that a terminal obeys instead of showing.

    Args:
        text: a text from anywhere.

    Example:

    >>> print(printable("red" + chr(27)))
    red\x1b
    """
    if text.isprintable():
        return text
    # Wide spaces are kept, as names hold them.
    kept = "\u00a0\u3000"
    return "".join(
        one if one.isprintable() or one in kept else one.encode("unicode_escape").decode()
        for one in text
    )


def text_of(data: bytes) -> str:
    """The text of a whole file, decoded by its byte order mark or as UTF-8.

    Example:

    >>> text_of(b"\\xff\\xfee\\x00\\xe9\\x00"), is_text(text_of(b"caf\\xe9"))
    ('eé', False)
    """
    encoding, mark = encoding_of(data[:4])
    return decode(data[mark:], encoding)


def captions_in(value: Any) -> tuple[str, ...]:
    """The captions in a field, which holds one or a list of them. NaN stands for a missing one;
    values that are neither texts nor numbers are not captions.

    Example:

    >>> captions_in(["a cat", float("nan"), {"en": "a cat"}, None, 7, ""])
    ('a cat', '7')
    """
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(str(v) for v in values if v != "" and (isinstance(v, str) or checks.is_real(v)))


def is_text(text: str) -> bool:
    """Whether a string is valid text, without halves of characters or undecodable bytes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _without_mark(start: bytes) -> str:
    """The encoding of a table without a byte order mark: names of columns and JSON begin with two
    ASCII characters."""
    zeros = [byte == 0 for byte in start]
    kinds = {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}
    return kinds.get(tuple(zeros), "utf-8")


class Lines:
    """Lines of a table in a file of bytes, as texts.

    Args:
        file: the file, open for reading, at its beginning.

    Attributes:
        encoding: encoding of the file.
        position: the byte after the last line that was taken.
        number: number of that line, from 1.
    """

    def __init__(self, file: Any):
        self._file = file
        self.number = 0
        start = file.read(4)
        self.encoding, self.position = encoding_of(start)
        if not self.position:
            self.encoding = _without_mark(start)
        file.seek(self.position)
        # One iterator for all users: the reader is ahead of the lines that it has given.
        self._taken = self._decoded()

    def __iter__(self) -> Iterator[str]:
        return self._taken

    def _decoded(self) -> Iterator[str]:
        lines = self._file if self.encoding == "utf-8" else self._wide()
        for line in lines:
            self.position += len(line)
            self.number += 1
            yield decode(line, self.encoding)

    def _wide(self) -> Iterator[bytes]:
        """Lines if characters have several bytes: a byte 10 may be half of one."""
        end = "\n".encode(self.encoding)
        left = b""
        while piece := self._file.read(_AT_A_TIME):
            left += piece
            begin = found = 0
            while (found := left.find(end, found)) >= 0:
                if found % len(end):
                    found += 1
                    continue
                found += len(end)
                yield left[begin:found]
                begin = found
            left = left[begin:]
        if left:
            yield left

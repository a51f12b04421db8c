"""Texts out of files: by the mark they begin with, else UTF-8; what is neither stays visible."""

import codecs
import re
from collections.abc import Iterator
from typing import Any

from keras_mdm import checks

# Byte order marks, those that others begin with first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_AT_A_TIME = 2**20
# What a text that is not UTF-8 is called in the list of what was skipped.
NOT_UTF8 = "is not UTF-8: save the file as UTF-8, or as UTF-16 with its byte order mark"


def encoding_of(start: bytes) -> tuple[str, int]:
    """The encoding that a file says that it has, UTF-8 if it says nothing, and the bytes it takes
    to say so.

    Args:
        start: its first four bytes or more.
    """
    return next(
        ((name, len(mark)) for mark, name in _MARKS if start.startswith(mark)), ("utf-8", 0)
    )


def decode(data: bytes, encoding: str = "utf-8") -> str:
    """The text of some bytes. Bytes that are none in the encoding become lone surrogates, which no
    text holds: `is_text` finds them.

    Args:
        data: without a byte order mark.
        encoding: of `encoding_of`.
    """
    if encoding == "utf-8":
        return data.decode(encoding, "surrogateescape")
    try:
        return marked(data.decode(encoding, "surrogatepass"))
    except UnicodeDecodeError:  # a part of a character at the end
        return data.decode("ascii", "surrogateescape")


def marked(text: str) -> str:
    """A text in which all halves of characters are ones that file names may hold."""
    return text if is_text(text) else re.sub("[\ud800-\udc7f\udd00-\udfff]", "\udcff", text)


def printable(text: str) -> str:
    r"""The text in one line, with what no output should hold written as escapes: bytes of a file's
    name that are no text, and what a terminal obeys instead of showing it.

    Args:
        text: of anybody.

    Example:

    >>> print(printable("red" + chr(27)))
    red\x1b
    """
    if text.isprintable():
        return text
    # Wide spaces stay, they are written in names.
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
    """The captions that a field holds, one or a list of them. NaN stands for one that is missing,
    and what is neither text nor a number is none.

    Example:

    >>> captions_in(["a cat", float("nan"), {"en": "a cat"}, None, 7, ""])
    ('a cat', '7')
    """
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(str(v) for v in values if v != "" and (isinstance(v, str) or checks.is_real(v)))


def is_text(text: str) -> bool:
    """Whether a string is a text: halves of characters, and bytes that were none, are not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _without_mark(start: bytes) -> str:
    """The encoding of a table without a mark: names of columns and JSON begin with two characters
    of ASCII."""
    zeros = [byte == 0 for byte in start]
    kinds = {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}
    return kinds.get(tuple(zeros), "utf-8")


class Lines:
    """Lines of a table, a file of bytes as texts, and the byte after the last one that was taken.

    Args:
        file: open for reading, at its beginning.

    Attributes:
        encoding: of the file.
        position: the byte.
        number: of the last line that was taken, from 1.
    """

    def __init__(self, file: Any):
        self._file = file
        self.number = 0
        start = file.read(4)
        self.encoding, self.position = encoding_of(start)
        if not self.position:
            self.encoding = _without_mark(start)
        file.seek(self.position)
        # One for all who take lines: the reader is ahead of what it has given.
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
        """Lines where a character has several bytes: a byte 10 may be half of one."""
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

"""Members of a tar file, and the damaged places between them.

The standard library stops silently at a damaged header, and everything after it is lost.
"""

import re
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

BLOCK = 512
# Archives are padded to these.
_RECORD = 10240
# Bytes that are read at once in search of the next header.
_AT_A_TIME = 1 << 20
# Not damage, but worth knowing.
APPENDED = "another archive begins behind the first: both are read"
NO_END = "has no end mark: it may be truncated"
# Where a header holds its checksum, and what it looks like. (Its mark "ustar" is newer than many
# archives.)
_SUM_AT, _SUM = 148, re.compile(rb"[0-7 \0]{5}[0-7][0-7 \0]{2}")
# What the name of a header about the next header holds, and where its type is.
_ABOUT = (b"././@LongLink", b"PaxHeader")
_NAME, _TYPE_AT = 100, 156
# Most bytes of a header about the next header; larger ones are damaged.
_LONGEST = 1 << 20
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class Member(NamedTuple):
    """What a header announces.

    Attributes:
        name: path within the archive.
        place: where the content begins.
        size: size of the content.
        kind: "file", "folder", "link", "sparse" or "special".
    """

    name: str
    place: int
    size: int
    kind: str


class Damage(NamedTuple):
    """Bytes without members, although there should be some.

    Attributes:
        start: the first of them.
        stop: the one after the last.
        reason: what is wrong.
        name: name of the damaged member, if known.
    """

    start: int
    stop: int
    reason: str
    name: str = ""


def members(file: Any, total: int) -> Iterator[Member | Damage]:
    """Walk through a tar file, looking for the next header after a damaged place.

    Args:
        file: the file, open for reading, not compressed.
        total: its size.

    Returns:
        The members and the damaged places, in order. Zeros at the end are not damage.

    Raises:
        OSError: if the file cannot be read.

    Example:

    >>> import io
    >>> next(members(io.BytesIO(b"x" * 700), 700))
    Damage(start=0, stop=700, reason='is not a tar file', name='')
    """
    if not total:
        yield Damage(0, 0, "is empty")
    position, begin, ended = 0, 0, not total
    ahead: dict[str, str] = {}  # what a header says about the next one
    damaged = False  # directly before the position
    while position < total:
        file.seek(position)
        block = file.read(BLOCK)
        header = _header(block)
        if header is None:
            start, ahead = begin if ahead else position, {}
            position, zeros = _next_header(file, position, total)
            damaged = not zeros
            if position < total and _is_about(block):  # one place with the next member
                begin, ahead, ended = start, {"damaged": ""}, False
                continue
            if not zeros or position < total:
                yield Damage(start, position, _reason(zeros, start, position, total))
            begin, ended = position, zeros
            continue
        if damaged and _may_be_replaced(block, header):
            ahead["damaged"] = ""
        ended = damaged = False
        place = position + BLOCK
        stop = place + -(-header.size // BLOCK) * BLOCK
        long = header.type in (*_PAX, tarfile.XGLTYPE, *tarfile.GNU_TYPES[:2])
        if header.size < 0 or (long and header.size > _LONGEST):
            name = ahead.get("path", header.name)
            position, _ = _next_header(file, place, total)
            yield Damage(begin, position, f"says that it has {header.size} bytes", name)
            begin, ahead, damaged = position, {}, True
            continue
        if long and place + header.size <= total:
            found = _about_next(header.type, file.read(header.size))
            if found is None:
                ahead["damaged"] = "in its extended header"
            ahead.update(found or {})
            position = stop
            continue
        size = _size(ahead, header.size)
        name = ahead.get("path", header.name)
        stop = place + -(-size // BLOCK) * BLOCK
        if size < 0 or "damaged" in ahead:
            # Its name or its end is unknown: no member is better than a wrong one.
            position, _ = _next_header(file, place, total)
            yield Damage(begin, position, "is damaged in its extended header", name)
            damaged = True
        elif place + size > total:
            yield Damage(begin, total, f"ends at byte {total} instead of {place + size}", name)
            return
        else:
            yield Member(name, place, size, _kind(header, ahead))
            position = stop
        begin, ahead = position, {}
    if ahead:
        yield Damage(begin, total, "ends inside a header")
    elif not ended:
        yield Damage(total, total, NO_END)


def _header(block: bytes) -> tarfile.TarInfo | None:
    """The header in a block, or `None` if there is none."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    # Numbers are not checked before they are read; each kind of damage has its own error.
    except (tarfile.HeaderError, ValueError, OverflowError):
        return None


def _is_about(block: bytes) -> bool:
    """Whether a damaged header was probably about the next one."""
    kind = block[_TYPE_AT : _TYPE_AT + 1]
    return kind in (*_PAX, *tarfile.GNU_TYPES[:2]) or any(name in block[:_NAME] for name in _ABOUT)


def _may_be_replaced(block: bytes, header: tarfile.TarInfo) -> bool:
    """Whether a header may hold only a part of the name, or "?" for some characters, because an
    earlier header holds all of it."""
    if header.type in (*_PAX, tarfile.XGLTYPE, *tarfile.GNU_TYPES[:2]):
        return False
    return b"\0" not in block[:_NAME] or b"?" in block[:_NAME]


def _next_header(file: Any, position: int, total: int) -> tuple[int, bool]:
    """The place of the next header at or after a place, or the end; and whether only zeros come
    before it."""
    zeros = True
    while position < total:
        file.seek(position)
        piece = file.read(_AT_A_TIME)
        if not piece:
            break
        for start in range(0, len(piece), BLOCK):
            if _SUM.match(piece, start + _SUM_AT) and _header(piece[start : start + BLOCK]):
                return position + start, zeros and not any(piece[:start])
        zeros = zeros and not any(piece)
        position += len(piece)
    return total, zeros


def _reason(zeros: bool, start: int, stop: int, total: int) -> str:
    if zeros:
        return "is empty: members may be missing" if stop % _RECORD else APPENDED
    if start == 0 and stop == total:
        return "is not a tar file"
    return "ends inside a header" if stop == total and stop - start < BLOCK else "is not a header"


def _about_next(kind: bytes, content: bytes) -> dict[str, str] | None:
    """What a GNU or PAX header says about the next one; `None` if it is damaged."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    if kind == tarfile.GNUTYPE_LONGLINK:
        return {}
    found = {}
    while content:
        length, space, _ = content.partition(b" ")
        if not (space and length.isdigit() and len(length) < 20):
            # Some writers add padding.
            return found if not content.strip(b"\0") else None
        record = content[len(length) + 1 : int(length)]
        name, equals, value = record.partition(b"=")
        if not equals or value[-1:] != b"\n" or int(length) > len(content):
            return None
        found[name.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        content = content[int(length) :]
    # A header about all later members says nothing about the name or size of one.
    wanted = ("path", "size") if kind != tarfile.XGLTYPE else ()
    sparse = any(name.startswith("GNU.sparse.") for name in found)
    kept = {name: found[name] for name in wanted if name in found}
    return kept | ({"sparse": ""} if sparse else {})


def _size(ahead: dict[str, str], size: int) -> int:
    if "size" not in ahead:
        return size
    text = ahead["size"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _kind(header: tarfile.TarInfo, ahead: dict[str, str]) -> str:
    if "sparse" in ahead or header.type == tarfile.GNUTYPE_SPARSE:
        return "sparse"
    if header.type in _FILES:
        return "file"
    if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        return "link"
    return "folder" if header.type == tarfile.DIRTYPE else "special"

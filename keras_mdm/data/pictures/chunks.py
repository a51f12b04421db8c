"""The chunks of a PNG that a picture needs; others may be as large and as damaged as they like."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Besides the critical chunks, whose names begin with a capital: transparency and animation.
_NEEDED = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}
# Texts may hold an orientation.
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
# Most bytes of texts in one PNG; Pillow gives up above twice as many.
_MAX_TEXTS = 2**25


def needed(data: bytes) -> bytes:
    """A PNG without the chunks that no pixel depends on, and that Pillow may refuse to read.

    Image generators store their workflows in texts, and photo editors their history. Other programs
    ignore what is wrong in such chunks. EXIF and texts stay if they can be read, as they may say
    which way up the picture is.

    Args:
        data: the bytes of the file.
    """
    pieces, place, begin, texts = [], len(SIGNATURE), 0, 0
    while place + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + size
        texts += size * (kind in _TEXTS)
        if kind == b"eXIf":
            keep = _is_whole(data, place, end)
        elif kind in _TEXTS:
            keep = texts <= _MAX_TEXTS and _is_readable(data, place, end)
        else:
            keep = kind in _NEEDED or not kind[0] & 32
        if not keep:
            pieces.append(data[begin:place])
            begin = end
        place = end
    return b"".join([*pieces, data[begin:]]) if pieces else data


def _is_whole(data: bytes, place: int, end: int) -> bool:
    """Whether the checksum of a chunk is right."""
    return zlib.crc32(data[place + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _is_readable(data: bytes, place: int, end: int) -> bool:
    """Whether Pillow can read a text."""
    from PIL import PngImagePlugin

    kind, content = data[place + 4 : place + 8], data[place + 8 : end - 4]
    _, _, packed = content.partition(b"\0")
    if not _is_whole(data, place, end):
        return False
    if kind == b"tEXt" or (kind == b"iTXt" and packed[:1] != b"\1"):
        return True
    if kind == b"iTXt":  # two flags, a language and a translated name come first
        packed = b"\0" + packed[2:].partition(b"\0")[2].partition(b"\0")[2]
    limit = PngImagePlugin.MAX_TEXT_CHUNK
    try:
        return packed[:1] == b"\0" and (
            len(zlib.decompressobj().decompress(packed[1:], limit + 1)) <= limit
        )
    except zlib.error:  # Pillow treats it as empty
        return True

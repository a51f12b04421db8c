"""Which way up a picture is, whatever else is wrong in its EXIF."""

import struct
from typing import Any

from keras_mdm.data.skipping import reason_of

_TAG = 0x0112
# Bytes, 16 and 32 bits, without a sign and with one, by their numbers in TIFF.
_TYPES = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}
_KNOWN = range(9)


def orientation_of(picture: Any) -> int:
    """The orientation of a picture, 0 to 8; 0 if it has none.

    Pillow stops at the first tag whose value lies outside the file, so it may miss this one, which
    needs no other. It knows more places where an orientation may be, such as XMP.

    Args:
        picture: a Pillow picture.
    """
    data = picture.info.get("exif")
    value = exif_orientation(data) if isinstance(data, bytes) else None
    if value is None:
        try:
            value = picture.getexif().get(_TAG)
        except Exception as problem:
            reason_of(problem)  # tags that cannot be read are ignored everywhere
    value = value[0] if isinstance(value, tuple | bytes) and len(value) == 1 else value
    return value if isinstance(value, int) and value in _KNOWN else 0


def exif_orientation(data: bytes) -> int | None:
    """The orientation in EXIF, found by its own tag alone; `None` if there is none.

    Args:
        data: the EXIF, with or without the name that JPEG puts before it.

    Example:

    >>> exif_orientation(b"MM\\0*\\0\\0\\0\\x08\\0\\1\\1\\x12\\0\\3\\0\\0\\0\\1\\0\\6\\0\\0")
    6
    """
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return None
    (place,) = struct.unpack_from(f"{order}L", data, 4)
    if place + 2 > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}H", data, place)
    for entry in range(place + 2, min(place + 2 + 12 * count, len(data) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag == _TAG and kind in _TYPES:
            return struct.unpack_from(order + _TYPES[kind], data, entry + 8)[0]
    return None

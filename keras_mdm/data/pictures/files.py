"""Pictures from untrusted files: which formats are opened, how large pictures may be, and what is
done about orientation, transparency and 16 bits."""

import functools
import io
from typing import Any

import numpy as np

from keras_mdm.data.pictures import chunks
from keras_mdm.data.pictures.orientation import orientation_of
from keras_mdm.data.skipping import Unusable, reason_of

MAX_PIXELS = 64_000_000
# Pillow keeps eight bytes per row of each of its pictures: of one pixel a row, that is most of it.
MAX_SIDE = 1_000_000
# Pillow's names. It knows some forty formats; some start programs (EPS: Ghostscript), and most are
# hardly ever tested against malicious files.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
# Other formats that are recognised by how their files begin.
_NOT_READ = ("EPS", "PSD", "ICNS", "ICO", "DDS", "SGI", "PCX", "WMF")
# Pillow's modes by the number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# Tags for the sides of the tiles of a TIFF; each tile is held in memory as a whole.
_TILE_SIDES = (322, 323)
# Factors for grey values of fewer than 8 bits.
_SCALES = {"1": 255, "L;2": 85, "L;4": 17}
# Pixels that are converted at a time: each takes some twenty bytes meanwhile.
_AT_A_TIME = 2**20


def open_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Any:
    """Open a picture without decoding it.

    Args:
        data: the bytes of the file.
        max_pixels: the most pixels it may have.

    Returns:
        A Pillow picture.

    Raises:
        Unusable: if the bytes are not a picture in one of `FORMATS`, or hold too many pixels, in
            all or on one side.
    """
    from PIL import Image

    if not data:
        raise Unusable("is empty")
    try:
        data = chunks.needed(data) if data.startswith(chunks.SIGNATURE) else data
        picture = Image.open(io.BytesIO(data), formats=_formats())
        width, height = picture.size
        if picture.format == "TIFF":
            tile = [picture.tag_v2.get(tag, 1) for tag in _TILE_SIDES]
            width, height = max(width, tile[0]), max(height, tile[1])
    except Image.UnidentifiedImageError as problem:
        raise Unusable(_other_format(data) or "is not a picture") from problem
    except Image.DecompressionBombError as problem:
        raise Unusable("has far too many pixels") from problem
    except Exception as problem:
        raise Unusable(reason_of(problem)) from problem
    if width * height > max_pixels:
        raise Unusable(f"has {width} x {height} pixels, more than {max_pixels}")
    if max(width, height) > MAX_SIDE:
        raise Unusable(f"has {width} x {height} pixels, a side of more than {MAX_SIDE}")
    if picture.format == "PNG":
        _scale_transparent_colour(picture)
    return picture


def _other_format(data: bytes) -> str | None:
    """The message for a format that Pillow knows but that is not read here; nothing is parsed."""
    from PIL import Image

    for name in _NOT_READ:
        accept = Image.OPEN.get(name, (None, None))[1]
        if accept is not None and accept(data[:16]) is True:
            return f"is of the format {name}, which is not read"
    return None


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that this version of Pillow has."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_channels(picture: Any, channels: int = 3) -> Any:
    """Turn a picture upright and convert it to 8 bits; on white, unless transparency is kept.

    Args:
        picture: a Pillow picture in any mode.
        channels: 3 for RGB, 1 for grey, 4 for RGB with its transparency.

    Returns:
        A Pillow picture; the argument itself if there was nothing to do.
    """
    from PIL import Image

    picture = _upright(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if picture.mode == MODES[channels] and not picture.has_transparency_data:
        return picture
    width, height = picture.size
    rows = max(1, _AT_A_TIME // width)
    if height <= rows:
        return _converted(picture, channels)
    whole = Image.new(MODES[channels], picture.size)
    for top in range(0, height, rows):
        part = picture.crop((0, top, width, min(height, top + rows)))
        whole.paste(_converted(part, channels), (0, top))
    return whole


def _converted(picture: Any, channels: int) -> Any:
    from PIL import Image

    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if channels != 4:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
    elif channels == 4:
        picture = picture.convert("RGB")  # some modes convert to RGBA only via RGB
    return picture.convert(MODES[channels])


def _upright(picture: Any) -> Any:
    """Turn a picture upright. Pillow's own function rewrites all tags, and fails if one of them has
    a wrong type."""
    from PIL import Image

    picture.load()
    value = orientation_of(picture)
    turns = (
        *(None, None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180),
        *(Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE),
        *(Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90),
    )
    return picture if turns[value] is None else picture.transpose(turns[value])


def picture_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of a picture, upright, without decoding if the file's beginning suffices.

    Args:
        data: the bytes of the file.
        max_pixels: the most pixels it may have.

    Raises:
        Unusable: if the bytes are not a picture, or hold too many pixels.
    """
    picture = open_picture(data, max_pixels)
    # The orientation may come after the pixels of a PNG, and TIFF files are turned while they are
    # decoded: anything not known to be simple is decoded.
    simple = picture.format in ("JPEG", "WEBP", "GIF", "BMP", "PPM") or (
        picture.format == "PNG" and not any(mark in data for mark in (b"eXIf", b"exif", b"xmp"))
    )
    if not simple:
        try:
            width, height = _upright(picture).size
        except Exception as problem:
            raise Unusable(reason_of(problem)) from problem
        return height, width
    turned = picture.format != "PNG" and orientation_of(picture) in (5, 6, 7, 8)
    return picture.size if turned else picture.size[::-1]


def _eight_bits(picture: Any) -> Any:
    """Scale 16-bit greys to 8 bits; Pillow's own conversion clips them to white instead."""
    from PIL import Image

    values, transparent = np.asarray(picture), picture.info.get("transparency")
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _AT_A_TIME // values.shape[1])
    for top in range(0, len(values), rows):
        part = values[top : top + rows].astype(np.float64) / 257
        grey[top : top + rows] = np.round(np.clip(part, 0, 255))
    if not isinstance(transparent, int):
        return Image.fromarray(grey)
    opaque = np.where(values == transparent, np.uint8(0), np.uint8(255))
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(opaque)))


def _scale_transparent_colour(picture: Any) -> None:
    """Scale the transparent colour of a PNG that has not 8 bits per sample: Pillow scales only the
    pixels. Of 16 bits Pillow keeps the upper half of the pixels, so the colour keeps that half too.
    """
    colour = picture.info.get("transparency")
    kind = picture.tile[0].args if picture.tile else None
    if isinstance(colour, int) and kind in _SCALES:
        picture.info["transparency"] = min(255, colour * _SCALES[kind])
    elif isinstance(colour, tuple) and kind == "RGB;16B":
        picture.info["transparency"] = tuple(value >> 8 for value in colour)

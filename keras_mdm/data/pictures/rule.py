"""From the bytes of a picture file to the pixels that a model is trained on."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.pictures.files import MAX_PIXELS, MODES, open_picture, to_channels
from keras_mdm.data.pictures.shapes import (
    Shape,
    check_multiple,
    nearest,
    shape_of,
    shapes_of,
)
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.data.skipping import Unusable, reason_of
from keras_mdm.data.sources.folder import read_whole
from keras_mdm.diffusion.pyramid import DOWNSAMPLING
from keras_mdm.levels import as_size
from keras_mdm.pictures.pixels import PICTURE_CHANNELS

CROPS = ("center", "random")
RANGES = ("symmetric", "release")
# Ratio of the sides above which a picture is cropped before it is resized.
_LONG = 8


@dataclass(frozen=True)
class ImageRule:
    """What is done to a picture.

    It is turned upright, put on white where it is transparent, converted to 8 bits, resized with
    antialiasing until it covers the size, and cropped to that size. For a lower level of a process,
    `of` is the size of the highest level, from which the picture is reduced as in training: the
    level then sees the same picture whether or not the sample has levels above it.

    With `buckets` there are several sizes. Each picture goes into the bucket that is nearest to its
    own proportions, and a batch holds pictures of one bucket.

    Args:
        size: height and width in pixels, one number for squares; left out with `buckets`.
        crop: "center", as in the paper, or "random", a new place each time.
        flip: mirror half of the pictures, at random; off in the paper.
        pixel_range: "symmetric" keeps uint8, which training maps to [-1, 1]; "release" gives
            float32 (x - 127) / 128, as used to train the released models.
        max_pixels: larger pictures are skipped before they are decoded.
        of: size of the highest level of the process that the pictures are for, a multiple of
            `size`; by default `size` itself. With buckets, one size for each.
        channels: 3 for RGB, 1 for grey, 4 for RGB with its transparency, which is kept.
        downsample: how the picture is reduced from `of` to `size`, the process's D^r: "area", means
            of blocks, or the paper's "bilinear", which is not antialiased.
        buckets: (height, width) of each bucket, no two with the same proportions.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> ImageRule(64, of=256, downsample="bilinear").drawn
    256
    >>> ImageRule(buckets=[(64, 64), (48, 80), (80, 48)]).bucket(300, 400)
    1

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix D; equation 2 for D^r.
    """

    size: int | Shape | None = None
    crop: str = "center"
    flip: bool = False
    pixel_range: str = "symmetric"
    max_pixels: int = MAX_PIXELS
    of: int | Shape | tuple[int | Shape, ...] | None = None
    downsample: str = "area"
    channels: int = 3
    buckets: tuple[Shape, ...] | None = None

    def __post_init__(self) -> None:
        checks.one_of("channels", self.channels, PICTURE_CHANNELS)
        if self.buckets is None:
            self._check_size()
        else:
            self._check_buckets()
        checks.one_of("downsample", self.downsample, DOWNSAMPLING)
        checks.one_of("crop", self.crop, CROPS)
        checks.one_of("pixel_range", self.pixel_range, RANGES)
        checks.integer("max_pixels", self.max_pixels, minimum=1)
        if not isinstance(self.flip, bool):
            raise checks.error("`flip` must be True or False", fix="pass one", flip=self.flip)

    def _check_size(self) -> None:
        object.__setattr__(self, "size", as_size("size", self.size))
        if self.of is not None:
            object.__setattr__(self, "of", as_size("of", self.of))
            check_multiple(shape_of("of", self.of), shape_of("size", self.size))

    def _check_buckets(self) -> None:
        if self.size is not None:
            raise checks.error(
                "a rule must have either one size or buckets",
                fix="leave out size, and include it among the buckets",
                size=self.size,
                buckets=self.buckets,
            )
        object.__setattr__(self, "buckets", shapes_of("buckets", self.buckets))
        if self.of is None:
            return
        of = shapes_of("of", self.of)
        if len(of) != len(self.buckets):
            raise checks.error(
                "`of` must hold one size for each bucket",
                fix="pass the sizes of the highest level in the order of the buckets",
                of=of,
                buckets=self.buckets,
            )
        for high, low in zip(of, self.buckets, strict=True):
            check_multiple(high, low)
        object.__setattr__(self, "of", of)

    @property
    def drawn(self) -> int | Shape:
        """The size to which pictures are resized before they are reduced."""
        return self.of or self.size

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels of the resulting picture; `None` where they depend on the
        bucket."""
        sides = (None, None) if self.buckets is not None else shape_of("size", self.size)
        return (*sides, self.channels)

    def bucket(self, height: int, width: int) -> int:
        """The bucket for a picture of this size, see `nearest`."""
        return int(nearest(self.buckets, [(height, width)])[0])

    def in_bucket(self, number: int) -> "ImageRule":
        """The rule for the pictures of one bucket."""
        of = None if self.of is None else self.of[number]
        return dataclasses.replace(self, size=self.buckets[number], of=of, buckets=None)


def decode(
    data: bytes,
    rule: ImageRule,
    *,
    place: tuple[float, float] | None = None,
    mirror: bool = False,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode one picture.

    Args:
        data: the bytes of the file.
        rule: what is done to it.
        place: where it is cropped, down and across, in [0, 1); by default in the middle.
        mirror: flip left and right.

    Returns:
        uint8 (height, width, channels), and (height, width) before it was resized, upright.

    Raises:
        Unusable: if the bytes are not a picture, are damaged, or hold too many pixels.
    """
    picture = open_picture(data, rule.max_pixels)
    try:
        upright = to_channels(picture, rule.channels)
        if rule.buckets is not None:
            rule = rule.in_bucket(rule.bucket(upright.height, upright.width))
        cut = cut_out(upright, rule.drawn, place)
    # What Pillow raises depends on the format and on what is wrong with the bytes.
    except Exception as problem:
        raise Unusable(reason_of(problem)) from problem
    pixels = reduce_pixels(as_pixels(cut), rule.size, rule.downsample)
    return (pixels[:, ::-1] if mirror else pixels), upright.size[::-1]


def read_picture(
    file: str | os.PathLike, *, channels: int = 3, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read a picture as training reads it: upright, on white where it is transparent, 8 bits.

    Args:
        file: the file.
        channels: 3 for RGB, 1 for grey, 4 for RGB with its transparency, which is kept.
        max_pixels: the most pixels it may have.

    Returns:
        uint8 (H, W, channels).

    Raises:
        Unusable: if the file is missing, not a picture, damaged, or holds too many pixels.

    Example:

    >>> model.generate(["a pear"], init_image=read_picture("apple.png"))  # doctest: +SKIP
    """
    checks.one_of("channels", channels, tuple(MODES))
    picture = open_picture(read_whole(os.fspath(file)), max_pixels)
    try:
        return as_pixels(to_channels(picture, channels))
    except Exception as problem:
        raise Unusable(reason_of(problem)) from problem


def as_pixels(picture: Any) -> np.ndarray:
    """uint8 (H, W, C) of a Pillow picture; grey ones have an axis of channels too."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def cut_out(
    picture: Any,
    size: int | Shape,
    place: tuple[float, float] | None = None,
    *,
    pixel: float = 1.0,
) -> Any:
    """Resize a picture until it covers a size, and crop it to that size.

    Args:
        picture: a Pillow picture.
        size: height and width, one number for a square.
        place: where it is cropped, as in `decode`.
        pixel: width of the picture's pixels relative to their height.
    """
    from PIL import Image

    tall, wide = shape_of("size", size)
    scale = max(wide / (picture.width * pixel), tall / picture.height)
    width = max(wide, round(picture.width * pixel * scale))
    height = max(tall, round(picture.height * scale))
    left, top = (width - wide) // 2, (height - tall) // 2
    if place is not None:
        top, left = int((height - tall + 1) * place[0]), int((width - wide + 1) * place[1])
    # A box filter averages exactly the area that a pixel covers; enlarging needs interpolation.
    filter_ = Image.Resampling.BOX if scale <= 1 else Image.Resampling.BICUBIC
    if width > _LONG * wide or height > _LONG * tall:
        # Resized as a whole, a picture of one column would take gigabytes. The pixels differ by
        # rounding from those made as below, as all usual pictures are.
        across, down = picture.width / width, picture.height / height
        right, bottom = (left + wide) * across, (top + tall) * down
        box = (
            *(left * across, top * down),
            *(min(right, picture.width), min(bottom, picture.height)),
        )
        return picture.resize((wide, tall), filter_, box)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), filter_)
    else:
        picture.load()
    return picture.crop((left, top, left + wide, top + tall))

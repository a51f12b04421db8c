"""Levels: their frames, sizes and names.

The one place where levels are read and named. A square picture is written `64` or `"64"`, a clip of
16 frames `(16, 64)` or `"16x64"`. A picture of 48 rows and 80 columns is `"h48w80"`, a clip of that
size `(16, (48, 80))` or `"16xh48w80"`: a pair of numbers always means frames and size.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from keras_mdm import checks

# Height and width of a picture, or one number if it is square.
Size = int | tuple[int, int]
_NAME = re.compile(r"(?:(\d+)x)?(?:(\d+)|h(\d+)w(\d+))")


@dataclasses.dataclass(frozen=True)
class LevelShape:
    """Frames, height and width of one level.

    Args:
        frames: number of frames of a clip, or `None` for an image.
        size: size of one frame in pixels: a number for a square, else `(height, width)`.

    Example:

    >>> LevelShape(16, 64).name
    '16x64'
    >>> LevelShape(None, (48, 80)).name
    'h48w80'
    >>> LevelShape.parse("64")
    LevelShape(frames=None, size=64)
    """

    frames: int | None
    size: Size

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size("size", self.size))
        if self.frames is not None:
            checks.integer("frames", self.frames, minimum=1, fix="pass frames=None for an image")

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return sides_of(self.size)[0]

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return sides_of(self.size)[1]

    @property
    def name(self) -> str:
        """The level's name: `"64"` or `"h48w80"` for an image, `"16x64"` (frames x size) or
        `"16xh48w80"` for a clip."""
        size = str(self.size) if isinstance(self.size, int) else "h{}w{}".format(*self.size)
        return size if self.frames is None else f"{self.frames}x{size}"

    def of_sample(self, channels: int) -> tuple[int, ...]:
        """Shape of one picture or clip, `([T,] H, W, C)`."""
        frames = () if self.frames is None else (self.frames,)
        return (*frames, self.height, self.width, channels)

    @classmethod
    def parse(cls, level: "LevelShape | str | int | tuple[int | None, Size]") -> "LevelShape":
        """Read a level given as a name, an image size, or a pair (frames, size).

        Args:
            level: for example `"64"`, `"16x64"`, `64`, `(16, 64)`, `"h48w80"` or `(16, (48, 80))`.

        Returns:
            The record; a `LevelShape` is returned unchanged.

        Raises:
            ValueError: if `level` is none of these.
        """
        if isinstance(level, LevelShape):
            return level
        if checks.is_int(level):
            return cls(None, int(level))
        if isinstance(level, tuple | list) and len(level) == 2:
            return cls(*level)
        match = _NAME.fullmatch(level) if isinstance(level, str) else None
        if match is None:
            raise checks.error(
                "A level must be an image size, or frames and size",
                fix='write 64 or "64" for an image, (16, 64) or "16x64" for a clip, "h48w80" or '
                "LevelSpec((48, 80)) for an image that is not square",
                level=level,
            )
        frames, square, *sides = match.groups()
        size = int(square) if square else tuple(map(int, sides))
        return cls(None if frames is None else int(frames), size)


def as_size(name: str, value: Any, *, minimum: int = 1) -> Size:
    """Return a size: a number if it is square, else (height, width).

    Args:
        name: name of the argument, for errors.
        value: a number, or (height, width).
        minimum: smallest value of each side.

    Raises:
        ValueError: if `value` is neither.
    """
    if not isinstance(value, tuple | list):
        return checks.integer(name, value, minimum=minimum)
    if len(value) != 2:
        raise checks.error(
            f"`{name}` must be a number, or height and width",
            fix="pass for example 64 or (48, 80)",
            **{name: value},
        )
    height, width = (checks.integer(f"{name}[]", side, minimum=minimum) for side in value)
    return height if height == width else (height, width)


def sides_of(size: Size) -> tuple[int, int]:
    """Height and width of a size."""
    return (size, size) if isinstance(size, int) else size


def resized(shapes: Sequence[LevelShape], size: Size) -> tuple[LevelShape, ...]:
    """The levels with another size for the highest; the others keep their ratio to it.

    Args:
        shapes: the levels, ascending.
        size: size of the highest level.

    Raises:
        ValueError: if a lower level would not have whole pixels.

    Example:

    >>> [shape.name for shape in resized([LevelShape(None, 16), LevelShape(4, 64)], (48, 80))]
    ['h12w20', '4xh48w80']
    """
    top, (height, width) = shapes[-1], sides_of(as_size("size", size))
    found = []
    for shape in shapes:
        ratio = top.height // shape.height
        if height % ratio or width % ratio:
            raise checks.error(
                f"a size must be divisible by {ratio}, the ratio of the highest level to "
                f"{shape.name!r}",
                fix=f"the nearest size is {nearest_size((height, width), ratio)}",
                size=size,
            )
        found.append(LevelShape(shape.frames, (height // ratio, width // ratio)))
    return tuple(found)


def nearest_size(size: Size, divisor: int) -> Size:
    """The size nearest to one whose sides `divisor` divides."""
    sides = (max(1, round(side / divisor)) * divisor for side in sides_of(size))
    return as_size("size", tuple(sides))

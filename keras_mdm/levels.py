"""Levels: how large what one of them sees is, and how it is called."""

import dataclasses
import re

from keras_mdm import checks


@dataclasses.dataclass(frozen=True)
class LevelShape:
    """Frames and height of one level.

    Args:
        frames: number of frames of a clip, or `None` for an image.
        size: height and width of one frame in pixels.

    Example:

    >>> LevelShape(16, 64).name
    '16x64'
    >>> LevelShape.parse("64")
    LevelShape(frames=None, size=64)
    """

    frames: int | None
    size: int

    def __post_init__(self) -> None:
        checks.integer("size", self.size, minimum=1)
        if self.frames is not None:
            checks.integer("frames", self.frames, minimum=1, fix="pass frames=None for an image")

    @property
    def name(self) -> str:
        """The level's name: `"64"` for an image, `"16x64"` (frames x size) for a clip."""
        return str(self.size) if self.frames is None else f"{self.frames}x{self.size}"

    @classmethod
    def parse(cls, level: "LevelShape | str | int | tuple[int, int]") -> "LevelShape":
        """Read a level written as a name, an image size, or a (frames, size) pair.

        Args:
            level: for example `"64"`, `"16x64"`, `64` or `(16, 64)`.

        Returns:
            The record; a `LevelShape` is returned as it is.

        Raises:
            ValueError: if `level` is none of these.
        """
        if isinstance(level, LevelShape):
            return level
        if checks.is_int(level):
            return cls(None, int(level))
        if isinstance(level, tuple | list) and len(level) == 2:
            return cls(*level)
        match = re.fullmatch(r"(?:(\d+)x)?(\d+)", level) if isinstance(level, str) else None
        if match is None:
            raise checks.error(
                "A level must be an image size or frames and size",
                fix='write 64 or "64" for an image, (16, 64) or "16x64" for a clip',
                level=level,
            )
        frames, size = match.groups()
        return cls(None if frames is None else int(frames), int(size))

"""The sizes at which a network's parts can be used."""

from collections.abc import Sequence

from keras_mdm import checks
from keras_mdm.levels import LevelShape, Size, as_size, nearest_size, resized, sides_of
from keras_mdm.models.specs import LevelSpec


def shapes_at(levels: Sequence[LevelSpec], size: Size) -> tuple[LevelShape, ...]:
    """Return the levels of a network with another size for the highest one.

    Args:
        levels: resolved, ascending.
        size: size of the highest level, a number or `(height, width)`.

    Raises:
        ValueError: if a level would not have whole pixels at its lowest resolution.
    """
    size = as_size("size", size, minimum=2)
    divisor = size_divisor(levels)
    if any(side % divisor for side in sides_of(size)):
        raise checks.error(
            f"height and width must be divisible by {divisor}, or the network has no whole pixels "
            "at its lowest resolution",
            fix=f"pass {nearest_size(size, divisor)}",
            size=size,
        )
    return resized([level.shape for level in levels], size)


def size_divisor(levels: Sequence[LevelSpec]) -> int:
    """The power of two by which the sides of the highest level must be divisible."""
    top = levels[-1].shape.height
    return max(top // level.shape.height * _stride(level) for level in levels)


def _stride(level: LevelSpec) -> int:
    """Number of a level's pixels, down or across, per pixel of its lowest resolution."""
    if level.changes_time or level.resolutions is None:
        return level.patch
    return level.patch * (level.resolutions[0] // level.resolutions[-1])

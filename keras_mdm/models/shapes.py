"""Which sizes a network's parts can be used at."""

from collections.abc import Sequence

from keras_mdm import checks
from keras_mdm.levels import LevelShape, Size, as_size, nearest_size, resized, sides_of
from keras_mdm.models.specs import LevelSpec


def shapes_at(levels: Sequence[LevelSpec], size: Size) -> tuple[LevelShape, ...]:
    """Levels of a network whose highest one has another size.

    Args:
        levels: resolved, ascending.
        size: of the highest level, a number or `(height, width)`.

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
    """What the sides of the highest level must be divisible by, a power of two."""
    top = levels[-1].shape.height
    return max(top // level.shape.height * _stride(level) for level in levels)


def _stride(level: LevelSpec) -> int:
    """How many pixels of a level, down and across, its lowest resolution has one for."""
    if level.changes_time or level.resolutions is None:
        return 1
    return level.resolutions[0] // level.resolutions[-1]

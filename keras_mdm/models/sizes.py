"""A network for pictures of another size or aspect, of the same parts."""

import dataclasses

from keras_mdm import checks
from keras_mdm.levels import LevelShape, Size, as_size, nearest_size, resized, sides_of
from keras_mdm.models.frames import reconnect
from keras_mdm.models.nested_unet import NestedUNet, check_nested
from keras_mdm.models.specs import LevelSpec


def with_size(unet: NestedUNet, size: Size) -> NestedUNet:
    """Connect the parts of a network again for pictures of another size or aspect.

    Nothing that is learned depends on the size: convolutions see their neighbourhood, attention
    over positions has no embedding of them. All levels change alike, so that each stays the same
    part of the one above. The weights are copied.

    Args:
        unet: a network.
        size: of the highest level, a number for squares or `(height, width)`.

    Returns:
        A `NestedUNet`.

    Raises:
        ValueError: if a level would not have whole pixels at its lowest resolution.

    Example:

    >>> unet = build_nested_unet([LevelSpec(16, channels=(32, 64)), 64])
    >>> with_size(unet, (48, 80)).levels
    ('h12w20', 'h48w80')

    Reference: Podell et al. 2023 (arXiv 2307.01952), section 2.3, for one network and many aspects.
    """
    check_nested(unet, "with_size")
    shapes = shapes_at(unet, size)
    levels = (_at(level, shape) for level, shape in zip(unet.spec.levels, shapes, strict=True))
    return reconnect(unet, tuple(levels))


def shapes_at(unet: NestedUNet, size: Size) -> tuple[LevelShape, ...]:
    """Levels of a network whose highest one has another size.

    Args:
        unet: a network.
        size: of the highest level, a number or `(height, width)`.

    Raises:
        ValueError: if a level would not have whole pixels at its lowest resolution.
    """
    size = as_size("size", size, minimum=2)
    divisor = size_divisor(unet)
    if any(side % divisor for side in sides_of(size)):
        raise checks.error(
            f"height and width must be divisible by {divisor}, or the network has no whole pixels "
            "at its lowest resolution",
            fix=f"pass {nearest_size(size, divisor)}",
            size=size,
        )
    return resized([level.shape for level in unet.spec.levels], size)


def size_divisor(unet: NestedUNet) -> int:
    """What the sides of a network's highest level must be divisible by, a power of two."""
    top = unet.spec.levels[-1].shape.height
    return max(top // level.shape.height * _stride(level) for level in unet.spec.levels)


def _stride(level: LevelSpec) -> int:
    """How many pixels of a level, down and across, its lowest resolution has one for."""
    return 1 if level.changes_time else level.resolutions[0] // level.resolutions[-1]


def _at(level: LevelSpec, shape: LevelShape) -> LevelSpec:
    changes = {"size": shape.size}
    if not level.changes_time:
        height = level.shape.height
        changes["resolutions"] = tuple(
            shape.height * resolution // height for resolution in level.resolutions
        )
    return dataclasses.replace(level, **changes)

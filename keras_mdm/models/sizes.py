"""A network for pictures of another size or aspect, made of the same parts."""

import dataclasses

from keras_mdm.levels import LevelShape, Size
from keras_mdm.models.frames import reconnect
from keras_mdm.models.nested_unet import NestedUNet, check_nested
from keras_mdm.models.shapes import shapes_at
from keras_mdm.models.specs import LevelSpec


def with_size(unet: NestedUNet, size: Size) -> NestedUNet:
    """Reconnect the parts of a network for pictures of another size or aspect.

    No learned weight depends on the size: convolutions see a neighbourhood, and attention has no
    position embedding. All levels change alike, so that each keeps its ratio to the one above. The
    weights are copied.

    Args:
        unet: a network.
        size: size of the highest level, a number for squares or `(height, width)`.

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
    shapes = shapes_at(unet.spec.levels, size)
    levels = (_at(level, shape) for level, shape in zip(unet.spec.levels, shapes, strict=True))
    return reconnect(unet, tuple(levels))


def _at(level: LevelSpec, shape: LevelShape) -> LevelSpec:
    changes = {"size": shape.size}
    if not level.changes_time:
        height = level.shape.height
        changes["resolutions"] = tuple(
            shape.height * resolution // height for resolution in level.resolutions
        )
    return dataclasses.replace(level, **changes)

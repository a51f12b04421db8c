"""Heights and widths: how callers write them, and which of several is nearest to a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.levels import as_size, sides_of

Shape = tuple[int, int]
# Pictures handled at a time: few enough to stay in the processor's cache.
_AT_A_TIME = 2**14


def shape_of(name: str, value: Any) -> Shape:
    """Return (height, width) of a size as `levels.as_size` reads it, or raise.

    Example:

    >>> shape_of("size", 64), shape_of("size", (48, 80))
    ((64, 64), (48, 80))
    """
    return sides_of(as_size(name, value))


def check_multiple(of: Shape, size: Shape) -> None:
    """Raise unless `of` is the same whole multiple of `size` in height and in width."""
    if of[0] % size[0] or of[0] // size[0] * size[1] != of[1]:
        raise checks.error(
            "`of` must be a multiple of `size`",
            fix="pass the size of the highest level, or None",
            of=as_size("of", of),
            size=as_size("size", size),
        )


def shapes_of(name: str, value: Any) -> tuple[Shape, ...]:
    """Return several shapes that differ in their proportions, or raise."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise checks.error(
            f"`{name}` must be a list of shapes",
            fix=f"pass for example {name}=[(64, 64), (48, 80), (80, 48)]",
            **{name: value},
        )
    shapes = tuple(shape_of(name, shape) for shape in value)
    if len({width / height for height, width in shapes}) < len(shapes):
        raise checks.error(
            f"no two of `{name}` may have the same proportions: a picture could go into both",
            fix="keep one of them",
            **{name: value},
        )
    return shapes


def nearest(shapes: Sequence[Shape], sizes: Any) -> np.ndarray:
    """Return which shape is nearest to the proportions of each picture.

    The nearest shape's width over height differs by the smallest factor, so that least is cut off.
    If two are equally near, the first one is taken. Quotients of whole numbers, unlike logarithms,
    are rounded the same way everywhere, so all machines agree.

    Args:
        shapes: (height, width) of each shape.
        sizes: (n, 2), height and width of the pictures.

    Returns:
        int64 (n,).

    Example:

    >>> nearest([(64, 64), (48, 80), (80, 48)], [(300, 400), (100, 100), (90, 30)]).tolist()
    [1, 0, 2]
    """
    sizes = np.asarray(sizes, np.int64)
    found = np.zeros(len(sizes), np.int64)
    for first in range(0, len(sizes), _AT_A_TIME):
        part = slice(first, first + _AT_A_TIME)
        heights, widths = np.ascontiguousarray(sizes[part].T)
        best = np.full(len(heights), np.inf)
        for number, (height, width) in enumerate(shapes):
            one, other = widths * height, heights * width
            factor = np.maximum(one, other) / np.minimum(one, other)
            found[part][factor < best] = number
            best = np.minimum(best, factor)
    return found

"""Packs small gradients together for the sum over replicas."""

import math
from collections.abc import Sequence

import tensorflow as tf

# Gradients with fewer elements are packed, as each sum over replicas has a fixed cost.
SMALL_GRADIENT = 2**16


def pack(gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Put the small gradients into one tensor, in front of the others.

    Args:
        gradients: gradients with known shapes and one dtype.
    """
    small = [gradient for gradient in gradients if _is_small(gradient.shape)]
    flat = [tf.reshape(gradient, [-1]) for gradient in small]
    large = [gradient for gradient in gradients if not _is_small(gradient.shape)]
    return [tf.concat(flat, axis=0), *large] if flat else large


def unpack(packed: Sequence[tf.Tensor], shapes: Sequence[Sequence[int]]) -> list[tf.Tensor]:
    """Undo `pack`.

    Args:
        packed: what `pack` returned.
        shapes: shapes of the gradients, in order.
    """
    sizes = [math.prod(shape) for shape in shapes if _is_small(shape)]
    large = iter(packed[1:] if sizes else packed)
    small = iter(tf.split(packed[0], sizes) if sizes else ())
    return [tf.reshape(next(small), s) if _is_small(s) else next(large) for s in shapes]


def _is_small(shape: Sequence[int]) -> bool:
    return math.prod(shape) < SMALL_GRADIENT

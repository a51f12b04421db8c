"""Dense layers on rows, and GELU with its gradient: what TensorFlow fuses into one operation.

A matrix product of two axes takes the bias and an exact GELU that follow it into its own kernel.
With more axes a reshape lies in between, and each of them makes a pass over memory; GELU of
bfloat16 by itself is many times slower still.
"""

import math
from typing import Any

from keras import ops

from keras_mdm.types import Tensor


def by_rows(layer: Any, x: Tensor) -> Tensor:
    """Apply a dense layer to the last axis.

    Args:
        layer: a `keras.layers.Dense`.
        x: `(B, ..., C)`.

    Returns:
        `(B, ..., units)`.
    """
    y = layer(ops.reshape(x, (-1, x.shape[-1])))
    return ops.reshape(y, (-1, *_middle(x), y.shape[-1]))


def feed_forward(first: Any, second: Any, x: Tensor) -> Tensor:
    """Dense, exact GELU, dense; arguments as in `by_rows`."""
    y = second(gelu(first(ops.reshape(x, (-1, x.shape[-1])))))
    return ops.reshape(y, (-1, *_middle(x), y.shape[-1]))


def _middle(x: Tensor) -> list:
    """The axes between batch and channels; those of unknown length as a tensor."""
    known = list(x.shape[1:-1])
    if None in known:
        asked = ops.shape(x)[1:-1]
        known = [b if a is None else a for a, b in zip(known, asked, strict=True)]
    return known


@ops.custom_gradient
def gelu(x: Tensor) -> tuple:
    """x * (1 + erf(x / sqrt(2))) / 2.

    Its gradient keeps only `x`, and computes in float32 under any precision.

    Reference: Hendrycks and Gimpel 2016 (arXiv 1606.08415).
    """
    # In this form and order TensorFlow recognises it. Its own is written with erfc, which takes
    # four times as long wherever it is not fused, as in training.
    y = 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))

    def gradient(*args: Any, upstream: Tensor = None) -> Tensor:
        dy = args[0] if upstream is None else upstream
        x32 = ops.cast(x, "float32")
        cumulative = 0.5 * (1.0 + ops.erf(x32 * math.sqrt(0.5)))
        density = ops.exp(-0.5 * ops.square(x32)) / math.sqrt(2.0 * math.pi)
        return ops.cast(ops.cast(dy, "float32") * (cumulative + x32 * density), x.dtype)

    return y, gradient

"""Pictures in whole batches of one size: one graph, and the same result in any company."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks


def in_batches(
    network: Callable[[tf.Tensor], Any], items: np.ndarray, batch: int, width: int
) -> np.ndarray:
    """Run a network on items, always the same number at a time.

    The last batch is filled up with its last item, and the result cut again. A network is therefore
    traced once, and the sums inside it are the same however many items there are.

    Args:
        network: function of `batch` items (batch, ...) to features (batch, width).
        items: (n, ...), any number.
        batch: how many items go through the network at a time.
        width: features per item, for the result of none.

    Returns:
        float32 (n, width).

    Example:

    >>> def double(items):
    ...     print(len(items))
    ...     return 2 * items
    >>> in_batches(double, np.arange(5.0)[:, None], batch=4, width=1)[:, 0].tolist()
    4
    4
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    found = np.zeros((len(items), width), "float32")
    for begin in range(0, len(items), batch):
        part = items[begin : begin + batch]
        rows = np.minimum(np.arange(batch), len(part) - 1)
        found[begin : begin + len(part)] = np.asarray(network(tf.constant(part[rows])))[: len(part)]
    return found


def checked(images: Any, *, clips: bool = False) -> np.ndarray:
    """Return pictures, or clips, as an array, or raise unless they are RGB bytes.

    Args:
        images: uint8 (B, H, W, 3), or (B, F, H, W, 3) for clips.
        clips: which of the two.

    Raises:
        ValueError: if they are something else.
    """
    found = np.asarray(images)
    if found.dtype == np.uint8 and found.ndim == 4 + clips and found.shape[-1] == 3:
        return found
    kind, shape = ("clips", "(B, F, H, W, 3)") if clips else ("pictures", "(B, H, W, 3)")
    raise checks.error(
        f"{kind} must be uint8 {shape}",
        fix=f"pass the {kind} of one level; put transparent ones on white, and give grey ones "
        "three channels",
        shape=found.shape,
        dtype=str(found.dtype),
    )

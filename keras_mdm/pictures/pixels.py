"""The one place that converts between the pixels of files and those of the process."""

from typing import Any

import tensorflow as tf

# Channels of pictures that files can hold: grey, RGB, RGB with transparency. Data with other
# numbers of channels are codes.
PICTURE_CHANNELS = (1, 3, 4)


def to_unit(pixels: Any) -> tf.Tensor:
    """Turn uint8 pixels into float32 in [-1, 1].

    Args:
        pixels: uint8 of any shape.

    Returns:
        float32 of the same shape: x / 127.5 - 1.

    Example:

    >>> to_unit([0, 255]).numpy().tolist()
    [-1.0, 1.0]
    """
    return tf.cast(pixels, tf.float32) / 127.5 - 1.0


def to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Turn values in [-1, 1] into uint8 pixels; undoes `to_unit`.

    Args:
        values: floats of any shape; values outside the range are clipped.

    Returns:
        uint8 of the same shape: round((x + 1) * 127.5).

    Example:

    >>> to_uint8(tf.constant([-1.0, 0.5, 7.0])).numpy().tolist()
    [0, 191, 255]
    """
    return tf.cast(tf.clip_by_value(tf.round((values + 1.0) * 127.5), 0.0, 255.0), tf.uint8)

"""Squares of pixels as the channels of one position, and back."""

from keras import ops

from keras_mdm.types import Tensor


def to_patches(x: Tensor, patch: int) -> Tensor:
    """Make the pixels of each square of `(R, H, W, C)` the channels of one position,
    `(R, H/p, W/p, p*p*C)`."""
    if patch == 1:
        return x
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // patch, patch, width // patch, patch, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height // patch, width // patch, patch * patch * channels))


def from_patches(x: Tensor, patch: int) -> Tensor:
    """The inverse of `to_patches`."""
    if patch == 1:
        return x
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height, width, patch, patch, channels // patch**2))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height * patch, width * patch, channels // patch**2))

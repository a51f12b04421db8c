"""Diffusion over the codes of an autoencoder: the same levels, over another space.

A level's pictures may be codes: `build_nested_unet([8, 16], in_channels=48, out_channels=48)` is a
network over 16 x 16 codes of 48 channels and their 8 x 8 averages. Everything else stays the same:
batches hold codes as `image` (float32), and `generate(..., threshold="none", output="float32")`
returns them. `to_codes` turns batches of pictures into batches of codes, `SampleGrid(codec=)` shows
samples as pictures, and `keras-mdm sample` writes codes as .npy files.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.pictures import pixels


@runtime_checkable
class Codec(Protocol):
    """A frozen map from pictures to codes and back.

    Attributes:
        factor: how many times smaller codes are than pictures, in height and in width.
        channels: channels of the codes.
    """

    factor: int
    channels: int

    def encode(self, images: Any) -> tf.Tensor:
        """Return codes (B, H / factor, W / factor, channels) float32, of about unit scale, of
        pictures (B, H, W, 3) in [-1, 1]."""
        ...

    def decode(self, codes: Any) -> tf.Tensor:
        """Return pictures (B, H, W, 3) of codes."""
        ...


class SpaceToDepth:
    """A lossless codec without weights: blocks of pixels become channels.

    Codes of neighbouring blocks are as alike as the blocks, so a pyramid of codes means what a
    pyramid of pictures means. A trained autoencoder also compresses.

    Args:
        factor: side of the blocks.
        image_channels: channels of the pictures.

    Raises:
        ValueError: if an argument is not a positive integer; in `encode`, if the pictures cannot
            be divided into blocks.

    Example:

    >>> codec = SpaceToDepth(4)
    >>> codes = codec.encode(tf.zeros((2, 64, 64, 3)))
    >>> tuple(codes.shape), tuple(codec.decode(codes).shape)
    ((2, 16, 16, 48), (2, 64, 64, 3))

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 6, on latent spaces.
    """

    def __init__(self, factor: int = 4, *, image_channels: int = 3):
        self.factor = checks.integer("factor", factor, minimum=1)
        self.image_channels = checks.integer("image_channels", image_channels, minimum=1)
        self.channels = self.image_channels * self.factor**2

    def encode(self, images: Any) -> tf.Tensor:
        """Return codes (B, H / factor, W / factor, channels) of pictures (B, H, W, C)."""
        images = tf.convert_to_tensor(images)
        shape = images.shape
        fits = len(shape) == 4 and shape[-1] == self.image_channels
        if not fits or shape[1] % self.factor or shape[2] % self.factor:
            raise checks.error(
                f"pictures must be (B, H, W, {self.image_channels}) with sides that are multiples "
                f"of {self.factor}",
                fix="resize them, or choose another factor",
                shape=tuple(shape),
            )
        if images.dtype == tf.uint8:
            images = pixels.to_unit(images)
        return tf.nn.space_to_depth(images, self.factor) if self.factor > 1 else images

    def decode(self, codes: Any) -> tf.Tensor:
        """Return pictures (B, H, W, C) of codes (B, H / factor, W / factor, channels)."""
        codes = tf.convert_to_tensor(codes)
        return tf.nn.depth_to_space(codes, self.factor) if self.factor > 1 else codes


def to_codes(dataset: tf.data.Dataset, codec: Codec) -> tf.data.Dataset:
    """Turn a dataset of pictures into one of codes, for a model of codes.

    Args:
        dataset: batches with "image" (B, H, W, C), uint8 or in [-1, 1], as from
            `keras_mdm.data.image_dataset`.
        codec: makes the codes.

    Returns:
        The dataset with float32 codes in place of the pictures; everything else is unchanged.

    Example:

    >>> batches = to_codes(batches, SpaceToDepth(4))  # doctest: +SKIP
    """

    def encode(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        images = batch["image"]
        images = pixels.to_unit(images) if images.dtype == tf.uint8 else images
        return {**batch, "image": tf.cast(codec.encode(images), tf.float32)}

    return dataset.map(encode, num_parallel_calls=tf.data.AUTOTUNE)


def to_pictures(codec: Codec, codes: Any) -> np.ndarray:
    """Decode codes to uint8 pictures.

    Args:
        codec: the codec that made the codes.
        codes: (B, h, w, channels).

    Returns:
        (B, H, W, C) uint8.
    """
    images = tf.cast(codec.decode(tf.cast(codes, tf.float32)), tf.float32)
    return pixels.to_uint8(images).numpy()

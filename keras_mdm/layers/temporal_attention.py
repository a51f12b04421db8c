"""Attention over the frames of a clip."""

from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.layers.attention import TokenAttention
from keras_mdm.layers.initializers import conv, derive_seed
from keras_mdm.layers.resampling import double_pixels
from keras_mdm.types import Shape, Tensor

HEAD_WIDTH = 32


@keras.saving.register_keras_serializable("keras_mdm")
class TemporalAttention(keras.layers.Layer):
    """Attention over time at half the spatial resolution, added to the feature map.

    A stride-2 convolution halves the picture, every pixel attends over the frames of its clip
    (a `TokenAttention` with heads of width 32), and a nearest-neighbour doubling with a convolution
    returns to full size. Cost grows with the frames squared, never with the pixels squared.

    Args:
        frames: frames per clip in the input.
        rotary: rotary positions over time.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B*T, H, W, C)`, the frames of one clip adjacent; C a multiple of 32, H and W even.

    Returns:
        `(B*T, H, W, C)` in the compute dtype.

    Raises:
        ValueError: if C is not a multiple of 32, or H or W is odd.

    Example:

    >>> TemporalAttention(4)(keras.ops.ones((8, 8, 8, 32))).shape
    TensorShape([8, 8, 8, 32])

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A, figure 10.
    """

    def __init__(self, frames: int, *, rotary: bool = False, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.frames = checks.integer("frames", frames, minimum=1)
        self.rotary = rotary
        self.seed = seed

    def build(self, x_shape: Shape) -> None:
        _, height, width, channels = x_shape
        if channels % HEAD_WIDTH or height % 2 or width % 2:
            raise checks.error(
                f"temporal attention needs a multiple of {HEAD_WIDTH} channels and even sides",
                fix="change the level's channels or size, or remove its temporal attention",
                channels=channels,
                height=height,
                width=width,
            )
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        self.down_conv = conv("down_conv", channels, channels, strides=2, padding="valid", **given)
        self.up_conv = conv("up_conv", channels, channels, **given)
        self.attention = TokenAttention(
            heads=channels // HEAD_WIDTH,
            rotary=self.rotary,
            name="attention",
            seed=derive_seed(self.seed, "attention"),
            dtype=self.dtype_policy,
        )
        self.down_conv.build((None, None, None, channels))
        self.attention.build((None, self.frames, channels))
        self.up_conv.build((None, None, None, channels))

    def call(self, x: Tensor) -> Tensor:
        h = self.down_conv(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
        _, height, width, channels = h.shape
        h = ops.reshape(h, (-1, self.frames, height * width, channels))
        h = ops.reshape(ops.transpose(h, (0, 2, 1, 3)), (-1, self.frames, channels))
        h = self.attention(h)  # (B*H*W, T, C)
        h = ops.reshape(h, (-1, height * width, self.frames, channels))
        h = ops.reshape(ops.transpose(h, (0, 2, 1, 3)), (-1, height, width, channels))
        return x + self.up_conv(double_pixels(h))

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return x_shape

    def get_config(self) -> dict:
        config = {"frames": self.frames, "rotary": self.rotary, "seed": self.seed}
        return {**super().get_config(), **config}

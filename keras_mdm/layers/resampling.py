"""Halving and doubling of a feature map, in space or in time."""

from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.layers.initializers import conv
from keras_mdm.types import Shape, Tensor


class _Resample(keras.layers.Layer):
    """Base of `Downsample` and `Upsample`: one convolution that keeps the channels.

    Feature maps of a clip are rows: `(B*T, H, W, C)` with the frames of one clip adjacent. Along
    time, the pixels of a frame are one axis: `(B, T, H*W, C)`.
    """

    def __init__(
        self, *, factor: int = 2, axis: str = "space", frames: int = 1, seed: int = 0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.factor = checks.one_of("factor", factor, (1, 2))
        self.axis = checks.one_of("axis", axis, ("space", "time"))
        self.frames = checks.integer("frames", frames, minimum=1)
        self.seed = seed

    def _build_conv(self, x_shape: Shape, *, strides: int) -> None:
        channels = x_shape[-1]
        along_time = self.axis == "time"
        self.conv = conv(
            "conv",
            channels,
            channels,
            kernel_size=(3, 1) if along_time else 3,
            strides=(strides, 1) if along_time else strides,
            padding="same" if strides == 1 else "valid",
            seed=self.seed,
            dtype=self.dtype_policy,
        )
        self.conv.build((None, None, None, channels))

    def _to_time(self, x: Tensor) -> Tensor:
        """(B*T, H, W, C) -> (B, T, H*W, C)."""
        _, height, width, channels = x.shape
        return ops.reshape(x, (-1, self.frames, height * width, channels))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "factor": self.factor,
            "axis": self.axis,
            "frames": self.frames,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("keras_mdm")
class Downsample(_Resample):
    """Convolution of stride 2, padded equally on both sides.

    Args:
        factor: 2, or 1 for a level that repeats a resolution.
        axis: `"space"` (3x3 kernel) or `"time"` (kernel of 3 frames, applied to each pixel).
        frames: frames per clip in the input; only used along time.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B*T, H, W, C)`, the frames of one clip adjacent.

    Returns:
        `(B*T, H/2, W/2, C)` in space, `(B*T/2, H, W, C)` in time.

    Example:

    >>> Downsample()(keras.ops.ones((1, 8, 8, 32))).shape
    TensorShape([1, 4, 4, 32])

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A (convolution-based resampling).
    """

    def build(self, x_shape: Shape) -> None:
        self._build_conv(x_shape, strides=self.factor)

    def call(self, x: Tensor) -> Tensor:
        if self.factor == 1:
            return self.conv(x)
        # "same" would pad only the bottom and the right at stride 2.
        if self.axis == "space":
            return self.conv(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
        _, height, width, channels = x.shape
        clips = ops.pad(self._to_time(x), ((0, 0), (1, 1), (0, 0), (0, 0)))
        return ops.reshape(self.conv(clips), (-1, height, width, channels))

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        rows, height, width, channels = x_shape
        if self.axis == "space":
            return rows, height // self.factor, width // self.factor, channels
        return None if rows is None else rows // self.factor, height, width, channels


@keras.saving.register_keras_serializable("keras_mdm")
class Upsample(_Resample):
    """Nearest-neighbour doubling followed by a convolution.

    Args:
        factor: 2, or 1 for a level that repeats a resolution.
        axis: `"space"` (3x3 kernel) or `"time"` (kernel of 3 frames, applied to each pixel).
        frames: frames per clip in the input; only used along time.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B*T, H, W, C)`, the frames of one clip adjacent.

    Returns:
        `(B*T, 2*H, 2*W, C)` in space, `(2*B*T, H, W, C)` in time.

    Example:

    >>> Upsample(axis="time", frames=4)(keras.ops.ones((4, 8, 8, 32))).shape
    TensorShape([8, 8, 8, 32])

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A (convolution-based resampling).
    """

    def build(self, x_shape: Shape) -> None:
        self._build_conv(x_shape, strides=1)

    def call(self, x: Tensor) -> Tensor:
        if self.factor == 1:
            return self.conv(x)
        if self.axis == "space":
            return self.conv(double_pixels(x))
        _, height, width, channels = x.shape
        clips = ops.repeat(self._to_time(x), 2, axis=1)
        return ops.reshape(self.conv(clips), (-1, height, width, channels))

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        rows, height, width, channels = x_shape
        if self.axis == "space":
            return rows, height * self.factor, width * self.factor, channels
        return None if rows is None else rows * self.factor, height, width, channels


def double_pixels(x: Tensor) -> Tensor:
    """Repeat every pixel of `(B, H, W, C)` twice along both sides: `(B, 2*H, 2*W, C)`.

    Broadcasting keeps the dtype; a resize operation would compute in float32.
    """
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height, 1, width, 1, channels))
    x = ops.broadcast_to(x, (ops.shape(x)[0], height, 2, width, 2, channels))
    return ops.reshape(x, (-1, 2 * height, 2 * width, channels))

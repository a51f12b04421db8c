"""Group normalisation that also applies the time conditioning."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mdm import checks
from keras_mdm.backends import runs_on_tensorflow
from keras_mdm.types import Shape, Tensor


def _pool(per_channel: Tensor, groups: int) -> Tensor:
    """Average `(B, 1, ..., C)` over the channels of each group; every channel gets its average."""
    *middle, channels = per_channel.shape[1:]
    shares = ops.reshape(per_channel, (-1, groups, channels // groups))
    # Multiplied by ones, as `ops.repeat` takes twenty TensorFlow operations to trace. Not with `*`,
    # because PyTorch multiplies by NumPy arrays only on the CPU.
    ones = np.ones((1, 1, channels // groups), np.float32)
    pooled = ops.multiply(ops.mean(shares, axis=-1, keepdims=True), ones)
    return ops.reshape(pooled, (-1, *middle, channels))


def _zero_after(tensor: Tensor) -> Tensor:
    """A zero that depends on `tensor`, so that it is not computed earlier.

    The part of a gradient that depends on the input alone could run during the forward pass and
    would be kept from then on. Adding this zero delays it.
    """
    corner = ops.slice(tensor, (0,) * len(tensor.shape), (1,) * len(tensor.shape))
    return ops.minimum(ops.abs(ops.cast(ops.reshape(corner, ()), "float32")), 0.0)


def normalize(
    x: Tensor, gain: Tensor, bias: Tensor, *, groups: int, epsilon: float, silu: bool
) -> Tensor:
    """Group normalisation, affine conditioning and SiLU as one operation.

    Written out because on wide feature maps memory traffic costs more than arithmetic. The
    statistics are taken per channel and pooled over the group, everything after them is folded into
    one multiplication and one addition per value, and the gradient is a closed form that needs only
    `x` and sums over pixels instead of one saved tensor per operation.

    Args:
        x: `(B, ..., C)`.
        gain: `(B, C)` float32.
        bias: `(B, C)` float32.
        groups: number of groups.
        epsilon: added to the variance.
        silu: apply x * sigmoid(x) to the result.

    Returns:
        `(B, ..., C)` in the dtype of `x`.

    Reference: Wu and He 2018 (arXiv 1803.08494), equations 1 and 2.
    """
    if not runs_on_tensorflow():
        return _operation(x, gain, bias, groups, epsilon, silu)
    from keras_mdm.tracing import traced_once

    # A network has dozens of these in a few shapes, each of 60 operations and 100 for its gradient.
    operation = traced_once(_operation, groups=groups, epsilon=epsilon, silu=silu)
    return operation(x, gain, bias)


def _operation(
    x: Tensor, gain: Tensor, bias: Tensor, groups: int, epsilon: float, silu: bool
) -> Tensor:
    axes = tuple(range(1, len(x.shape) - 1))
    spread = (-1, *(1 for _ in axes), x.shape[-1])
    pixels = math.prod(x.shape[axis] for axis in axes)

    @ops.custom_gradient
    def operation(x: Tensor, gain: Tensor, bias: Tensor) -> tuple:
        # From here on (B, 1, ..., C), broadcast over the pixels.
        gain, bias = ops.reshape(gain, spread), ops.reshape(bias, spread)
        x32 = ops.cast(x, "float32")
        mean = _pool(ops.mean(x32, axis=axes, keepdims=True), groups)
        squares = ops.square(x32 - mean)
        variance = _pool(ops.mean(squares, axis=axes, keepdims=True), groups)
        scale = ops.rsqrt(variance + epsilon)
        slope = gain * scale
        offset = bias - slope * mean
        y = x * ops.cast(slope, x.dtype) + ops.cast(offset, x.dtype)

        def gradient(*args: Any, upstream: Tensor = None) -> tuple:
            dy = args[0] if upstream is None else upstream
            if silu:
                later = _zero_after(dy)
                y = x * ops.cast(slope + later, x.dtype) + ops.cast(offset + later, x.dtype)
                # The sigmoid of bfloat16 is slower than two casts.
                gate = ops.cast(ops.sigmoid(ops.cast(y, "float32")), x.dtype)
                # In this order each product can overwrite an operand that is no longer needed.
                dy = (dy * gate) * (1.0 + (1.0 - gate) * y)
            dy32 = ops.cast(dy, "float32")
            d_bias = ops.sum(dy32, axis=axes, keepdims=True)
            centred = ops.cast(x, "float32") - (mean + _zero_after(dy))
            d_gain = scale * ops.sum(dy32 * centred, axis=axes, keepdims=True)
            # d normalised = dy * gain; its mean and its projection on x are subtracted per group.
            along_one = _pool(d_bias * gain, groups) / pixels
            along_x = scale * scale * _pool(d_gain * gain, groups) / pixels
            dx = dy * ops.cast(slope, x.dtype) - (
                x * ops.cast(along_x, x.dtype)
                + ops.cast(scale * along_one - along_x * mean, x.dtype)
            )
            narrow = (-1, x.shape[-1])
            return dx, ops.reshape(d_gain, narrow), ops.reshape(d_bias, narrow)

        return ops.silu(y) if silu else y, gradient

    return operation(x, gain, bias)


@keras.saving.register_keras_serializable("keras_mdm")
class GroupNorm(keras.layers.Layer):
    """Group normalisation with an optional scale and shift per sample.

    Equal to `keras.layers.GroupNormalization(groups, epsilon=1e-5)` followed by
    `x * (1 + scale) + shift` and the activation, but cheaper (see `normalize`). Statistics are
    computed in two passes in float32 under any dtype policy.

    Args:
        groups: number of groups; must divide the number of channels.
        epsilon: added to the variance. PyTorch's default 1e-5, not Keras' 1e-3.
        activation: `"silu"` or `None`, applied to the result.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B, ..., C)` with one or more axes between batch and channels.
        scale_shift: optional `(B, 2*C)`, scale first (the time conditioning of a `ResBlock`).

    Returns:
        `(B, ..., C)` in the compute dtype.

    Raises:
        ValueError: if `groups` does not divide the number of channels.

    Example:

    >>> GroupNorm(32)(keras.ops.ones((1, 8, 8, 64))).shape
    TensorShape([1, 8, 8, 64])

    Reference: Wu and He 2018 (arXiv 1803.08494); scale-shift conditioning after
    Nichol and Dhariwal 2021 (arXiv 2102.09672).
    """

    def __init__(
        self,
        groups: int = 32,
        *,
        epsilon: float = 1e-5,
        activation: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.activation = checks.one_of("activation", activation, (None, "silu"))
        self.groups = checks.integer("groups", groups, minimum=1)
        self.epsilon = epsilon

    def build(self, x_shape: Shape, scale_shift_shape: Shape | None = None) -> None:
        channels = x_shape[-1]
        if channels % self.groups:
            raise checks.error(
                "`groups` must divide the number of channels",
                fix="choose channels that are a multiple of the groups",
                groups=self.groups,
                channels=channels,
            )
        # No autocast: statistics and affine weights are combined in float32 under any policy.
        given = {"shape": (channels,), "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **given)
        self.beta = self.add_weight(name="beta", initializer="zeros", **given)

    def call(self, x: Tensor, scale_shift: Tensor = None) -> Tensor:
        rows = (ops.shape(x)[0], x.shape[-1])
        gain = ops.broadcast_to(ops.cast(self.gamma, "float32"), rows)
        bias = ops.broadcast_to(ops.cast(self.beta, "float32"), rows)
        if scale_shift is not None:
            scale, shift = ops.split(ops.cast(scale_shift, "float32"), 2, axis=-1)
            gain, bias = gain * (1.0 + scale), bias * (1.0 + scale) + shift
        return normalize(
            x, gain, bias, groups=self.groups, epsilon=self.epsilon, silu=self.activation == "silu"
        )

    def compute_output_shape(self, x_shape: Shape, scale_shift_shape: Shape | None = None) -> Shape:
        return x_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "groups": self.groups,
            "epsilon": self.epsilon,
            "activation": self.activation,
        }

"""The residual block of every UNet level."""

from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.layers.initializers import conv, dense
from keras_mdm.layers.normalization import GroupNorm
from keras_mdm.layers.own_layers import Place
from keras_mdm.layers.rows import by_rows
from keras_mdm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_mdm")
class ResBlock(keras.layers.Layer):
    """Residual block with scale-shift time conditioning.

    norm, SiLU, 3x3 convolution, norm modulated by the time embedding, SiLU, 3x3 convolution that
    starts at zero; the skip is a 1x1 convolution if the number of channels changes.

    Args:
        channels: channels of the output.
        groups: groups of both normalisations.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B, H, W, C)`.
        time_embedding: `(B, E)`.
        skip: optional `(B, H, W, S)` that joins `x` as further channels.

    Returns:
        `(B, H, W, channels)` in the compute dtype.

    Example:

    >>> block = ResBlock(64)
    >>> block(keras.ops.ones((2, 8, 8, 32)), keras.ops.ones((2, 128))).shape
    TensorShape([2, 8, 8, 64])

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A; Nichol and Dhariwal 2021.
    """

    def __init__(self, channels: int, *, groups: int = 32, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = checks.integer("channels", channels, minimum=1)
        self.groups = groups
        self.seed = seed

    def build(
        self, x_shape: Shape, time_embedding_shape: Shape, skip_shape: Shape | None = None
    ) -> None:
        added = skip_shape[-1] if skip_shape else 0
        x_shape = (*x_shape[:-1], x_shape[-1] + added)
        in_channels, width = x_shape[-1], time_embedding_shape[-1]
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        middle = (*x_shape[:-1], self.channels)
        norm = {"activation": "silu", "dtype": self.dtype_policy}
        self.norm1 = GroupNorm(self.groups, name="norm1", **norm)
        self.conv1 = conv("conv1", in_channels, self.channels, **given)
        self.time_layer = dense("time_layer", width, 2 * self.channels, **given)
        self.norm2 = GroupNorm(self.groups, name="norm2", **norm)
        self.conv2 = conv("conv2", self.channels, self.channels, zero=True, **given)
        self.norm1.build(x_shape)
        self.conv1.build(x_shape)
        self.time_layer.build(time_embedding_shape)
        self.norm2.build(middle)
        self.conv2.build(middle)
        self.skip = None
        if in_channels != self.channels:
            self.skip = dense("skip", in_channels, self.channels, **given)
            self.skip.build(x_shape)

    def call(self, x: Tensor, time_embedding: Tensor, skip: Tensor = None) -> Tensor:
        if skip is not None:  # inside, so that recomputation does not keep the joined tensor
            x = ops.concatenate([x, skip], axis=-1)
        h = self.conv1(self.norm1(x))
        scale_shift = self.time_layer(ops.silu(time_embedding))
        h = self.conv2(self.norm2(h, scale_shift=scale_shift))
        return h + (x if self.skip is None else by_rows(self.skip, x))

    def compute_output_shape(
        self, x_shape: Shape, time_embedding_shape: Shape, skip_shape: Shape | None = None
    ) -> Shape:
        return (*x_shape[:-1], self.channels)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "channels": self.channels,
            "groups": self.groups,
            "seed": self.seed,
        }


RESBLOCK = Place("resblock", ResBlock)

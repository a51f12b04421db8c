"""Encoder and decoder of `KLAutoencoder`.

Layers are named as in the authors' code of latent diffusion, so that their files fit by name alone
(`keras_mdm.latents.compvis`): `down.0.block.1` is the second block at the highest resolution. They
are parts of the model, which alone is saved and made again.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_mdm.layers.attention import attend, split_heads
from keras_mdm.layers.initializers import conv, dense, derive_seed
from keras_mdm.layers.normalization import GroupNorm
from keras_mdm.layers.resampling import Upsample
from keras_mdm.types import Shape, Tensor

EPSILON = 1e-6  # of all normalisations


class CodecBlock(keras.layers.Layer):
    """Residual block without time: norm, SiLU, 3x3 convolution, twice.

    The last convolution starts at zero; the skip is a 1x1 convolution if the number of channels
    changes.

    Args:
        channels: channels of the output.
        groups: groups of both normalisations.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B, H, W, C)`.

    Returns:
        `(B, H, W, channels)`.

    Reference: Rombach et al. 2022 (arXiv 2112.10752), appendix G.
    """

    def __init__(self, channels: int, *, groups: int = 32, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels, self.groups, self.seed = channels, groups, seed

    def build(self, x_shape: Shape) -> None:
        arrive = x_shape[-1]
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        norm = {"epsilon": EPSILON, "activation": "silu", "dtype": self.dtype_policy}
        middle = (*x_shape[:-1], self.channels)
        self.norm1 = GroupNorm(self.groups, name="norm1", **norm)
        self.conv1 = conv("conv1", arrive, self.channels, **given)
        self.norm2 = GroupNorm(self.groups, name="norm2", **norm)
        self.conv2 = conv("conv2", self.channels, self.channels, zero=True, **given)
        self.norm1.build(x_shape)
        self.conv1.build(x_shape)
        self.norm2.build(middle)
        self.conv2.build(middle)
        self.nin_shortcut = None
        if arrive != self.channels:
            self.nin_shortcut = dense("nin_shortcut", arrive, self.channels, **given)
            self.nin_shortcut.build(x_shape)

    def call(self, x: Tensor) -> Tensor:
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return (*x_shape[:-1], self.channels)


class PixelAttention(keras.layers.Layer):
    """Self-attention over the pixels of a feature map, with one head; starts as the identity.

    Args:
        groups: groups of the normalisation.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B, H, W, C)`.

    Returns:
        `(B, H, W, C)`.

    Reference: Rombach et al. 2022 (arXiv 2112.10752), appendix G.
    """

    def __init__(self, *, groups: int = 32, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.groups, self.seed = groups, seed

    def build(self, x_shape: Shape) -> None:
        channels = x_shape[-1]
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        self.norm = GroupNorm(self.groups, epsilon=EPSILON, name="norm", dtype=self.dtype_policy)
        self.q, self.k, self.v = (dense(name, channels, channels, **given) for name in "qkv")
        self.proj_out = dense("proj_out", channels, channels, zero=True, **given)
        for layer in (self.norm, self.q, self.k, self.v, self.proj_out):
            layer.build(x_shape)

    def call(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        pixels = ops.reshape(self.norm(x), (-1, height * width, channels))
        heads = [split_heads(layer(pixels), 1, 1)[0] for layer in (self.q, self.k, self.v)]
        return x + ops.reshape(self.proj_out(attend(*heads)), (-1, height, width, channels))

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return x_shape


class CodecDownsample(keras.layers.Layer):
    """Convolution of stride 2, padded below and on the right only.

    Args:
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B, H, W, C)`.

    Returns:
        `(B, H/2, W/2, C)`.
    """

    def __init__(self, *, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, x_shape: Shape) -> None:
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        channels = x_shape[-1]
        self.conv = conv("conv", channels, channels, strides=2, padding="valid", **given)
        self.conv.build((None, None, None, channels))

    def call(self, x: Tensor) -> Tensor:
        return self.conv(ops.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        rows, height, width, channels = x_shape
        return rows, height // 2, width // 2, channels


@dataclasses.dataclass(frozen=True)
class Step:
    """One layer of a path: "block", "attention", "downsample" or "upsample", and its channels."""

    kind: str
    name: str
    channels: int


def encoder_steps(
    channels: Sequence[int], blocks: int, attention: Sequence[int]
) -> tuple[Step, ...]:
    """The layers of an encoder, in order.

    Args:
        channels: per resolution, the highest first.
        blocks: blocks per resolution.
        attention: per resolution, whether attention follows every block.
    """
    steps = list(_resolutions("down", channels, blocks, attention))
    return (*steps, *_middle(channels[-1]))


def decoder_steps(
    channels: Sequence[int], blocks: int, attention: Sequence[int]
) -> tuple[Step, ...]:
    """The layers of the decoder of the same codes: one block more per resolution, the lowest
    first."""
    steps = list(_resolutions("up", channels, blocks + 1, attention))
    return (*_middle(channels[-1]), *steps)


def _resolutions(
    way: str, channels: Sequence[int], blocks: int, attention: Sequence[int]
) -> Iterator[Step]:
    order = range(len(channels))
    for number in order if way == "down" else reversed(order):
        width = channels[number]
        for block in range(blocks):
            yield Step("block", f"{way}.{number}.block.{block}", width)
            if attention[number]:
                yield Step("attention", f"{way}.{number}.attn.{block}", width)
        if way == "down" and number < len(channels) - 1:
            yield Step("downsample", f"down.{number}.downsample", width)
        if way == "up" and number > 0:
            yield Step("upsample", f"up.{number}.upsample", width)


def _middle(width: int) -> tuple[Step, ...]:
    return (
        Step("block", "mid.block_1", width),
        Step("attention", "mid.attn_1", width),
        Step("block", "mid.block_2", width),
    )


class CodecPath(keras.layers.Layer):
    """A convolution, the steps one after the other, norm, SiLU, a convolution in float32.

    Args:
        steps: the layers between the first and the last convolution.
        out_channels: channels of the result.
        groups: groups of all normalisations.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B, H, W, C)`.

    Returns:
        `(B, h, w, out_channels)` float32.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        out_channels: int,
        *,
        groups: int = 32,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.steps, self.out_channels = tuple(steps), out_channels
        self.groups, self.seed = groups, seed

    def build(self, x_shape: Shape) -> None:
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        self.conv_in = conv("conv_in", x_shape[-1], self.steps[0].channels, **given)
        self.conv_in.build(x_shape)
        shape = (*x_shape[:-1], self.steps[0].channels)
        self.inside = [self._made(step) for step in self.steps]
        for layer in self.inside:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        norm = {"epsilon": EPSILON, "activation": "silu", "dtype": self.dtype_policy}
        self.norm_out = GroupNorm(self.groups, name="norm_out", **norm)
        self.norm_out.build(shape)
        # In float32: a rounded picture is grainy, and so is a rounded variance.
        self.conv_out = conv(
            "conv_out", shape[-1], self.out_channels, seed=self.seed, dtype="float32"
        )
        self.conv_out.build(shape)

    def _made(self, step: Step) -> keras.layers.Layer:
        seed = derive_seed(self.seed, step.name)
        given = {"seed": seed, "name": step.name, "dtype": self.dtype_policy}
        if step.kind == "block":
            return CodecBlock(step.channels, groups=self.groups, **given)
        if step.kind == "attention":
            return PixelAttention(groups=self.groups, **given)
        return CodecDownsample(**given) if step.kind == "downsample" else Upsample(**given)

    def call(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for layer in self.inside:
            x = layer(x)
        return self.conv_out(ops.cast(self.norm_out(x), "float32"))

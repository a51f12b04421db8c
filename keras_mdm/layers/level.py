"""What the parts of all levels share: the way down, the way up, the output."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mdm.layers.attention import SPATIAL_ATTENTION
from keras_mdm.layers.initializers import conv, derive_seed
from keras_mdm.layers.normalization import GroupNorm
from keras_mdm.layers.patches import from_patches
from keras_mdm.layers.resampling import Downsample, Upsample
from keras_mdm.layers.resblock import RESBLOCK
from keras_mdm.layers.resolution_block import ResolutionBlock
from keras_mdm.types import Shape, Tensor


def to_rows(x: Tensor) -> Tensor:
    """Leave images `(B, H, W, C)`; turn clips `(B, T, H, W, C)` into rows `(B*T, H, W, C)`."""
    return x if len(x.shape) == 4 else ops.reshape(x, (-1, *x.shape[2:]))


def from_rows(x: Tensor, frames: int, is_clip: bool) -> Tensor:
    """The inverse of `to_rows`: `(B*T, H, W, C)` to `(B, T, H, W, C)` for clips."""
    return ops.reshape(x, (-1, frames, *x.shape[1:])) if is_clip else x


def tile_frames(x: Tensor, frames: int) -> Tensor:
    """Lay the frames of every clip out as one square picture, row by row.

    `(B*n*n, h, w, C)` to `(B, n*h, n*w, C)` for `frames` = n*n.
    """
    side = math.isqrt(frames)
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, side, side, height, width, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, side * height, side * width, channels))


def untile_frames(x: Tensor, frames: int) -> Tensor:
    """The inverse of `tile_frames`."""
    side = math.isqrt(frames)
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, side, height // side, side, width // side, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height // side, width // side, channels))


class LevelPart(keras.layers.Layer):
    """Base of `NestedDown`, `NestedUp` and `InnermostLevel`.

    Args:
        channels: channels per resolution, highest resolution first.
        blocks: ResBlocks per resolution (the way up has one more each).
        attention: spatial attention layers after each ResBlock, per resolution.
        temporal_attention: temporal attention layers after each ResBlock, per resolution.
        strides: 1 or 2 per transition to the next resolution.
        axis: what the strides reduce, `"space"` or `"time"`.
        frames: frames per clip at the highest resolution; `None` for an image level.
        heads: heads of the spatial attention.
        attention_ffn: feed-forward part in the spatial attention.
        rotary: rotary positions in the temporal attention.
        groups: groups of the ResBlocks' and the output's normalisation.
        patch: side of the squares of pixels that the level sees as one position.
        resblock: class of your own in place of `ResBlock`, see `LevelSpec`.
        spatial_attention: class of your own in place of `SpatialAttention`, likewise.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        blocks: Sequence[int],
        attention: Sequence[int],
        temporal_attention: Sequence[int],
        strides: Sequence[int],
        axis: str = "space",
        frames: int | None = None,
        heads: int = 8,
        attention_ffn: bool = False,
        rotary: bool = False,
        groups: int = 32,
        patch: int = 1,
        resblock: Any = None,
        spatial_attention: Any = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.channels = tuple(channels)
        self.blocks = tuple(blocks)
        self.attention = tuple(attention)
        self.temporal_attention = tuple(temporal_attention)
        self.strides = tuple(strides)
        self.axis = axis
        self.frames = frames
        self.heads = heads
        self.attention_ffn = attention_ffn
        self.rotary = rotary
        self.groups = groups
        self.patch = patch
        self.resblock = RESBLOCK.described(resblock)
        self.spatial_attention = SPATIAL_ATTENTION.described(spatial_attention)
        self.seed = seed

    # Geometry

    def frames_at(self, index: int) -> int:
        """Frames per clip at resolution `index`; 1 for images."""
        frames = self.frames or 1
        if self.axis == "time":
            for stride in self.strides[:index]:
                frames //= stride
        return frames

    def sides_at(self, shape: Shape, index: int) -> tuple:
        """Height and width at resolution `index` of an input shape `(..., H, W, C)`."""
        height, width = shape[-3] // self.patch, shape[-2] // self.patch
        if self.axis == "space":
            for stride in self.strides[:index]:
                height, width = height // stride, width // stride
        return height, width

    def rows_shape(self, shape: Shape, index: int, channels: int) -> tuple:
        """Row shape at resolution `index` of an input `(B, [T,] H, W, C)`."""
        rows = None if shape[0] is None else shape[0] * self.frames_at(index)
        return (rows, *self.sides_at(shape, index), channels)

    def skip_shapes(self, shape: Shape) -> list[tuple]:
        """Row shapes of the skips of the way down, in the order in which they are made."""
        shapes = [self.rows_shape(shape, 0, self.channels[0])]
        for index, channels in enumerate(self.channels):
            shapes += [self.rows_shape(shape, index, channels)] * self.blocks[index]
            if index + 1 < len(self.channels):
                shapes.append(self.rows_shape(shape, index + 1, channels))
        return shapes

    # Parts

    # Not a property: Keras reads all properties when it saves, and would find these layers here.
    def recomputed(self) -> list[keras.layers.Layer]:
        """Layers whose inner activations need not be kept for the backward pass."""
        found = [*getattr(self, "down_resample", ()), *getattr(self, "up_resample", ())]
        for stage in (*getattr(self, "down", ()), *getattr(self, "up", ())):
            found += [*stage.residual, *stage.spatial, *stage.temporal]
        return found

    def _part(self, name: str) -> dict:
        return {"name": name, "seed": derive_seed(self.seed, name), "dtype": self.dtype_policy}

    def _resolution(self, name: str, index: int, extra_blocks: int) -> ResolutionBlock:
        return ResolutionBlock(
            self.channels[index],
            blocks=self.blocks[index] + extra_blocks,
            attention=self.attention[index],
            temporal_attention=self.temporal_attention[index],
            frames=self.frames_at(index),
            heads=self.heads,
            attention_ffn=self.attention_ffn,
            rotary=self.rotary,
            groups=self.groups,
            resblock=self.resblock,
            spatial_attention=self.spatial_attention,
            **self._part(f"{name}_{index}"),
        )

    def _make_down(self) -> None:
        count = len(self.channels)
        self.conv_in: Any = None  # fan-in known in `build`
        self.down = [self._resolution("down", index, 0) for index in range(count)]
        self.down_resample = [
            Downsample(
                factor=self.strides[index],
                axis=self.axis,
                frames=self.frames_at(index),
                **self._part(f"downsample_{index}"),
            )
            for index in range(count - 1)
        ]

    def _make_up(self) -> None:
        count = len(self.channels)
        self.up = [self._resolution("up", index, 1) for index in range(count)]
        self.up_resample = [
            Upsample(
                factor=self.strides[index - 1],
                axis=self.axis,
                frames=self.frames_at(index),
                **self._part(f"upsample_{index}"),
            )
            for index in range(1, count)
        ]

    def _build_down(self, shape: Shape, embedding_shape: Shape, text_shape: Shape | None) -> None:
        values = shape[-1] * self.patch**2
        x_shape = self.rows_shape(shape, 0, values)
        self.conv_in = conv(
            "conv_in", values, self.channels[0], seed=self.seed, dtype=self.dtype_policy
        )
        self.conv_in.build(x_shape)
        x_shape = self.rows_shape(shape, 0, self.channels[0])
        for index, stage in enumerate(self.down):
            stage.build(x_shape, embedding_shape, text_shape)
            x_shape = self.rows_shape(shape, index, self.channels[index])
            if index < len(self.down_resample):
                self.down_resample[index].build(x_shape)
                x_shape = self.rows_shape(shape, index + 1, self.channels[index])

    def _build_up(
        self, shape: Shape, embedding_shape: Shape, text_shape: Shape | None, out_channels: int
    ) -> None:
        skips = self.skip_shapes(shape)
        last = len(self.channels) - 1
        x_shape = self.rows_shape(shape, last, self.channels[last])
        for index in reversed(range(len(self.channels))):
            taken = [skips.pop() for _ in self.up[index].residual]
            self.up[index].build(x_shape, embedding_shape, text_shape, skips_shape=taken)
            x_shape = self.rows_shape(shape, index, self.channels[index])
            if index:
                self.up_resample[index - 1].build(x_shape)
                x_shape = self.rows_shape(shape, index - 1, self.channels[index])
        self.norm_out = GroupNorm(
            self.groups, activation="silu", name="norm_out", dtype=self.dtype_policy
        )
        self.norm_out.build(x_shape)
        # float32: rounding predictions to bfloat16 would make every sample grainy.
        self.conv_out = conv(
            "conv_out",
            x_shape[-1],
            out_channels * self.patch**2,
            zero=True,
            seed=self.seed,
            dtype="float32",
        )
        self.conv_out.build(x_shape)

    def _run_down(
        self, x: Tensor, time_embedding: Tensor, text: Tensor, text_mask: Tensor
    ) -> tuple:
        """`(B*T, H, W, channels[0])` -> state at the lowest resolution, and all skips."""
        skips = [x]
        for index, stage in enumerate(self.down):
            skips += stage(x, time_embedding, text=text, text_mask=text_mask)
            x = skips[-1]
            if index < len(self.down_resample):
                x = self.down_resample[index](x)
                skips.append(x)
        return x, skips

    def _run_up(
        self,
        x: Tensor,
        skips: list,
        time_embedding: Tensor,
        text: Tensor,
        text_mask: Tensor,
        seen: Tensor = None,
    ) -> Tensor:
        """State at the lowest resolution -> `(B*T, H, W, channels[0])`; uses the last skip
        first, and adds `seen` at the highest resolution."""
        skips = list(skips)
        for index in reversed(range(len(self.channels))):
            if index == 0 and seen is not None:
                x = x + seen
            taken = [skips.pop() for _ in self.up[index].residual]
            x = self.up[index](x, time_embedding, text=text, text_mask=text_mask, skips=taken)[-1]
            if index:
                x = self.up_resample[index - 1](x)
        return x

    def _head(self, x: Tensor) -> Tensor:
        """`(B*T, H, W, C)` -> prediction, float32, of the shape of the level's input."""
        out = self.conv_out(ops.cast(self.norm_out(x), "float32"))
        out = from_patches(out, self.patch)
        return from_rows(out, self.frames_at(0), self.frames is not None)

    def get_config(self) -> dict:
        names = (
            "channels blocks attention temporal_attention strides axis frames heads "
            "attention_ffn rotary groups patch resblock spatial_attention seed"
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}

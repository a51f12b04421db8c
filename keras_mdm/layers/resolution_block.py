"""The blocks of one resolution, on the way down or up."""

from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.layers.attention import SPATIAL_ATTENTION
from keras_mdm.layers.initializers import derive_seed
from keras_mdm.layers.resblock import RESBLOCK
from keras_mdm.layers.temporal_attention import TemporalAttention
from keras_mdm.types import Shape, Tensor


def repeat_rows(x: Tensor, times: int) -> Tensor:
    """Repeat every row of `(B, ...)` for the frames of its clip: `(B*times, ...)`."""
    return x if times == 1 else ops.repeat(x, times, axis=0)


@keras.saving.register_keras_serializable("keras_mdm")
class ResolutionBlock(keras.layers.Layer):
    """ResBlocks of one resolution, each followed by its attention layers.

    Args:
        channels: channels of the output.
        blocks: number of ResBlocks.
        attention: `SpatialAttention` layers after each ResBlock.
        temporal_attention: `TemporalAttention` layers after each ResBlock's spatial attention.
        frames: frames per clip, 1 for images.
        heads: heads of the spatial attention.
        attention_ffn: feed-forward part in the spatial attention.
        rotary: rotary positions in the temporal attention.
        groups: groups of the ResBlocks' normalisations (attention always uses 32).
        resblock: class of your own in place of `ResBlock`, see `LevelSpec`.
        spatial_attention: class of your own in place of `SpatialAttention`, likewise.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B*T, H, W, C)`, the frames of one clip adjacent.
        time_embedding: `(B, E)`.
        text: optional `(B, L, D)`.
        text_mask: optional `(B, L)` of 0/1.
        skips: on the way up, one tensor `(B*T, H, W, C_j)` per ResBlock, concatenated after x.

    Returns:
        list of `blocks` tensors `(B*T, H, W, channels)`, the state after each ResBlock.

    Example:

    >>> stage = ResolutionBlock(64, blocks=2, attention=1)
    >>> len(stage(keras.ops.ones((1, 8, 8, 32)), keras.ops.ones((1, 128))))
    2

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A.
    """

    def __init__(
        self,
        channels: int,
        *,
        blocks: int,
        attention: int = 0,
        temporal_attention: int = 0,
        frames: int = 1,
        heads: int = 8,
        attention_ffn: bool = False,
        rotary: bool = False,
        groups: int = 32,
        resblock: Any = None,
        spatial_attention: Any = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.blocks = checks.integer("blocks", blocks, minimum=1)
        self.attention = checks.integer("attention", attention, minimum=0)
        self.temporal_attention = checks.integer(
            "temporal_attention", temporal_attention, minimum=0
        )
        self.frames = frames
        self.heads = heads
        self.attention_ffn = attention_ffn
        self.rotary = rotary
        self.groups = groups
        self.resblock = RESBLOCK.described(resblock)
        self.spatial_attention = SPATIAL_ATTENTION.described(spatial_attention)
        self.seed = seed
        self.residual = [
            RESBLOCK.make(
                self.resblock, channels=channels, groups=groups, **self._part(f"block_{j}")
            )
            for j in range(blocks)
        ]
        # Layer l after ResBlock j is number j * layers + l, as in the released checkpoints.
        self.spatial = [
            SPATIAL_ATTENTION.make(
                self.spatial_attention,
                heads=heads,
                feed_forward=attention_ffn,
                **self._part(f"attention_{k}"),
            )
            for k in range(blocks * attention)
        ]
        self.temporal = [
            TemporalAttention(frames, rotary=rotary, **self._part(f"temporal_attention_{k}"))
            for k in range(blocks * temporal_attention)
        ]

    def _part(self, name: str) -> dict:
        return {"name": name, "seed": derive_seed(self.seed, name), "dtype": self.dtype_policy}

    def build(
        self,
        x_shape: Shape,
        time_embedding_shape: Shape,
        text_shape: Shape | None = None,
        text_mask_shape: Shape | None = None,
        skips_shape: Any = None,
    ) -> None:
        for index, block in enumerate(self.residual):
            skip = skips_shape[index] if skips_shape else None
            given = (x_shape, time_embedding_shape, skip)
            RESBLOCK.build(block, self.resblock, *given, channels=self.channels)
            x_shape = (*x_shape[:-1], self.channels)
        shapes = x_shape, text_shape, text_shape and text_shape[:2]
        for layer in self.spatial:
            SPATIAL_ATTENTION.build(layer, self.spatial_attention, *shapes, channels=self.channels)
        for layer in self.temporal:
            layer.build(x_shape)

    def call(
        self,
        x: Tensor,
        time_embedding: Tensor,
        text: Tensor = None,
        text_mask: Tensor = None,
        skips: Tensor = None,
    ) -> Tensor:
        time_embedding = repeat_rows(time_embedding, self.frames)
        if self.spatial and text is not None:
            text = repeat_rows(text, self.frames)
            text_mask = None if text_mask is None else repeat_rows(text_mask, self.frames)
        states = []
        for j, block in enumerate(self.residual):
            x = block(x, time_embedding, skip=None if skips is None else skips[j])
            for layer in self.spatial[j * self.attention : (j + 1) * self.attention]:
                x = layer(x, text=text, text_mask=text_mask)
            for layer in self.temporal[
                j * self.temporal_attention : (j + 1) * self.temporal_attention
            ]:
                x = layer(x)
            states.append(x)
        return states

    def compute_output_shape(
        self,
        x_shape: Shape,
        time_embedding_shape: Shape,
        text_shape: Shape | None = None,
        text_mask_shape: Shape | None = None,
        skips_shape: Any = None,
    ) -> list[Shape]:
        return [(*x_shape[:-1], self.channels)] * self.blocks

    def get_config(self) -> dict:
        names = (
            "channels blocks attention temporal_attention frames heads attention_ffn rotary "
            "groups resblock spatial_attention seed"
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}

"""The UNet at the lowest resolution, which holds most of the parameters."""

from typing import Any

import keras

from keras_mdm.layers.attention import SPATIAL_ATTENTION
from keras_mdm.layers.level import LevelPart, from_rows, to_rows
from keras_mdm.layers.nested_level import add_to_first_rows, output_shapes, output_spec
from keras_mdm.layers.own_layers import Place
from keras_mdm.layers.patches import to_patches
from keras_mdm.layers.resblock import RESBLOCK
from keras_mdm.layers.resolution_block import repeat_rows
from keras_mdm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_mdm")
class InnermostLevel(LevelPart):
    """A whole UNet, which takes features from the outer level if there is one.

    Args:
        out_channels: channels of the prediction.
        use_mid_block: ResBlock, attention (with text, if given), ResBlock at the lowest resolution.
        **kwargs: as in `LevelPart`.

    Call arguments:
        z: `(B, H, W, C)` or `(B, T, H, W, C)` float32, the noisy input of this level.
        time_embedding: `(B, E)`.
        text: optional `(B, L, D)`, text_mask: optional `(B, L)`.
        features: optional `(B', [T,] H, W, channels[0])` with B' <= B, added to the first B' rows.

    Returns:
        dict with `output` `(B, [T,] H, W, out_channels)` float32, zero at initialisation, and
        `features` `(B, [T,] H, W, channels[0])` for the next outer level.

    Example:

    >>> level = InnermostLevel(channels=(32, 64), blocks=(1, 1), attention=(0, 1),
    ...     temporal_attention=(0, 0), strides=(2,))
    >>> level(keras.ops.ones((2, 8, 8, 3)), keras.ops.ones((2, 128)))["output"].shape
    TensorShape([2, 8, 8, 3])

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A (MDM-S64).
    """

    def __init__(self, *, out_channels: int = 3, use_mid_block: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.out_channels = out_channels
        self.use_mid_block = use_mid_block
        self._make_down()
        if use_mid_block:
            given = {"channels": self.channels[-1], "groups": self.groups}
            self.mid_block_0 = RESBLOCK.make(self.resblock, **given, **self._part("mid_block_0"))
            self.mid_attention = SPATIAL_ATTENTION.make(
                self.spatial_attention,
                heads=self.heads,
                feed_forward=self.attention_ffn,
                **self._part("mid_attention"),
            )
            self.mid_block_1 = RESBLOCK.make(self.resblock, **given, **self._part("mid_block_1"))
        self._make_up()

    def build(
        self,
        z_shape: Shape,
        time_embedding_shape: Shape,
        text_shape: Shape | None = None,
        text_mask_shape: Shape | None = None,
        features_shape: Shape | None = None,
    ) -> None:
        self._build_down(z_shape, time_embedding_shape, text_shape)
        if self.use_mid_block:
            channels = self.channels[-1]
            middle = self.rows_shape(z_shape, len(self.channels) - 1, channels)
            for block in (self.mid_block_0, self.mid_block_1):
                RESBLOCK.build(
                    block, self.resblock, middle, time_embedding_shape, channels=channels
                )
            shapes = middle, text_shape, text_shape and text_shape[:2]
            SPATIAL_ATTENTION.build(
                self.mid_attention, self.spatial_attention, *shapes, channels=channels
            )
        self._build_up(z_shape, time_embedding_shape, text_shape, self.out_channels)

    def call(
        self,
        z: Tensor,
        time_embedding: Tensor,
        text: Tensor = None,
        text_mask: Tensor = None,
        features: Tensor = None,
    ) -> dict[str, Any]:
        x = self.conv_in(to_patches(to_rows(z), self.patch))
        if features is not None:
            x = add_to_first_rows(x, to_rows(features))
        x, skips = self._run_down(x, time_embedding, text, text_mask)
        if self.use_mid_block:
            frames = self.frames_at(len(self.channels) - 1)
            embedding = repeat_rows(time_embedding, frames)
            x = self.mid_block_0(x, embedding)
            x = self.mid_attention(
                x,
                text=None if text is None else repeat_rows(text, frames),
                text_mask=None if text_mask is None else repeat_rows(text_mask, frames),
            )
            x = self.mid_block_1(x, embedding)
        x = self._run_up(x, skips, time_embedding, text, text_mask)
        features = from_rows(x, self.frames_at(0), self.frames is not None)
        return {"output": self._head(x), "features": features}

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Tensor:
        z = args[0] if args else kwargs["z"]
        return output_spec(
            z.shape, self.out_channels, self.channels[0], self.compute_dtype, self.patch
        )

    def compute_output_shape(
        self,
        z_shape: Shape,
        time_embedding_shape: Shape,
        text_shape: Shape | None = None,
        text_mask_shape: Shape | None = None,
        features_shape: Shape | None = None,
    ) -> dict[str, Any]:
        return output_shapes(z_shape, self.out_channels, self.channels[0], self.patch)

    def get_config(self) -> dict:
        config = {"out_channels": self.out_channels, "use_mid_block": self.use_mid_block}
        return {**super().get_config(), **config}


INNERMOST_LEVEL = Place("innermost_level", InnermostLevel, needs=("frames",))

"""Conditioning on the tokens of a frozen text encoder."""

from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.layers.attention import TokenAttention
from keras_mdm.layers.initializers import dense, derive_seed
from keras_mdm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_mdm")
class TextConditioning(keras.layers.Layer):
    """Projects the text, lets its tokens attend to each other, and pools them.

    Runs once per forward pass, in the innermost level; the tokens go to every cross-attention and
    the pooled vector into the embedding of every level.

    Args:
        embedding_width: width E of the time embedding.
        projection: width D of the tokens after a linear projection; `None` keeps the input width.
        blocks: number of `TokenAttention` blocks over the tokens.
        heads: attention heads of those blocks.
        use_mask: whether padding is left out of the attention. `False` reproduces networks that
            were trained with padding; pooling then averages over all tokens if there is at least
            one block, and over the unmasked ones if there is none.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        text: `(B, L, D_in)`, states of the text encoder.
        text_mask: `(B, L)` of 0/1.

    Returns:
        dict with `tokens` `(B, L, D)` in the compute dtype and `embedding` `(B, E)` in float32.

    Example:

    >>> layer = TextConditioning(64, projection=32)
    >>> sorted(layer(keras.ops.ones((2, 5, 16)), keras.ops.ones((2, 5))))
    ['embedding', 'tokens']

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 4.1 and appendix A
    (`num_lm_attn_layers`, `lm_feature_projected_channels`).
    """

    def __init__(
        self,
        embedding_width: int,
        *,
        projection: int | None = None,
        blocks: int = 2,
        heads: int = 8,
        use_mask: bool = True,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.embedding_width = embedding_width
        self.projection = projection
        self.blocks = checks.integer("blocks", blocks, minimum=0)
        self.heads = heads
        self.use_mask = use_mask
        self.seed = seed

    def build(self, text_shape: Shape, text_mask_shape: Shape | None = None) -> None:
        width = text_shape[-1]
        self.project = None
        if self.projection:
            self.project = dense(
                "project", width, self.projection, seed=self.seed, dtype=self.dtype_policy
            )
            self.project.build((None, None, width))
            width = self.projection
        self.attention = []
        for index in range(self.blocks):
            block = TokenAttention(
                heads=self.heads,
                seed=derive_seed(self.seed, f"attention_{index}"),
                name=f"attention_{index}",
                dtype=self.dtype_policy,
            )
            block.build((None, None, width))
            self.attention.append(block)
        # float32, like the time embedding to which it is added.
        self.pooled = dense(
            "pooled", width, self.embedding_width, seed=self.seed, dtype="float32", use_bias=False
        )
        self.pooled.build((None, width))

    def call(self, text: Tensor, text_mask: Tensor) -> dict[str, Any]:
        tokens = text if self.project is None else self.project(text)
        for block in self.attention:
            tokens = block(tokens, token_mask=text_mask if self.use_mask else None)
        pooled = ops.cast(tokens, "float32")
        if self.use_mask or not self.attention:
            mask = ops.cast(text_mask, "float32")[:, :, None]
            # An all-zero mask pools to zero instead of 0/0.
            pooled = ops.sum(mask * pooled, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1e-6)
        else:
            pooled = ops.mean(pooled, axis=1)
        return {"tokens": tokens, "embedding": self.pooled(pooled)}

    def compute_output_spec(self, text: Tensor, text_mask: Tensor) -> dict[str, Any]:
        width = self.projection or text.shape[-1]
        return {
            "tokens": keras.KerasTensor((*text.shape[:2], width), dtype=self.compute_dtype),
            "embedding": keras.KerasTensor((text.shape[0], self.embedding_width), dtype="float32"),
        }

    def compute_output_shape(
        self, text_shape: Shape, text_mask_shape: Shape | None = None
    ) -> dict[str, Any]:
        width = self.projection or text_shape[-1]
        return {
            "tokens": (*text_shape[:2], width),
            "embedding": (text_shape[0], self.embedding_width),
        }

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "embedding_width": self.embedding_width,
            "projection": self.projection,
            "blocks": self.blocks,
            "heads": self.heads,
            "use_mask": self.use_mask,
            "seed": self.seed,
        }

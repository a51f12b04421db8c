"""Attention over pixels and over tokens."""

import math
from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.backends import runs_on_tensorflow
from keras_mdm.layers.initializers import dense
from keras_mdm.layers.normalization import GroupNorm
from keras_mdm.layers.own_layers import Place
from keras_mdm.layers.rows import by_rows, feed_forward
from keras_mdm.types import Shape, Tensor

LAYER_NORM_EPSILON = 1e-5


def split_heads(x: Tensor, parts: int, heads: int) -> list:
    """Split `(B, N, parts*heads*d)` into `parts` tensors `(B, heads, N, d)`.

    Channels are part-major, then head-major: channel c of a part belongs to head c // d.
    """
    width = x.shape[2] // (parts * heads)
    tokens = ops.shape(x)[1] if x.shape[1] is None else x.shape[1]
    # Split before the heads: slicing a stacked tensor has a gradient that fills zeros.
    separate = [ops.reshape(part, (-1, tokens, heads, width)) for part in ops.split(x, parts, -1)]
    return [ops.transpose(part, (0, 2, 1, 3)) for part in separate]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor = None) -> Tensor:
    """Scaled dot-product attention with a softmax in float32.

    Args:
        query: `(B, heads, N, d)`.
        key: `(B, heads, M, d)`.
        value: `(B, heads, M, d)`.
        mask: optional `(B, M)` of 0/1; keys with 0 get no weight. A row of nothing but zeros
            attends uniformly instead of giving NaN.

    Returns:
        `(B, N, heads*d)` in the dtype of `query`.

    Reference: Vaswani et al. 2017 (arXiv 1706.03762), equation 1.
    """
    query = query * ops.cast(1.0 / math.sqrt(query.shape[-1]), query.dtype)
    logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    # Kernels of TensorFlow take the softmax of bfloat16 in float32 by themselves. With casts, the
    # largest tensor of the network would be written twice more.
    narrow = keras.backend.standardize_dtype(query.dtype) == "bfloat16" and runs_on_tensorflow()
    wide = "bfloat16" if narrow else "float32"
    logits = ops.cast(logits, wide)
    if mask is not None:
        hidden = 1.0 - ops.cast(mask, "float32")
        logits = logits - ops.cast(1e30 * hidden[:, None, None, :], wide)
    weights = softmax(logits) if narrow else ops.softmax(logits, axis=-1)
    weights = ops.cast(weights, query.dtype)
    out = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))  # (B, N, heads, d)
    _, tokens, heads, width = out.shape
    return ops.reshape(out, (-1, ops.shape(out)[1] if tokens is None else tokens, heads * width))


@ops.custom_gradient
def softmax(logits: Tensor) -> tuple:
    """Softmax over the last axis, with a gradient in float32 under any precision."""
    weights = ops.softmax(logits, axis=-1)

    def gradient(*args: Any, upstream: Tensor = None) -> Tensor:
        dy = ops.cast(args[0] if upstream is None else upstream, "float32")
        w = ops.cast(weights, "float32")
        return ops.cast(w * (dy - ops.sum(dy * w, axis=-1, keepdims=True)), logits.dtype)

    return weights, gradient


def check_heads(width: int, heads: int, *, name: str) -> None:
    """Raise unless `heads` divides `width`."""
    if width % heads:
        raise checks.error(
            f"the {name} must be a multiple of the attention heads",
            fix="change the channels or the heads",
            width=width,
            heads=heads,
        )


@keras.saving.register_keras_serializable("keras_mdm")
class SpatialAttention(keras.layers.Layer):
    """Self-attention over the pixels of a feature map, with cross-attention to the text.

    Both branches share the query; each has its own softmax, and their results are added. The output
    projection starts at zero, so the layer starts as the identity.

    Args:
        heads: attention heads.
        feed_forward: add a residual feed-forward part (norm, 4C, exact GELU, C).
        groups: groups of the normalisations.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B, H, W, C)`.
        text: optional `(B, L, D)`; whether it is given must not change after the first call.
        text_mask: optional `(B, L)` of 0/1.

    Returns:
        `(B, H, W, C)` in the compute dtype.

    Raises:
        ValueError: if `heads` or `groups` does not divide C.

    Example:

    >>> attention = SpatialAttention(heads=4)
    >>> x, text = keras.ops.ones((2, 8, 8, 64)), keras.ops.ones((2, 5, 16))
    >>> attention(x, text=text, text_mask=keras.ops.ones((2, 5))).shape
    TensorShape([2, 8, 8, 64])

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.2 and appendix A.
    """

    def __init__(
        self,
        *,
        heads: int = 8,
        feed_forward: bool = False,
        groups: int = 32,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.heads = checks.integer("heads", heads, minimum=1)
        self.feed_forward = feed_forward
        self.groups = groups
        self.seed = seed

    def build(
        self, x_shape: Shape, text_shape: Shape | None = None, text_mask_shape: Shape | None = None
    ) -> None:
        channels = x_shape[-1]
        check_heads(channels, self.heads, name="number of channels")
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        self.norm = GroupNorm(self.groups, name="norm", dtype=self.dtype_policy)
        self.qkv = dense("qkv", channels, 3 * channels, **given)
        self.proj_out = dense("proj_out", channels, channels, zero=True, **given)
        for layer in (self.norm, self.qkv, self.proj_out):
            layer.build(x_shape)
        if text_shape is not None:
            width = text_shape[-1]
            self.text_norm = keras.layers.LayerNormalization(
                epsilon=LAYER_NORM_EPSILON, name="text_norm", dtype=self.dtype_policy
            )
            self.text_kv = dense("text_kv", width, 2 * channels, **given)
            self.text_norm.build((None, None, width))
            self.text_kv.build((None, None, width))
        if self.feed_forward:
            self.ffn_norm = GroupNorm(self.groups, name="ffn_norm", dtype=self.dtype_policy)
            self.ffn_in = dense("ffn_in", channels, 4 * channels, **given)
            self.ffn_out = dense("ffn_out", 4 * channels, channels, zero=True, **given)
            self.ffn_norm.build(x_shape)
            self.ffn_in.build(x_shape)
            self.ffn_out.build((*x_shape[:-1], 4 * channels))

    def call(self, x: Tensor, text: Tensor = None, text_mask: Tensor = None) -> Tensor:
        _, height, width, channels = x.shape
        pixels = ops.reshape(self.norm(x), (-1, height * width, channels))  # row-major over H, W
        query, key, value = split_heads(by_rows(self.qkv, pixels), 3, self.heads)
        h = attend(query, key, value)
        if text is not None:
            tokens = by_rows(self.text_kv, self.text_norm(text))
            text_key, text_value = split_heads(tokens, 2, self.heads)
            h = h + attend(query, text_key, text_value, text_mask)
        x = x + ops.reshape(by_rows(self.proj_out, h), (-1, height, width, channels))
        if self.feed_forward:
            x = x + feed_forward(self.ffn_in, self.ffn_out, self.ffn_norm(x))
        return x

    def compute_output_shape(
        self, x_shape: Shape, text_shape: Shape | None = None, text_mask_shape: Shape | None = None
    ) -> Shape:
        return x_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "heads": self.heads,
            "feed_forward": self.feed_forward,
            "groups": self.groups,
            "seed": self.seed,
        }


SPATIAL_ATTENTION = Place("spatial_attention", SpatialAttention)


@keras.saving.register_keras_serializable("keras_mdm")
class TokenAttention(keras.layers.Layer):
    """Pre-norm transformer block over a sequence: self-attention, then a feed-forward part.

    Used over the tokens of the text and, by `TemporalAttention`, over the frames of a clip. Both
    parts start as the identity.

    Args:
        heads: attention heads.
        rotary: rotate queries and keys by their position (rotary embedding, interleaved pairs).
        seed: seed of the initial values.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: `(B, L, D)`.
        token_mask: optional `(B, L)` of 0/1; tokens with 0 are not attended to.

    Returns:
        `(B, L, D)` in the compute dtype.

    Raises:
        ValueError: if `heads` does not divide D.

    Example:

    >>> TokenAttention(heads=4)(keras.ops.ones((2, 5, 64))).shape
    TensorShape([2, 5, 64])

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 4.1 (self-attention over the text
    representation); Su et al. 2021 (arXiv 2104.09864) for the rotary embedding.
    """

    def __init__(self, *, heads: int = 8, rotary: bool = False, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads = checks.integer("heads", heads, minimum=1)
        self.rotary = rotary
        self.seed = seed

    def build(self, x_shape: Shape, token_mask_shape: Shape | None = None) -> None:
        width = x_shape[-1]
        check_heads(width, self.heads, name="token width")
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        norm = {"epsilon": LAYER_NORM_EPSILON, "dtype": self.dtype_policy}
        self.norm = keras.layers.LayerNormalization(name="norm", **norm)
        self.qkv = dense("qkv", width, 3 * width, **given)
        self.proj_out = dense("proj_out", width, width, zero=True, **given)
        self.ffn_norm = keras.layers.LayerNormalization(name="ffn_norm", **norm)
        self.ffn_in = dense("ffn_in", width, 4 * width, **given)
        self.ffn_out = dense("ffn_out", 4 * width, width, zero=True, **given)
        for layer in (self.norm, self.qkv, self.proj_out, self.ffn_norm, self.ffn_in):
            layer.build((None, None, width))
        self.ffn_out.build((None, None, 4 * width))

    def call(self, x: Tensor, token_mask: Tensor = None) -> Tensor:
        query, key, value = split_heads(by_rows(self.qkv, self.norm(x)), 3, self.heads)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        x = x + by_rows(self.proj_out, attend(query, key, value, token_mask))
        return x + feed_forward(self.ffn_in, self.ffn_out, self.ffn_norm(x))

    def compute_output_shape(self, x_shape: Shape, token_mask_shape: Shape | None = None) -> Shape:
        return x_shape

    def get_config(self) -> dict:
        config = {"heads": self.heads, "rotary": self.rotary, "seed": self.seed}
        return {**super().get_config(), **config}


def rotate(x: Tensor) -> Tensor:
    """Rotate `(B, heads, T, d)` by position: pair (2i, 2i+1) by p * 10000**(-2i/d), in float32."""
    tokens, width = x.shape[2], x.shape[3]
    frequencies = 10000.0 ** (-ops.arange(0, width, 2, dtype="float32") / width)
    angles = ops.arange(tokens, dtype="float32")[:, None] * frequencies[None, :]  # (T, d/2)
    pairs = ops.reshape(ops.cast(x, "float32"), (-1, x.shape[1], tokens, width // 2, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = ops.cos(angles), ops.sin(angles)
    turned = ops.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return ops.cast(ops.reshape(turned, (-1, x.shape[1], tokens, width)), x.dtype)

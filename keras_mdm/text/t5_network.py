"""The encoder half of T5 and FLAN-T5: a function of weights and token ids."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks

# Activations of the feed-forward part, by the names that configurations use.
ACTIVATIONS = {
    "relu": tf.nn.relu,
    "silu": tf.nn.silu,
    "gelu": tf.nn.gelu,
    "gelu_new": lambda x: tf.nn.gelu(x, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Size and form of an encoder; fields as in `config.json`.

    Args:
        vocab_size: rows of the embedding.
        d_model: width of the states.
        d_kv: width of a head.
        num_heads: heads.
        d_ff: width inside the feed-forward part.
        num_layers: blocks.
        feed_forward_proj: activation, such as "gated-gelu".
        relative_attention_num_buckets: rows of the table of relative positions.
        relative_attention_max_distance: distances beyond it share a bucket.
        layer_norm_epsilon: added to the mean square.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    num_heads: int
    d_ff: int
    num_layers: int
    feed_forward_proj: str = "relu"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "T5Config":
        """Read the content of a `config.json`.

        Raises:
            ValueError: if fields are missing or of an unsupported kind; lists all of them.
        """
        fields = dataclasses.fields(cls)
        wrong = {}
        for field in fields:
            value = content.get(field.name, field.default)
            if field.type is int and not (checks.is_int(value) and value > 0):
                wrong[field.name] = None if value is dataclasses.MISSING else value
        epsilon = content.get("layer_norm_epsilon", 1e-6)
        if not checks.is_real(epsilon) or epsilon <= 0:
            wrong["layer_norm_epsilon"] = epsilon
        if not wrong:  # both halves need buckets for single distances and for ranges of longer ones
            buckets, distance = (
                content.get(name, getattr(cls, name))
                for name in ("relative_attention_num_buckets", "relative_attention_max_distance")
            )
            if buckets < 4 or distance <= buckets // 4:
                wrong |= {
                    "relative_attention_num_buckets": buckets,
                    "relative_attention_max_distance": distance,
                }
        if content.get("model_type", "t5") not in ("t5", "mt5"):
            wrong["model_type"] = content["model_type"]
        given = {f.name: content[f.name] for f in fields if f.name in content}
        activation = given.get("feed_forward_proj", "relu")
        known = isinstance(activation, str) and activation.removeprefix("gated-") in ACTIVATIONS
        if not known:
            wrong["feed_forward_proj"] = given["feed_forward_proj"]
        if wrong:
            raise checks.error(
                "config.json must describe a T5 encoder, sizes as positive integers",
                fix="use the config.json of the model, such as that of flan-t5-xl",
                **wrong,
            )
        return cls(**given)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward part has a second, linear input projection."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> Callable:
        """Activation of the feed-forward part; "gated-gelu" has the tanh form."""
        if self.feed_forward_proj == "gated-gelu":
            return ACTIVATIONS["gelu_new"]
        return ACTIVATIONS[self.feed_forward_proj.removeprefix("gated-")]


def tensor_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Return the names of an encoder's tensors in the files, with their shapes."""
    width, inner = config.d_model, config.num_heads * config.d_kv
    shapes = {
        "shared.weight": (config.vocab_size, width),
        "encoder.final_layer_norm.weight": (width,),
        f"{_attention(0)}.relative_attention_bias.weight": (
            config.relative_attention_num_buckets,
            config.num_heads,
        ),
    }
    ways_in = ("wi_0", "wi_1") if config.gated else ("wi",)
    for index in range(config.num_layers):
        for name in "qkv":
            shapes[f"{_attention(index)}.{name}.weight"] = (inner, width)
        shapes[f"{_attention(index)}.o.weight"] = (width, inner)
        for name in ways_in:
            shapes[f"{_feed_forward(index)}.{name}.weight"] = (config.d_ff, width)
        shapes[f"{_feed_forward(index)}.wo.weight"] = (width, config.d_ff)
        for layer in range(2):
            shapes[f"{_norm(index, layer)}.weight"] = (width,)
    return shapes


def _attention(index: int) -> str:
    return f"encoder.block.{index}.layer.0.SelfAttention"


def _feed_forward(index: int) -> str:
    return f"encoder.block.{index}.layer.1.DenseReluDense"


def _norm(index: int, layer: int) -> str:
    return f"encoder.block.{index}.layer.{layer}.layer_norm"


def encode(config: T5Config, weights: Mapping[str, tf.Tensor], ids: Any, mask: Any) -> tf.Tensor:
    """Return the states after the final normalisation.

    The computation is in float32 whatever the weights' type: one matrix at a time is widened, so
    that half precision halves the memory and costs only the accuracy of the weights themselves.

    Args:
        config: size and form.
        weights: tensors by the names of `tensor_shapes`.
        ids: `(B, L)` integers.
        mask: `(B, L)` of 0/1; padding gets no attention.

    Returns:
        `(B, L, d_model)` float32.

    Reference: Raffel et al. 2020 (arXiv 1910.10683), section 2.1; Shazeer 2020 (arXiv 2002.05202)
    for the gated feed-forward part; Chung et al. 2022 (arXiv 2210.11416), FLAN-T5.
    """
    ids, mask = np.asarray(ids), np.asarray(mask, "float32")
    return states_of(config, weights, ids, mask, relative_buckets(ids.shape[1], config))


def states_of(
    config: T5Config, weights: Mapping[str, Any], ids: Any, mask: Any, buckets: Any
) -> tf.Tensor:
    """As `encode`, for tensors in a graph as well.

    Args:
        config: size and form.
        weights: tensors or variables by the names of `tensor_shapes`.
        ids: `(B, L)` integers.
        mask: `(B, L)` float32.
        buckets: `(L, L)`, see `relative_buckets`.
    """

    def matrix(name: str) -> tf.Tensor:
        return tf.cast(weights[f"{name}.weight"], tf.float32)

    def dense(x: tf.Tensor, name: str) -> tf.Tensor:
        return tf.matmul(x, matrix(name), transpose_b=True)

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        mean_square = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
        return x * tf.math.rsqrt(mean_square + config.layer_norm_epsilon) * matrix(name)

    def heads(x: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(x)
        split = tf.reshape(x, (shape[0], shape[1], config.num_heads, config.d_kv))
        return tf.transpose(split, (0, 2, 1, 3))

    length = tf.shape(ids)[1]
    table = matrix(f"{_attention(0)}.relative_attention_bias")
    bias = tf.transpose(tf.gather(table, buckets), (2, 0, 1))[None]
    bias = bias + tf.convert_to_tensor((mask[:, None, None] - 1.0) * 1e9)
    x = tf.cast(tf.gather(weights["shared.weight"], ids), tf.float32)
    for index in range(config.num_layers):
        name, y = _attention(index), norm(x, _norm(index, 0))
        q, k, v = (heads(dense(y, f"{name}.{part}")) for part in "qkv")
        # T5 does not divide by the square root of the width here, but in its initialisation.
        attended = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True) + bias), v)
        attended = tf.transpose(attended, (0, 2, 1, 3))
        x = x + dense(tf.reshape(attended, (-1, length, heads_width(config))), f"{name}.o")
        name, y = _feed_forward(index), norm(x, _norm(index, 1))
        inside = config.activation(dense(y, f"{name}.{'wi_0' if config.gated else 'wi'}"))
        if config.gated:
            inside = inside * dense(y, f"{name}.wi_1")
        x = x + dense(inside, f"{name}.wo")
    return norm(x, "encoder.final_layer_norm")


def heads_width(config: T5Config) -> int:
    """Width of all heads together."""
    return config.num_heads * config.d_kv


def relative_buckets(length: int, config: T5Config) -> np.ndarray:
    """Return the bucket of every pair of positions.

    Half of the buckets are for keys after the query. In each half, the first half holds single
    distances; the others grow logarithmically up to the largest distance.

    Args:
        length: L, number of positions.
        config: number of buckets and largest distance.

    Returns:
        `(L, L)` int32, queries along the first axis.

    Reference: Raffel et al. 2020 (arXiv 1910.10683), section 2.1.
    """
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    position = np.arange(length)
    relative = position[None, :] - position[:, None]
    distance = np.abs(relative)
    # In float32, like the original: whole powers are on the border between two buckets.
    far = np.log(np.maximum(distance, 1).astype("float32") / np.float32(exact))
    far = far / np.float32(math.log(config.relative_attention_max_distance / exact))
    far = exact + (far * np.float32(half - exact)).astype("int32")
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return (np.where(relative > 0, half, 0) + bucket).astype("int32")

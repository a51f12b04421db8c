"""Embeddings of time, class and micro-conditions, added up per level.

All of them compute in float32 under any dtype policy: in bfloat16 the timestep 999 would be 1000.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.layers.initializers import dense, derive_seed
from keras_mdm.types import Shape, Tensor


def sinusoid(value: Tensor, width: int) -> Tensor:
    """Sine and cosine features of a scalar per sample, sines first.

    Args:
        value: `(B,)` float32.
        width: number of features; an odd width is padded with a zero.

    Returns:
        `(B, width)` float32. The frequencies are exp(-ln(10000) * i / half), i < half = width // 2.

    Reference: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
    """
    half = width // 2
    frequencies = ops.exp(-math.log(10000.0) * ops.arange(half, dtype="float32") / half)
    angles = ops.cast(value, "float32")[:, None] * frequencies[None, :]
    features = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
    return ops.pad(features, ((0, 0), (0, width % 2))) if width % 2 else features


class _SinusoidMLP(keras.layers.Layer):
    """Sinusoid, dense, SiLU, dense: shared by the time and the micro-conditions."""

    zero_output = False

    def __init__(self, width: int, *, seed: int = 0, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.width = checks.integer("width", width, minimum=8)
        self.seed = seed

    def build(self, value_shape: Shape) -> None:
        features, given = self.width // 4, {"seed": self.seed, "dtype": self.dtype_policy}
        self.dense1 = dense("dense1", features, self.width, **given)
        self.dense2 = dense("dense2", self.width, self.width, zero=self.zero_output, **given)
        self.dense1.build((None, features))
        self.dense2.build((None, self.width))

    def call(self, value: Tensor) -> Tensor:
        return self.dense2(ops.silu(self.dense1(sinusoid(value, self.width // 4))))

    def compute_output_shape(self, value_shape: Shape) -> Shape:
        return (*value_shape, self.width)

    def get_config(self) -> dict:
        return {**super().get_config(), "width": self.width, "seed": self.seed}


@keras.saving.register_keras_serializable("keras_mdm")
class TimeEmbedding(_SinusoidMLP):
    """Embedding of the raw timestep: sinusoid, dense, SiLU, dense.

    Args:
        width: width E of the embedding; the sinusoid has E // 4 features.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype` (float32 unless given).

    Call arguments:
        value: `(B,)` float32, the timestep 0..N-1 (not divided by N).

    Returns:
        `(B, E)` float32.

    Example:

    >>> TimeEmbedding(64)(keras.ops.array([0.0, 999.0])).shape
    TensorShape([2, 64])

    Reference: Ho et al. 2020 (arXiv 2006.11239), appendix B.
    """


@keras.saving.register_keras_serializable("keras_mdm")
class MicroConditioning(_SinusoidMLP):
    """Embedding of one extra number per sample, such as the original size of the picture.

    The output starts at zero, so that a condition can be added to a trained network.

    Args:
        width: width E of the embedding.
        default: value used where the input is NaN.
        clamp: `True` limits the value to at most `default` and feeds it raw (the size condition
            called `scale`); `False` feeds 1000 times the value.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype` (float32 unless given).

    Call arguments:
        value: `(B,)` float32; NaN means "not given".

    Returns:
        `(B, E)` float32.

    Example:

    >>> MicroConditioning(64, default=256.0, clamp=True)(keras.ops.array([512.0])).shape
    TensorShape([1, 64])

    Reference: Podell et al. 2023 (arXiv 2307.01952), section 2.2.
    """

    zero_output = True

    def __init__(self, width: int, *, default: float, clamp: bool = False, **kwargs: Any):
        super().__init__(width, **kwargs)
        self.default = checks.real("default", default, minimum=-math.inf)
        self.clamp = clamp

    def call(self, value: Tensor) -> Tensor:
        value = ops.where(ops.isnan(value), ops.full_like(value, self.default), value)
        if self.clamp:
            value = ops.minimum(value / self.default, 1.0) * self.default
        else:
            value = 1000.0 * value
        return super().call(value)

    def get_config(self) -> dict:
        return {**super().get_config(), "default": self.default, "clamp": self.clamp}


@keras.saving.register_keras_serializable("keras_mdm")
class ClassEmbedding(keras.layers.Layer):
    """Learned vector per class, with one more row for "no class".

    Args:
        num_classes: number of classes; the table has `num_classes + 1` rows.
        width: width E of the embedding.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype` (float32 unless given).

    Call arguments:
        label: `(B,)` int32 in 0..num_classes-1; -1 means "no class" (the last row). A larger label
            raises TensorFlow's `InvalidArgumentError` on a CPU and gives a row of zeros on a GPU.

    Returns:
        `(B, E)` float32.

    Example:

    >>> ClassEmbedding(10, 64)(keras.ops.array([3, -1])).shape
    TensorShape([2, 64])

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix E; Ho and Salimans 2022
    (arXiv 2207.12598) for the row without a class; Dhariwal and Nichol 2021 (arXiv 2105.05233),
    ADM, for the initial values.
    """

    def __init__(self, num_classes: int, width: int, *, seed: int = 0, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.num_classes = checks.integer("num_classes", num_classes, minimum=1)
        self.width = width
        self.seed = seed

    def build(self, label_shape: Shape) -> None:
        # Unit variance, as in ADM: classes differ from the first step on. With DiT's 0.02 the class
        # is far weaker than the time at first, and short runs never learn it.
        self.table = self.add_weight(
            name="table",
            shape=(self.num_classes + 1, self.width),
            initializer=keras.initializers.RandomNormal(
                stddev=1.0, seed=derive_seed(self.seed, "table")
            ),
        )

    def call(self, label: Tensor) -> Tensor:
        label = ops.cast(label, "int32")
        # A label one too large (labels counted from 1) must not pass for "no class": it is moved
        # past the end of the table, where the gather refuses it.
        label = ops.where(label < self.num_classes, label, label + 1)
        row = ops.where(label < 0, ops.full_like(label, self.num_classes), label)
        return ops.take(self.table, row, axis=0)

    def compute_output_shape(self, label_shape: Shape) -> Shape:
        return (*label_shape, self.width)

    def get_config(self) -> dict:
        config = {"num_classes": self.num_classes, "width": self.width, "seed": self.seed}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_mdm")
class PooledTextEmbedding(keras.layers.Layer):
    """Embedding of one vector per prompt, such as the pooled state of a CLIP text encoder.

    Dense, SiLU, dense. The output starts at zero, so that it can be added to a trained network.

    Args:
        width: width E of the embedding.
        seed: seed of the initial values.
        **kwargs: `name`, `dtype` (float32 unless given).

    Call arguments:
        pooled: `(B, P)` float32.

    Returns:
        `(B, E)` float32.

    Example:

    >>> PooledTextEmbedding(64)(keras.ops.ones((2, 16))).shape
    TensorShape([2, 64])

    Reference: Podell et al. 2023 (arXiv 2307.01952), section 2.1.
    """

    def __init__(self, width: int, *, seed: int = 0, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.width = checks.integer("width", width, minimum=8)
        self.seed = seed

    def build(self, pooled_shape: Shape) -> None:
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        self.dense1 = dense("dense1", pooled_shape[-1], self.width, **given)
        self.dense2 = dense("dense2", self.width, self.width, zero=True, **given)
        self.dense1.build((None, pooled_shape[-1]))
        self.dense2.build((None, self.width))

    def call(self, pooled: Tensor) -> Tensor:
        return self.dense2(ops.silu(self.dense1(pooled)))

    def compute_output_shape(self, pooled_shape: Shape) -> Shape:
        return (*pooled_shape[:-1], self.width)

    def get_config(self) -> dict:
        return {**super().get_config(), "width": self.width, "seed": self.seed}


@keras.saving.register_keras_serializable("keras_mdm")
class LevelEmbedding(keras.layers.Layer):
    """The vector that conditions the blocks of one level: time, conditions and micro-conditions.

    Every level has its own; text and class are embedded once, by the innermost level, for all
    levels.

    Args:
        width: width E of the embedding.
        micro_conditions: default value per name; `scale` is clamped (see `MicroConditioning`).
        seed: seed of the initial values.
        **kwargs: `name`, `dtype` (float32 unless given).

    Call arguments:
        time: `(B,)` float32, the timestep 0..N-1.
        condition: optional `(B, E)`, the sum of the embedded text and class.
        micro: optional dict of `(B,)` float32, one per name.

    Returns:
        `(B, E)` float32.

    Example:

    >>> embed = LevelEmbedding(64, micro_conditions={"scale": 256.0})
    >>> embed(keras.ops.array([999.0]), micro={"scale": keras.ops.array([512.0])}).shape
    TensorShape([1, 64])

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A (`emb_channels`).
    """

    def __init__(
        self, width: int, *, micro_conditions: dict | None = None, seed: int = 0, **kwargs: Any
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.width = width
        self.micro_conditions = dict(micro_conditions or {})
        self.seed = seed
        self.time_embedding = TimeEmbedding(
            width, seed=derive_seed(seed, "time"), name="time_embedding", dtype=self.dtype_policy
        )
        self.micro_layers = {
            name: MicroConditioning(
                width,
                default=default,
                clamp=name == "scale",
                seed=derive_seed(seed, f"micro_{name}"),
                name=f"micro_{name}",
                dtype=self.dtype_policy,
            )
            for name, default in self.micro_conditions.items()
        }

    def build(
        self,
        time_shape: Shape,
        condition_shape: Shape | None = None,
        micro_shape: dict[str, Shape] | None = None,
    ) -> None:
        self.time_embedding.build(time_shape)
        for layer in self.micro_layers.values():
            layer.build(time_shape)

    def call(self, time: Tensor, condition: Tensor = None, micro: Tensor = None) -> Tensor:
        embedding = self.time_embedding(time)
        if condition is not None:
            embedding = embedding + ops.cast(condition, embedding.dtype)
        for name, layer in self.micro_layers.items():
            embedding = embedding + layer(micro[name])
        return embedding

    def compute_output_shape(
        self,
        time_shape: Shape,
        condition_shape: Shape | None = None,
        micro_shape: dict[str, Shape] | None = None,
    ) -> Shape:
        return (*time_shape, self.width)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "width": self.width,
            "micro_conditions": self.micro_conditions,
            "seed": self.seed,
        }

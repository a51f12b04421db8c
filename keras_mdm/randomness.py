"""Counter-based randomness: every draw is a function of its purpose.

No generator has state. A draw is keyed by the run's seed, its purpose, the step and the sample. So
results do not depend on how a batch is split over replicas, and an interrupted run draws what an
uninterrupted one would have drawn.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm.tracing import is_compiled


def key(seed: int, purpose: str, step: Any = 0) -> tf.Tensor:
    """Return the key of all draws for one purpose at one step.

    Args:
        seed: seed of the run, a Python integer or an int64 scalar tensor.
        purpose: what is drawn, such as `"train"` or `"start"`.
        step: optimizer or sampler step, an integer or a scalar tensor.

    Returns:
        (2,) int64.
    """
    seed = tf.cast(seed, tf.int64)
    base = tf.stack([seed, tf.constant(zlib.crc32(purpose.encode()), tf.int64)])
    return _fold_in(base, tf.cast(step, tf.int64))


def fold(base: tf.Tensor, name: str) -> tf.Tensor:
    """Return the key of the draw called `name` under `base`."""
    return _fold_in(base, zlib.crc32(name.encode()))


def normal_per_sample(
    base: tf.Tensor, samples: tf.Tensor, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tf.Tensor]:
    """Draw standard normal tensors, each row from the key of its own sample.

    Args:
        base: (2,) int64, from `key`.
        samples: (B,) int64, global position of every row.
        shapes: shape of one row by level name; a level's draw does not depend on the others.

    Returns:
        (B, *shape) float32 by level name.
    """

    def draw(sample: tf.Tensor) -> dict[str, tf.Tensor]:
        own = _fold_in(base, sample)
        return {name: _normal(shape, fold(own, name)) for name, shape in shapes.items()}

    signature = {name: tf.TensorSpec(shape, tf.float32) for name, shape in shapes.items()}
    return tf.map_fn(draw, tf.cast(samples, tf.int64), fn_output_signature=signature)


def normal_per_row(
    seeds: tf.Tensor,
    purpose: str,
    step: Any,
    samples: tf.Tensor,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tf.Tensor]:
    """`normal_per_sample` with a seed per row; each row is what it draws for that seed.

    Args:
        seeds: (B,) int64.
        purpose: as in `key`.
        step: as in `key`.
        samples: (B,) int64, position of the row among those of its seed.
        shapes: shape of one row by level name.

    Returns:
        (B, *shape) float32 by level name.
    """

    def draw(row: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        seed, sample = row
        own = _fold_in(key(seed, purpose, step), sample)
        return {name: _normal(shape, fold(own, name)) for name, shape in shapes.items()}

    signature = {name: tf.TensorSpec(shape, tf.float32) for name, shape in shapes.items()}
    rows = tf.cast(seeds, tf.int64), tf.cast(samples, tf.int64)
    return tf.map_fn(draw, rows, fn_output_signature=signature)


def uniform_per_sample(base: tf.Tensor, samples: tf.Tensor, names: tuple[str, ...]) -> dict:
    """Draw numbers inside [0, 1), one per sample and name; arguments as in `normal_per_sample`.

    Returns:
        (B,) float32 by name.
    """

    def draw(sample: tf.Tensor) -> dict[str, tf.Tensor]:
        own = _fold_in(base, sample)
        return {name: _uniform(fold(own, name)) for name in names}

    signature = {name: tf.TensorSpec((), tf.float32) for name in names}
    return tf.map_fn(draw, tf.cast(samples, tf.int64), fn_output_signature=signature)


# XLA treats keys differently: it drops the upper half of both numbers, and has its own ways to turn
# bits into fractions and pairs of fractions into normal draws. So everything but the counter-based
# generator itself is written out here, after TensorFlow's kernels.
_PHILOX = 1
_SCRAMBLING = (0x02461E29 << 32) | 0x3EC8F720


def _philox(count: int, key: Any, counter: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=(count,), key=key, counter=counter, alg=_PHILOX, dtype=dtype
    )


def _scrambled(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Key and counter of the generator, `(1,)` and `(2,)` uint64."""
    key = tf.constant([_SCRAMBLING], tf.uint64)
    mixed = _philox(2, key, tf.bitcast(tf.cast(seed, tf.int64), tf.uint64), tf.uint64)
    return mixed[:1], tf.stack([tf.zeros((), tf.uint64), mixed[1]])


def _fold_in(base: tf.Tensor, data: Any) -> tf.Tensor:
    """`tf.random.experimental.stateless_fold_in`, the same under XLA."""
    if not is_compiled():
        return tf.random.experimental.stateless_fold_in(base, data)
    data = tf.convert_to_tensor(data)  # int32 if it fits; so is the result
    return tf.stack([_philox(1, *_scrambled(base), data.dtype)[0], data])


def _normal(shape: tuple[int, ...], key: tf.Tensor) -> tf.Tensor:
    """Standard normal draws, the same with and without XLA (its own draws differ)."""
    if not is_compiled():
        return tf.random.stateless_normal(shape, key)
    count = math.prod(shape)
    pairs = tf.reshape(_fraction(_bits(-(-count // 4) * 4, key)), (-1, 2))
    # Box and Muller 1958, as in TensorFlow's kernels.
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(pairs[:, 0], 1e-7)))
    angle = 2.0 * math.pi * pairs[:, 1]
    drawn = tf.stack([tf.sin(angle) * radius, tf.cos(angle) * radius], axis=1)
    return tf.reshape(tf.reshape(drawn, (-1,))[:count], shape)


def _uniform(key: tf.Tensor) -> tf.Tensor:
    """One number inside [0, 1), the same with and without XLA."""
    if not is_compiled():
        return tf.random.stateless_uniform((), key)
    return _fraction(_bits(1, key))[0]


def _bits(count: int, key: tf.Tensor) -> tf.Tensor:
    """Random int32 numbers, the same with and without XLA."""
    return tf.bitcast(_philox(count, *_scrambled(key), tf.uint32), tf.int32)


def _fraction(bits: tf.Tensor) -> tf.Tensor:
    """Numbers inside [0, 1) from the lower 23 bits, as in TensorFlow's kernels; XLA takes the upper
    ones."""
    one = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(bits, 0x7FFFFF), 0x3F800000)
    return tf.bitcast(one, tf.float32) - 1.0

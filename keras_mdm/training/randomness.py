"""Counter-based randomness: every draw is a function of what it is for.

No generator has state. A draw is keyed by the run's seed, its purpose, the step and the sample, so
that results do not depend on how a batch is split over replicas, and a run that was interrupted
draws what the uninterrupted one would have drawn.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


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
    return tf.random.experimental.stateless_fold_in(base, tf.cast(step, tf.int64))


def fold(base: tf.Tensor, name: str) -> tf.Tensor:
    """Return the key of the draw called `name` under `base`."""
    return tf.random.experimental.stateless_fold_in(base, zlib.crc32(name.encode()))


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

    def draw(sample):
        own = tf.random.experimental.stateless_fold_in(base, sample)
        return {
            name: tf.random.stateless_normal(shape, fold(own, name))
            for name, shape in shapes.items()
        }

    signature = {name: tf.TensorSpec(shape, tf.float32) for name, shape in shapes.items()}
    return tf.map_fn(draw, tf.cast(samples, tf.int64), fn_output_signature=signature)


def normal_per_row(
    seeds: tf.Tensor,
    purpose: str,
    step: Any,
    samples: tf.Tensor,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tf.Tensor]:
    """`normal_per_sample` with a seed per row: equal seeds give what it gives for that seed.

    Args:
        seeds: (B,) int64.
        purpose: as in `key`, like `step`.
        step: see `purpose`.
        samples: (B,) int64, position of the row among those of its seed.
        shapes: shape of one row by level name.

    Returns:
        (B, *shape) float32 by level name.
    """

    def draw(row):
        seed, sample = row
        own = tf.random.experimental.stateless_fold_in(key(seed, purpose, step), sample)
        return {
            name: tf.random.stateless_normal(shape, fold(own, name))
            for name, shape in shapes.items()
        }

    signature = {name: tf.TensorSpec(shape, tf.float32) for name, shape in shapes.items()}
    rows = tf.cast(seeds, tf.int64), tf.cast(samples, tf.int64)
    return tf.map_fn(draw, rows, fn_output_signature=signature)


def uniform_per_sample(base: tf.Tensor, samples: tf.Tensor, names: tuple[str, ...]) -> dict:
    """Draw numbers inside [0, 1), one per sample and name; arguments as in `normal_per_sample`.

    Returns:
        (B,) float32 by name.
    """

    def draw(sample):
        own = tf.random.experimental.stateless_fold_in(base, sample)
        return {name: tf.random.stateless_uniform((), fold(own, name)) for name in names}

    signature = {name: tf.TensorSpec((), tf.float32) for name in names}
    return tf.map_fn(draw, tf.cast(samples, tf.int64), fn_output_signature=signature)

"""Arrays in memory as a dataset of batches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks


def is_arrays(x: Any) -> bool:
    """Whether `x` is an array, a list of numbers, pictures or texts, or a dict of these."""
    if isinstance(x, Mapping):
        return bool(x) and all(is_arrays(value) for value in x.values())
    return isinstance(x, np.ndarray | tf.Tensor | tf.Variable | list) or (
        hasattr(x, "__array__") and not isinstance(x, tf.data.Dataset)
    )


def as_array(value: Any) -> Any:
    """Return an array or a tensor as the pipelines take it. Like Keras, 64-bit floats, which are
    Python's default, become 32-bit.

    Args:
        value: array, tensor, or list.

    Raises:
        ValueError: if it cannot become one, such as a list of pictures of different sizes.
    """
    if not tf.is_tensor(value):
        try:
            value = np.asarray(value)
        except ValueError:
            value = np.asarray(None)
        if value.dtype == object and not all(isinstance(v, str | bytes) for v in value.flat):
            raise checks.error(
                "data must be arrays of numbers or texts, with one shape for all samples",
                fix='bring the pictures to one size; use "" for a missing text',
                dtype=str(value.dtype),
                shape=value.shape,
            )
    if value.dtype in (np.float64, tf.float64):
        return tf.cast(value, tf.float32) if tf.is_tensor(value) else value.astype("float32")
    return value


def element(x: Any, y: Any, sample_weight: Any) -> tuple:
    """Return the arguments as arrays, in a tuple without `None`.

    Args:
        x: array or dict of arrays.
        y: likewise, or `None`.
        sample_weight: array or `None`.

    Raises:
        ValueError: if the numbers of samples differ.
    """
    if sample_weight is not None and y is None:
        # A tuple of two is (x, y).
        if not isinstance(x, Mapping):
            x = {"": x}
        if any(isinstance(value, Mapping) for value in x.values()):
            raise checks.error(
                "a mixed batch holds the weights of every group",
                fix='put them into the groups\' dicts as "sample_weight"',
                groups=sorted(x),
            )
        found = (as_arrays({**x, "sample_weight": sample_weight}),)
    else:
        found = as_arrays(tuple(v for v in (x, y, sample_weight) if v is not None))
    counts = sorted({int(value.shape[0]) if len(value.shape) else 0 for value in _leaves(found)})
    if len(counts) != 1 or counts[0] == 0:
        raise checks.error(
            "all arrays must have one row per sample, and at least one",
            fix="pass arrays of the same length",
            rows=counts,
        )
    return found


def as_arrays(value: Any) -> Any:
    """`as_array` of all arrays in dicts and tuples.

    Args:
        value: nested arrays.
    """
    if isinstance(value, Mapping):
        return {key: as_arrays(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(as_arrays(inner) for inner in value)
    return as_array(value)


def _leaves(value: Any) -> list:
    if isinstance(value, Mapping):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, tuple):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value]


def rows(value: Any) -> int:
    """Number of samples.

    Args:
        value: from `element`.
    """
    return int(_leaves(value)[0].shape[0])


def slices(value: Any, batch_size: int, *, seed: int | None) -> tf.data.Dataset:
    """Return batches of arrays.

    Args:
        value: nested arrays.
        batch_size: samples of a batch; the last one may be smaller.
        seed: decides the order, which changes each time the dataset is iterated; `None` keeps the
            order of the arrays.
    """
    count = rows(value)
    # One copy in TensorFlow's memory, captured by the map below rather than embedded in its graph.
    with tf.device("CPU"):
        tables = tf.nest.map_structure(tf.constant, value)
    if seed is None:
        order = tf.data.Dataset.range(count)
    else:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)

        def shuffled(word: tf.Tensor) -> tf.data.Dataset:
            order = tf.range(count, dtype=tf.int64)
            key = tf.stack([word, tf.constant(seed, tf.int64)])
            return tf.data.Dataset.from_tensor_slices(
                tf.random.experimental.stateless_shuffle(order, key)
            )

        order = seeds.flat_map(shuffled)
    order = order.batch(batch_size, drop_remainder=count % batch_size == 0)
    order = order.apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))

    def gather(index: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda table: tf.gather(table, index), tables)

    return order.map(gather).prefetch(tf.data.AUTOTUNE)

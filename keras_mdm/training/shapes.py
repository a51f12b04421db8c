"""Pictures whose shape a dataset does not tell, such as those of `tf.io.decode_image`."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm.conditioning.low_res import LOW_RES, low_res_channels
from keras_mdm.training import batches
from keras_mdm.training.assertions import require


def shaped(dataset: tf.data.Dataset, model: Any) -> tf.data.Dataset:
    """Return a dataset whose pictures have the known and checked shape of their levels.

    A dataset that tells its shapes is returned as it is.

    Args:
        dataset: batches, see `batches.split_groups`.
        model: a `MatryoshkaDiffusion`.

    Raises:
        ValueError: if the known part of a shape does not fit. An unknown part that does not fit
            ends the dataset with `tf.errors.InvalidArgumentError`, which the trainer rewords.
    """
    levels = model.unet.levels
    open_shapes = {}
    for level, group in batches.split_groups(dataset.element_spec, levels).items():
        process = model.process.up_to(level)
        shape = process.shapes[-1]
        key = "image" if shape.frames is None else "video"
        number = levels.index(level)
        expected = model.unet.spec.levels[number].input_shape(model.unet.spec.out_channels)
        found = group[key].shape if key in group else tf.TensorShape((None, *expected))
        if process.sizes:  # a batch has one of several, and the step reads its own
            expected = (*expected[:-3], None, None, expected[-1])
            known = found.rank is not None and None not in (*found[1:-3], found[-1])
        else:
            known = found.rank is not None and None not in tuple(found[1:])
        batches.check_shape(key, found, expected, level, process.sizes)
        if not known:
            open_shapes[level, key] = expected
        seen, channels = group.get(LOW_RES), low_res_channels(model.unet.spec)
        known = seen is None or (seen.shape.rank is not None and seen.shape[-1] is not None)
        if channels and not known:
            clip = seen.shape.rank == 5
            open_shapes[level, LOW_RES] = (*([None] * (3 if clip else 2)), channels)
    if not open_shapes:
        return dataset
    nested = all(isinstance(value, Mapping) for value in dataset.element_spec.values())

    def shape_all(batch: Mapping[str, Any]) -> Mapping[str, Any]:
        groups = dict(batch) if nested else {levels[-1]: batch}
        for (level, key), expected in open_shapes.items():
            value = _with_shape(key, groups[level][key], expected, level)
            groups[level] = {**groups[level], key: value}
        return groups if nested else groups[levels[-1]]

    return dataset.map(tf.autograph.experimental.do_not_convert(shape_all), num_parallel_calls=1)


def _with_shape(
    key: str, value: tf.Tensor, expected: tuple[int | None, ...], level: str
) -> tf.Tensor:
    known = [(axis, length) for axis, length in enumerate(expected, 1) if length is not None]
    fits = tf.cond(
        tf.equal(tf.rank(value), len(expected) + 1),
        lambda: tf.reduce_all([tf.equal(tf.shape(value)[axis], n) for axis, n in known]),
        lambda: tf.constant(False),
    )
    size = "" if None in expected else f" and in the size of level {level}"
    needed = require(
        fits,
        f"`{key}` must have the shape (B, {', '.join(str(n or 'any') for n in expected)})",
        fix=f"decode the data with {expected[-1]} channels{size}; tf.io.decode_image takes "
        "channels=",
        shape=tf.shape(value),
    )
    with tf.control_dependencies([needed]):
        return tf.ensure_shape(value, (None, *expected))

"""Pipelines that TensorFlow does not tune while they run.

The thread that tunes sleeps for up to a minute at a time, and nothing wakes it when its iterator is
freed: with it every end of `fit` and of a phase may wait a minute for each iterator. `AUTOTUNE`
then means as many calls at once as there are cores; `prefetch` finds its size by itself.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

# Makes what brings the batches to one of several devices, from no options of anybody.
_MAKER = "_create_device_dataset"


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset, not tuned while it runs unless its options ask for that.

    Args:
        dataset: the dataset.
    """
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


@contextlib.contextmanager
def untuned_devices() -> Iterator[None]:
    """While it lasts, what brings batches to several devices is made without tuning as well."""
    make = getattr(multi_device_iterator_ops, _MAKER)
    setattr(multi_device_iterator_ops, _MAKER, lambda *args: untuned(make(*args)))
    try:
        yield
    finally:
        setattr(multi_device_iterator_ops, _MAKER, make)

"""Pipelines that TensorFlow does not tune while they run.

The tuning thread sleeps for up to a minute at a time, and nothing wakes it when its iterator is
freed: every end of `fit` and of a phase could wait a minute for each iterator. Without it,
`AUTOTUNE` means as many calls at once as there are cores; `prefetch` finds its size by itself.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

# Makes the dataset that brings batches to one of several devices; it takes no options.
_MAKER = "_create_device_dataset"


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset with tuning turned off, unless its options mention tuning."""
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


@contextlib.contextmanager
def untuned_devices() -> Iterator[None]:
    """In this context the datasets that bring batches to several devices are untuned as well."""
    make = getattr(multi_device_iterator_ops, _MAKER)
    setattr(multi_device_iterator_ops, _MAKER, lambda *args: untuned(make(*args)))
    try:
        yield
    finally:
        setattr(multi_device_iterator_ops, _MAKER, make)

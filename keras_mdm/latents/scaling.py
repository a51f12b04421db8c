"""Mean and deviation of every channel of an autoencoder's codes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.training.inputs import is_endless


def measured(
    model: Any, data: Any, *, batches: int | None, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, deviation) of every channel of the posterior's mean; see
    `KLAutoencoder.measure_scale`.

    Raises:
        ValueError: if there is no end to the data or nothing in it, or a channel does not vary.
    """
    if batches is not None:
        checks.integer("batches", batches, minimum=1)
    elif is_endless(data):
        raise checks.error(
            "the data of which the scale is measured must end",
            fix="pass batches=100, or a finite dataset",
            batches=None,
        )
    count, total, squares = 0, np.zeros(model.channels), np.zeros(model.channels)
    for number, images in enumerate(_pictures(data, batch_size)):
        if number == batches:
            break
        values = np.asarray(model.posterior(images)[0], "float64").reshape(-1, model.channels)
        count += len(values)
        total += values.sum(0)
        squares += np.square(values).sum(0)
    if not count:
        raise checks.error(
            "the scale of codes must be measured on at least one picture",
            fix="pass pictures, or a dataset of batches",
            pictures=0,
        )
    shift = total / count
    deviation = np.sqrt(np.maximum(squares / count - shift**2, 0.0))
    # Below this a channel is rounding noise, which would be enlarged to unit scale.
    still = deviation <= 1e-4 * max(float(deviation.max()), 1e-3)
    if not np.isfinite(deviation).all() or still.any():
        raise checks.error(
            "every channel of the codes must vary",
            fix="train the autoencoder further, on pictures that differ, or with fewer channels",
            deviation=[float(f"{value:.3g}") for value in deviation],
        )
    return shift.astype("float32"), deviation.astype("float32")


def _pictures(data: Any, batch_size: int) -> Iterator[Any]:
    """Batches of pictures, from arrays or a dataset."""
    if isinstance(data, tf.data.Dataset):
        for batch in data:
            yield batch["image"] if isinstance(batch, dict) else batch
        return
    for first in range(0, len(data), checks.integer("batch_size", batch_size, minimum=1)):
        yield data[first : first + batch_size]

"""A look at the first batches before training, for faults that shapes and types do not show."""

import warnings
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning.conditions import NO_CLASS
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.training import batches

# Number of batches that a `fit` or an `evaluate` looks at.
LOOKS = 4
# How far rounding, or a mean that is off by half a grey level, may exceed the range of pictures.
SLACK = 0.01
# Codes have about unit scale; larger values are pictures in 0..255.
LARGEST_CODE = 64.0


def look_at(model: Any, batch: Any) -> None:
    """Raise if pictures are out of range or classes do not exist.

    Pictures that are not finite pass, since non-finite steps are skipped anyway.

    Args:
        model: a `MatryoshkaDiffusion`.
        batch: eager tensors, or those of all replicas.
    """
    results = model.distribute_strategy.experimental_local_results

    def replicas(value: Any) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(part) for part in results(value)]

    for group in batches.split_groups(batch, model.unet.levels).values():
        for key in ("image", "video", LOW_RES):
            found = replicas(group[key]) if key in group else []
            if found and found[0].dtype.is_floating:
                check_range(key, found, codes=_are_codes(model))
        classes = model.unet.spec.num_classes
        if classes and "label" in group:
            check_classes(replicas(group["label"]), classes)


def _are_codes(model: Any) -> bool:
    """Whether a model may be trained on an autoencoder's codes, whose range is open."""
    return model.threshold == "none" or model.unet.spec.out_channels > 4


def check_range(key: str, values: Any, *, codes: bool = False) -> None:
    """Raise unless pictures are in [-1, 1], and warn if they seem to be in [0, 1].

    Args:
        key: name of the pictures, for the message.
        values: tensors.
        codes: whether they may be codes, which may exceed the range.
    """
    finite = [tf.where(tf.math.is_finite(value), value, tf.zeros_like(value)) for value in values]
    low = min(float(tf.reduce_min(value)) for value in finite)
    high = max(float(tf.reduce_max(value)) for value in finite)
    largest = LARGEST_CODE if codes else 1.0 + SLACK
    if max(high, -low) > largest:
        raise checks.error(
            f"floats in `{key}` must lie in [-1, 1]",
            fix="pass uint8, divide 0..255 by 127.5 and subtract 1, or clip what a resize "
            'overshoots; codes of an autoencoder need MatryoshkaDiffusion(threshold="none")',
            smallest=round(low, 3),
            largest=round(high, 3),
        )
    if not codes and 0.0 <= low < 0.05 and high > 0.95:
        warnings.warn(
            f"`{key}` seems to lie in [0, 1] (smallest {low:.3g}, largest {high:.3g}), but must "
            "lie in [-1, 1]: nothing darker than mid-grey is trained. Pass 2 * x - 1, or uint8",
            stacklevel=2,
        )


def check_classes(values: Any, classes: int) -> None:
    """Raise unless classes are between -1 and the last one; a GPU would not report others.

    Args:
        values: tensors of integers.
        classes: number of classes.
    """
    low = min(int(tf.reduce_min(value)) for value in values)
    high = max(int(tf.reduce_max(value)) for value in values)
    if low < NO_CLASS or high >= classes:
        raise checks.error(
            f"`label` must lie between -1 (no class) and {classes - 1}",
            fix="number the classes from 0, or build the network with more of them",
            smallest=low,
            largest=high,
        )

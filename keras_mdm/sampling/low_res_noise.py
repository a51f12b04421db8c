"""Noise augmentation in sampling: how much noise the picture gets that a network sees."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import checks, randomness
from keras_mdm.conditioning.low_res import LOW_RES, LOW_RES_NOISE, sees_noise, with_noise

# Hardly any: the first entry of the table.
LEAST = 1


def check_noise_level(model: Any, index: int | None) -> int:
    """Return the table index of the noise, checked.

    Args:
        model: a `MatryoshkaDiffusion`.
        index: from 1 to the steps of the training schedule; `None` for the least.

    Raises:
        ValueError: if it is none, or the network is not told.
    """
    if index is None:
        return LEAST
    if not sees_noise(model.unet.spec):
        raise checks.error(
            f"`{LOW_RES_NOISE}` needs a network that was trained on noisy pictures",
            fix=f"leave it out, or build the levels with micro_conditions={{{LOW_RES_NOISE!r}: "
            "0.0} and train",
            **{LOW_RES_NOISE: index},
        )
    limit = model.process.schedules[model.unet.levels[-1]].num_steps
    if checks.integer(LOW_RES_NOISE, index, minimum=LEAST) > limit:
        raise checks.error(
            f"`{LOW_RES_NOISE}` must be at most {limit}, the steps of the training schedule",
            fix=f"pass a number from {LEAST} to {limit}",
            **{LOW_RES_NOISE: index},
        )
    return int(index)


def add_noise(
    model: Any,
    conditions: Mapping[str, tf.Tensor],
    index: tf.Tensor,
    seeds: tf.Tensor,
    samples: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Add noise to the picture that every row sees; the same at every call for these rows.

    Args:
        model: a `MatryoshkaDiffusion`.
        conditions: conditions of every row.
        index: table index of the noise, scalar.
        seeds: `(B,)` int64.
        samples: `(B,)` int64; seed and sample are the key of a row's noise.

    Returns:
        The conditions; unchanged if the network is not told `low_res_noise`.
    """
    if not sees_noise(model.unet.spec):
        return dict(conditions)
    shape = {LOW_RES: tuple(conditions[LOW_RES].shape[1:])}
    eps = randomness.normal_per_row(seeds, LOW_RES, 0, samples, shape)[LOW_RES]
    schedule = model.process.schedules[model.unet.levels[-1]]
    return with_noise(conditions, eps, index, schedule)

"""Noise augmentation in training: a network learns to enlarge pictures that are not clean."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import randomness
from keras_mdm.conditioning.low_res import LOW_RES, LOW_RES_NOISE, sees_noise, with_noise


def augmented(
    model: Any,
    purpose: str,
    step: Any,
    samples: tf.Tensor,
    conditions: Mapping[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Add noise to the picture that every sample sees, of a level drawn uniformly from the table.

    Args:
        model: a `MatryoshkaDiffusion`.
        purpose: `"train"` or `"test"`.
        step: optimizer step.
        samples: `(B,)` int64.
        conditions: conditions of every row.

    Returns:
        The conditions; unchanged if the network is not told `low_res_noise`.

    Reference: Ho et al. 2021 (arXiv 2106.15282), section 4.2; Gu et al. 2023 (arXiv 2310.15111),
    appendix D.1.
    """
    if not sees_noise(model.unet.spec):
        return dict(conditions)
    base = randomness.key(model.seed, purpose, step)
    schedule = model.process.schedules[model.unet.levels[-1]]
    place = randomness.uniform_per_sample(base, samples, (LOW_RES_NOISE,))[LOW_RES_NOISE]
    index = 1 + tf.cast(tf.floor(place * schedule.num_steps), tf.int32)
    index = tf.minimum(index, schedule.num_steps)
    shape = tuple(conditions[LOW_RES].shape[1:])
    eps = randomness.normal_per_sample(base, samples, {LOW_RES: shape})[LOW_RES]
    return with_noise(conditions, eps, index, schedule)

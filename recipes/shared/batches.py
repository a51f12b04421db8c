"""Batches of a phase, made from batches of its groups."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import keras_mdm as mdm


def joined(phase: mdm.Phase, group: Callable[..., tf.data.Dataset], **given: Any) -> Any:
    """Join the groups of a phase, each with this worker's part.

    Args:
        phase: the phase.
        group: function (level, rows, worker=, **given) -> batches of a level.
        **given: for `group`.
    """
    worker = mdm.distribute.worker(*phase.groups.values())
    groups = phase.groups.items()
    return mdm.data.mixed_dataset(
        {level: group(level, rows, worker=worker, **given) for level, rows in groups}
    )


def validated_rows(phase: mdm.Phase) -> int:
    """The batch size for --validate-every: the number of which all groups are multiples, so that it
    divides over replicas and micro-batches as well."""
    return int(np.gcd.reduce(list(phase.groups.values())))

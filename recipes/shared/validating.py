"""What a recipe measures on data that it does not train on: losses, and where in the noise they
come from."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

import keras_mdm as mdm
from shared.scale import Scale

MOST_ROWS = 32


def every(scale: Scale, arguments: argparse.Namespace) -> int:
    """Steps between validations; 0 for none."""
    asked = arguments.validate_every
    return scale.validate_every if asked is None else asked


def fit_options(
    scale: Scale,
    arguments: argparse.Namespace,
    callbacks: Callable[[mdm.PhaseContext], list],
    validation: Callable[[mdm.Phase], tf.data.Dataset],
    rows: Callable[[mdm.Phase], float],
) -> dict[str, Any]:
    """Options of `fit_progressively`: the callbacks, and the data to validate on if that is wanted.

    Args:
        scale: of the training.
        arguments: of the recipe.
        callbacks: see `Diagnosed`.
        validation: likewise.
        rows: likewise.
    """
    steps = every(scale, arguments)
    if not steps:
        return {"callbacks": callbacks}
    if not scale.buckets:  # their batches have several sizes and cannot be joined
        callbacks = Diagnosed(callbacks, validation, steps, rows)
    return {"callbacks": callbacks, "validation": validation, "validate_every": steps}


class Diagnosed:
    """Makes the callbacks of a phase, and one that measures the loss by noise.

    Args:
        callbacks: makes the others; it may have a method `check`.
        validation: function (phase) -> data that is not trained on.
        every: steps between measurements.
        rows: function (phase) -> rows of the highest level that a device trains at a time: no more
            are measured, so that it fits wherever training does.
    """

    def __init__(
        self,
        callbacks: Callable[[mdm.PhaseContext], list],
        validation: Callable[[mdm.Phase], tf.data.Dataset],
        every: int,
        rows: Callable[[mdm.Phase], float],
    ):
        self.callbacks, self.validation = callbacks, validation
        self.every, self.rows = every, rows
        self.check = getattr(callbacks, "check", None)

    def __call__(self, context: mdm.PhaseContext) -> list:
        """The callbacks of a phase."""
        made = list(self.callbacks(context))
        batch = self._batch(context.phase)
        if batch is None:
            return made
        return [
            *made,
            mdm.callbacks.Diagnostics(
                batch, context.logger.writer, every=self.every, initial_step=context.global_step
            ),
        ]

    def _batch(self, phase: mdm.Phase) -> Mapping[str, Any] | None:
        """Some rows, a multiple of four; none if there are fewer."""
        wanted = max(4, int(min(MOST_ROWS, self.rows(phase))) // 4 * 4)
        rows = self.validation(phase).rebatch(wanted, drop_remainder=True)
        return next(iter(rows.take(1)), None)

"""Losses on held-out data, at intervals during a phase."""

from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback
from keras_mdm.callbacks.tags import tagged
from keras_mdm.callbacks.tensorboard import EventWriter
from keras_mdm.files import unless_full
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.training.inputs import is_endless


def require_finite(dataset: tf.data.Dataset) -> None:
    """Raise if the data set of a validation is endless or empty."""
    size = int(dataset.cardinality())
    if size == 0 or is_endless(dataset):
        raise checks.error(
            "validation data must be finite and hold at least one batch",
            fix="make it with repeat=False, or end it with .take(number of batches)",
            batches=size,
        )


class Validation(StepCallback):
    """Loss of the averaged weights, as a whole and by level, on a finite data set.

    Every validation sees the same samples with the same noise, so two of them differ only by the
    weights. All workers take part; the first one writes.

    Args:
        dataset: finite batches.
        every: steps between two validations.
        number: number of the phase.
        run: directory whose `run.json` receives the losses under "validation".
        writer: for TensorBoard; `None` on workers that do not write.
        first_step: optimizer steps before the phase.
        initial_step: as in `StepCallback`.

    Raises:
        ValueError: if the data set is endless or empty.

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix E (1/1000 of the pairs).
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        every: int,
        number: int,
        run: RunDirectory,
        writer: EventWriter | None,
        *,
        first_step: int,
        initial_step: int = 0,
    ):
        super().__init__(initial_step=initial_step)
        require_finite(dataset)
        self.dataset, self.every = dataset, checks.integer("every", every, minimum=1)
        self.number, self.run, self.writer = number, run, writer
        self.first_step = first_step

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if self.crossed(self.every, previous_step):
            self.validate()

    def validate(self) -> dict[str, float]:
        """Compute the losses now, and write them."""
        found = self.model.evaluate(self.dataset, verbose=0, return_dict=True)
        losses = {f"validation_{name}": float(value) for name, value in found.items()}
        if self.writer is not None:
            self.writer.scalars(self.first_step + self.step, tagged(losses))
            with unless_full("a validation in run.json"):
                self.run.note("validation", {"phase": self.number, "step": self.step, **losses})
        return losses

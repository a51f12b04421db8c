"""Counting optimizer steps from a callback."""

from typing import Any

import keras

from keras_mdm import checks, distribute


class StepCallback(keras.callbacks.Callback):
    """A callback that knows the global step.

    A class with `chief_only = True` is called only on the first of several workers.

    Keras calls `on_train_batch_end` once per *execution* and passes the number that its last batch
    within the epoch should have. With `steps_per_execution` above 1 the number of calls would be
    wrong, and so would that number if the data ends within an execution. So the model tells how
    many steps there were.

    Args:
        initial_step: number of optimizer steps made before this `fit`, when a run is continued.
    """

    chief_only = False

    def __init__(self, *, initial_step: int = 0):
        super().__init__()
        self.step = checks.integer("initial_step", initial_step, minimum=0)
        self._previous_batch = -1

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        """Called after one or more steps: from `previous_step` (exclusive) to `self.step`."""

    def crossed(self, every: int, previous_step: int) -> bool:
        """Whether a multiple of `every` is among the steps just made."""
        return self.step // every > previous_step // every

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._previous_batch = -1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        previous_step = self.step
        self.step += getattr(self.model, "executed_steps", None) or batch - self._previous_batch
        self._previous_batch = batch
        if not self.chief_only or distribute.is_chief():
            self.on_step_end(previous_step, logs if logs is not None else {})


def shown_values(logs: dict[str, Any]) -> dict[str, float]:
    """The numbers of `logs` worth a curve: loss, loss per level, rate, gradient norm, speeds.

    The loss per level is called "loss_<level>": "loss_64", "loss_16x64".
    """
    names = ("learning_rate", "gradient_norm", "images_per_second", "tflops")
    return {
        key: float(value)
        for key, value in logs.items()
        if key in names or key == "loss" or key.startswith("loss_")
    }

"""Writes checkpoints while a phase is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback
from keras_mdm.training import checkpoints


class CheckpointWriter(StepCallback):
    """Calls `save(step)` every n steps and deletes old checkpoints.

    Args:
        save: function (step) -> path, which writes one checkpoint.
        directory: where the checkpoints are.
        every: steps between two checkpoints.
        keep_last: how many to keep.
        keep_every: keep those of every n-th step for good.
        initial_step: steps of the phase made before.

    Example:

    >>> CheckpointWriter(lambda step: save_my_model(step), "runs/x/checkpoints/phase-1", every=500)
    """

    def __init__(
        self,
        save: Callable[[int], Path],
        directory: str | Path,
        *,
        every: int,
        keep_last: int = 2,
        keep_every: int | None = None,
        initial_step: int = 0,
    ):
        super().__init__(initial_step=initial_step)
        self.save = save
        self.directory = directory
        self.every = checks.integer("every", every, minimum=1)
        self.keep_last = checks.integer("keep_last", keep_last, minimum=1)
        self.keep_every = keep_every

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if self.crossed(self.every, previous_step):
            self.write(self.step)

    def write(self, step: int) -> None:
        """Write a checkpoint now, and delete the old ones that need not be kept."""
        self.save(step)
        checkpoints.prune(self.directory, self.keep_last, self.keep_every)

"""Writes checkpoints while a phase is trained, and the model after it."""

import contextlib
import functools
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback
from keras_mdm.files import DISK_FULL, write_atomically
from keras_mdm.runs import checkpoints
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion


class CheckpointWriter(StepCallback):
    """Writes a checkpoint every n steps, beside the training, and deletes old ones.

    The state is copied first; a thread then writes it without holding up the steps, unless the next
    checkpoint is due before it is done. A full disk costs a checkpoint, with a warning, but not the
    run.

    While steps are skipped because they are not finite, nothing is written or deleted, since the
    weights may already be broken. For the same reason the newest checkpoint followed by a finite
    step is never deleted, whatever `keep_last` says; see `mark_suspect`.

    Args:
        prepare: function (step) that copies the state and returns a function which writes it as a
            checkpoint.
        directory: where the checkpoints are.
        every: steps between two checkpoints.
        keep_last: how many to keep.
        keep_every: keep for good those whose step is a multiple of this.
        initial_step: steps of the phase made before.
        written: function (step), called after a checkpoint was written, in the same thread.

    Example:

    >>> CheckpointWriter(
    ...     lambda step: prepare_snapshot(model, "runs/x/checkpoints/phase-1", step, {}),
    ...     "runs/x/checkpoints/phase-1", every=500)
    """

    def __init__(
        self,
        prepare: Callable[[int], Callable[[], Path]],
        directory: str | Path,
        *,
        every: int,
        keep_last: int = 2,
        keep_every: int | None = None,
        initial_step: int = 0,
        written: Callable[[int], None] | None = None,
    ):
        super().__init__(initial_step=initial_step)
        self.prepare = prepare
        self._note = written
        # The newest checkpoint followed by a finite step, and the newest finite step.
        self._proven: int | None = None
        self._finite = self._initial = initial_step
        self.directory = directory
        self.every = checks.integer("every", every, minimum=1)
        self.keep_last = checks.integer("keep_last", keep_last, minimum=1)
        self.keep_every = keep_every
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None
        self._written: int | None = None

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if logs.get("skipped_in_a_row", 0) > 0:
            return
        self._finite = self.step
        due = self.crossed(self.every, previous_step)
        if due:
            self.finish()
        if self._written is not None and self._written < self.step:
            self._proven = self._written
        if due:
            arguments = (self.step, self.prepare(self.step))
            # Not a daemon, so an ordinary end of the program waits for it.
            self._thread = threading.Thread(target=self._try, args=arguments)
            self._thread.start()

    def _try(self, step: int, save: Callable[[], Path]) -> None:
        try:
            self._save(step, save)
        except BaseException as problem:  # raised where the training can see it
            self._problem = problem

    def _save(self, step: int, save: Callable[[], Path]) -> None:
        save()
        self._written = step
        if self._note is not None:
            self._note(step)
        keep = () if self._proven is None else (self._proven,)
        checkpoints.prune(self.directory, self.keep_last, self.keep_every, keep=keep)

    @property
    def unsaved(self) -> bool:
        """Whether there are finite steps that no checkpoint holds."""
        return self._finite > (self._written if self._written is not None else self._initial)

    @property
    def broken(self) -> bool:
        """Whether the last steps were skipped because they were not finite."""
        return self._finite < self.step

    def mark_suspect(self) -> None:
        """Mark the checkpoints after which no step was finite, if the steps stay broken.

        The next start passes them over. The newest unmarked checkpoint always stays.
        """
        for path in reversed(checkpoints.list_checkpoints(self.directory)):
            step = checkpoints.step_of(path)
            if step < self._finite or step <= (self._proven or 0):
                return
            checkpoints.mark_suspect(path)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            OSError: if it could not be written for another reason than a full disk.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread, problem, self._problem = None, self._problem, None
        if problem is None:
            return
        if not isinstance(problem, OSError) or problem.errno not in DISK_FULL:
            raise problem
        checkpoints.remove_leftovers(self.directory)
        warnings.warn(
            f"A checkpoint was not written: {problem}. The run continues and keeps the last "
            f"good one in {self.directory}; make room before the next",
            stacklevel=2,
        )

    def write(self, step: int) -> None:
        """Write a checkpoint now, unless there is one of this step, and wait for it.

        Raises:
            OSError: if it cannot be written.
        """
        self.finish()
        if step != self._written:
            self._save(step, self.prepare(step))


def write_model(
    run: RunDirectory, file: Path, model: MatryoshkaDiffusion, same: Path | None = None
) -> None:
    """Write a model, or link the file that holds it already."""
    run.require_present()
    if same is not None and same.is_file():
        with contextlib.suppress(OSError):  # a file system without links
            write_atomically(file, functools.partial(os.link, same), make_directory=False)
            run.note_model(file)
            return
    write_atomically(file, model.save, make_directory=False)
    run.note_model(file)

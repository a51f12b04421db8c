"""The training of one phase: its callbacks, its checkpoints, its end."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.callbacks import NonFiniteGuard, ProgressBar, StopOnSignal, Throughput
from keras_mdm.costs.describe import count_step_flop
from keras_mdm.files import DISK_FULL
from keras_mdm.runs import batches, checkpoints
from keras_mdm.runs.context import PhaseContext, Worker
from keras_mdm.runs.snapshot import prepare_snapshot
from keras_mdm.runs.validation import Validation
from keras_mdm.runs.writer import CheckpointWriter


def train_phase(
    worker: Worker, context: PhaseContext, dataset: tf.data.Dataset, *, description: str
) -> None:
    """Make the remaining steps of a phase, and its last checkpoint.

    Args:
        worker: the process that trains.
        context: the phase.
        dataset: endless, from the first remaining step.
        description: of the progress bar.
    """
    phase, model, done = context.phase, context.model, context.initial_step
    writer = _writer(worker, context)
    stop_on_signal = _stop_on_signal(worker, context, writer)
    watching: list[keras.callbacks.Callback] = [
        stop_on_signal,  # first: it knows when a step is over
        NonFiniteGuard(worker.options.skipped_limit, initial_step=done),
    ]
    try:
        if worker.is_chief:
            flop = count_step_flop(model.unet, phase.groups, batches.text_tokens(dataset))
            quiet = not worker.options.progress
            watching += [
                # First: the others show what it measures.
                Throughput(phase.batch_size, flop_per_step=flop, initial_step=done),
                ProgressBar(phase.steps, description=description, initial_step=done, quiet=quiet),
                context.logger,
                writer,
            ]
        watching += _validation(worker, context)
        if worker.is_chief and worker.options.callbacks is not None:
            watching += list(worker.options.callbacks(context))
        model.fit(
            dataset, steps_per_epoch=phase.steps - done, epochs=1, verbose=0, callbacks=watching
        )
    except BaseException as problem:
        # Finish the checkpoint being written, whatever ended the training. Errors are ignored here:
        # the first problem counts.
        with contextlib.suppress(Exception):
            writer.finish()
            if worker.is_chief and isinstance(problem, RuntimeError) and writer.broken:
                writer.mark_suspect()
        raise
    finally:
        stop_on_signal.restore()
        for callback in watching:
            # A callback that outlives its phase must not keep the model alive.
            callback._model = None
        if context.logger is not None:
            context.logger.close()
    _check_made(context)
    if worker.is_chief:
        with worker.stop.writing():
            _write_last(writer, context)


def _writer(worker: Worker, context: PhaseContext) -> CheckpointWriter:
    run, number, options = context.run, context.number, worker.options
    directory = run.checkpoints(number)

    def prepare(step: int) -> Callable[[], Path]:
        run.require_present()
        write = prepare_snapshot(context.model, directory, step, {"phase": number})

        def save() -> Path:
            run.require_present()  # this runs in a thread beside the training
            try:
                return write()
            except FileNotFoundError:
                run.require_present()
                raise

        return save

    def written(step: int) -> None:
        run.require_present()
        run.note_checkpoint(number, step, done=step == context.phase.steps)

    return CheckpointWriter(
        prepare,
        directory,
        every=options.checkpoint_every,
        keep_last=options.keep_last,
        keep_every=options.keep_every,
        initial_step=context.initial_step,
        written=written,
    )


def _stop_on_signal(
    worker: Worker, context: PhaseContext, writer: CheckpointWriter
) -> StopOnSignal:
    def rescue(step: int) -> None:
        if worker.is_chief and writer.unsaved:
            writer.write(step)

    def write_last(step: int) -> None:
        rescue(step)
        worker.wait()  # nobody leaves while the chief writes

    def newest() -> Path | None:
        return [None, *checkpoints.list_checkpoints(writer.directory)][-1]  # no time for hashes

    return StopOnSignal(
        write_last,
        rescue=rescue,
        newest=newest,
        stop=worker.stop,
        initial_step=context.initial_step,
    )


def _validation(worker: Worker, context: PhaseContext) -> list[Validation]:
    options, phase = worker.options, context.phase
    if options.validation is None:
        return []
    return [
        Validation(
            options.validation(phase),
            options.validate_every or phase.steps,
            context.number,
            context.run,
            context.logger.writer if context.logger is not None else None,
            first_step=phase.first_step,
            initial_step=context.initial_step,
        )
    ]


def _check_made(context: PhaseContext) -> None:
    made = int(context.model.optimizer.iterations.numpy()) - context.phase.first_step
    if made != context.phase.steps:
        raise checks.error(
            "the data ran out before the phase ended: the dataset of phase "
            f"{context.number} must last for {context.phase.steps} steps",
            fix="let make_dataset return an endless dataset",
            steps_made=made,
        )


def _write_last(writer: CheckpointWriter, context: PhaseContext) -> None:
    """Write the checkpoint at the end of a phase, with which the next phase begins."""
    if writer.broken:
        raise RuntimeError(
            f"Phase {context.number} ended with non-finite steps; its last checkpoint is "
            "the one before them. To continue, lower the learning rate (extend=True), or look "
            "for broken data."
        )
    try:
        writer.write(context.phase.steps)
    except OSError as problem:
        if problem.errno not in DISK_FULL:
            raise
        newest = checkpoints.newest_valid(writer.directory)
        raise OSError(
            problem.errno,
            f"{os.strerror(problem.errno or errno.ENOSPC)}: the last checkpoint of phase "
            f"{context.number} must be written. Received: "
            f"run_dir={str(context.run.path)!r}. To fix it: make room and start the run "
            f"again; it continues from {newest or 'its beginning'}",
        ) from problem

"""Progressive training: phase after phase, in one run directory, resumable at any step."""

import contextlib
import dataclasses
import errno
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks, distribute
from keras_mdm.callbacks import (
    NonFiniteGuard,
    ProgressBar,
    StopOnSignal,
    TensorBoardLogger,
    Throughput,
)
from keras_mdm.callbacks.signals import OrderlyStop
from keras_mdm.costs.describe import count_step_flop
from keras_mdm.files import remove_dead_temporaries, write_atomically
from keras_mdm.runs import batches, checkpoints, ledger, preflight
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.runs.snapshot import (
    grow_from_snapshot,
    prepare_snapshot,
    restore_snapshot,
)
from keras_mdm.runs.validation import Validation
from keras_mdm.runs.writer import DISK_FULL, CheckpointWriter
from keras_mdm.tracing import free_what_is_gone
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion
from keras_mdm.training.phases import Phase


@dataclasses.dataclass(frozen=True)
class PhaseContext:
    """What a function that makes callbacks gets to know.

    Args:
        number: number of the phase, from 1.
        phase: the phase.
        model: its compiled model.
        run: the run directory.
        initial_step: steps of the phase made in an earlier process.
        logger: writes to TensorBoard; its `writer` takes pictures. (`None` on workers that do not
            write; they are not asked for callbacks.)
    """

    number: int
    phase: Phase
    model: MatryoshkaDiffusion
    run: RunDirectory
    initial_step: int
    logger: TensorBoardLogger | None

    @property
    def global_step(self) -> int:
        """Optimizer steps of the whole run before this call."""
        return self.phase.first_step + self.initial_step


def fit_progressively(
    phases: Sequence[Phase],
    make_model: Callable[[Phase], MatryoshkaDiffusion],
    make_dataset: Callable[[Phase, int], tf.data.Dataset],
    *,
    run_dir: str | Path,
    fresh: bool = False,
    extend: bool = False,
    restart_phase: int | None = None,
    start: MatryoshkaDiffusion | None = None,
    data: Mapping[str, Any] | None = None,
    strategy: tf.distribute.Strategy | None = None,
    callbacks: Callable[[PhaseContext], Sequence[keras.callbacks.Callback]] | None = None,
    validation: Callable[[Phase], tf.data.Dataset] | None = None,
    validate_every: int | None = None,
    check: Callable[[Phase, MatryoshkaDiffusion], None] | None = None,
    check_memory: bool = True,
    checkpoint_every: int = 1000,
    keep_last: int = 2,
    keep_every: int | None = None,
    keep_moments: bool = True,
    log_every: int = 10,
    skipped_limit: int = 10,
    arguments: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> MatryoshkaDiffusion:
    """Train phase after phase; the same call again continues an interrupted run.

    Every phase builds its model afresh inside the strategy's scope and takes what it needs from
    the checkpoint on disk: its own newest one, or the last one of the phase before, from which
    weights, averages and moments of the inner levels carry over. So a run that was killed at any
    moment goes on as if it had not been. SIGTERM and SIGINT end it with a checkpoint and code 0.

    Everything is checked before the first step, for all phases: networks, groups and devices, one
    batch of every phase, memory, disk, and what `callbacks` and `check` know. For that `make_model`
    is called for every later phase in a scope where weights have no values, and `make_dataset` for
    every phase.

    A run can be changed: phases that have not begun as one likes, phases can be appended, and with
    `extend` the phase that runs, or ran last, can get more steps, another batch or rate. What was
    made is in the directory: `phase-1.keras` and so on after every phase, `model.keras` at the end,
    checkpoints on the way; `keras_mdm.load` takes all of them. `run.json` is the ledger.

    Of several workers the first one writes and calls the callbacks; all read the run directory,
    which must be on a file system that they share. SIGTERM to any ends all after the same step.

    Args:
        phases: what to train, each phase with the levels of the one before and possibly more.
        make_model: function (phase) -> compiled `MatryoshkaDiffusion` with exactly the levels of
            the phase; `phase.learning_rate_schedule()` is its learning rate.
        make_dataset: function (phase, first_step) -> endless `tf.data.Dataset` of global batches,
            beginning with the batch of step `first_step` of the phase, in the groups of
            `phase.groups` (`keras_mdm.data.mixed_dataset` joins them).
        run_dir: directory of the run; made if it does not exist.
        fresh: begin anew; an earlier run in the directory is moved aside, to `run_dir.1`.
        extend: let the phase that was begun last change in steps, batch, groups, rate, weights or
            frozen levels; noted in `run.json` with the step. The data goes on where it was.
        restart_phase: train this phase again from its beginning.
        start: model whose levels phase 1 has, or some of them: it begins with its weights and
            averages (`MatryoshkaDiffusion.start_from`), unless it was begun already.
        data: what tells the data set from others, such as its name, number of records and a hash
            (`CaptionedImages.identity`); a run that goes on must have the same.
        strategy: distribution strategy; the current one unless given.
        callbacks: function (PhaseContext) -> more Keras callbacks for the phase. An object that
            can be called may have a method `check`, called as the argument is: for options of what
            it will make, such as those of `model.generate(prompts, dry_run=True, **options)`.
        validation: function (phase) -> finite dataset of batches that the losses of the averaged
            weights are computed on, into TensorBoard ("validation_loss_64") and `run.json`.
        validate_every: steps between validations; one at the end of every phase unless given.
        check: function (phase, model without values), called for all phases that are left before
            the first step, to raise about what would fail later.
        check_memory: refuse phases whose estimate does not fit into the memory of a device.
        checkpoint_every: steps between checkpoints. The last step of a phase always makes one.
        keep_last: checkpoints to keep of each phase.
        keep_every: keep the checkpoints of every n-th step for good.
        keep_moments: take the optimizer's moments of the inner levels over at growth.
        log_every: steps between TensorBoard entries.
        skipped_limit: so many steps in a row that are not finite end the run, with the last good
            checkpoint in place.
        arguments: what to note in `run.json`.
        progress: show a progress bar.

    Returns:
        The model of the last phase, trained; also written to `run_dir/model.keras`.

    Raises:
        ValueError: if phases, networks, processes or data differ from those the run was started
            with in what may not change, something that is needed is missing or damaged, a model
            does not have the levels of its phase, a dataset has other groups or ends before its
            phase, the phases do not fit devices, memory or disk, or another process is training in
            the directory.
        RuntimeError: if too many steps in a row are not finite. The checkpoints that nothing finite
            came after are passed over at the next start.
        OSError: if the last checkpoint of a phase cannot be written.

    Example:

    ```python
    mdm.fit_progressively(
        [mdm.Phase([16], steps=500, batch_size=32), mdm.Phase([16, 64], steps=300, batch_size=16)],
        make_model, make_dataset, run_dir="runs/emoji",
    )
    ```

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.3 and appendix B.
    """
    for name, value in (
        ("checkpoint_every", checkpoint_every),
        ("keep_last", keep_last),
        ("log_every", log_every),
        ("skipped_limit", skipped_limit),
    ):
        checks.integer(name, value, minimum=1)
    if validate_every is not None:
        checks.integer("validate_every", validate_every, minimum=1)
        if validation is None:
            raise checks.error(
                "`validate_every` needs data that losses are computed on",
                fix="pass validation, a function (phase) -> finite dataset",
                validate_every=validate_every,
            )
    run, strategy = RunDirectory(run_dir), strategy or tf.distribute.get_strategy()
    chief = distribute.is_chief(strategy)  # the only worker that writes
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(OrderlyStop(agree=distribute.agreement(strategy)))
        if chief:
            if fresh:
                ledger.plan(RunDirectory(os.devnull), phases)  # wrong phases move nothing
                if aside := run.set_aside():
                    print(f"The earlier run is now {aside}", flush=True)
            stack.enter_context(run.locked())
            remove_dead_temporaries(run.path, recursive=True)
        distribute.barrier(strategy)
        phases, resume = ledger.plan(run, phases, extend=extend, restart_phase=restart_phase)
        if chief:
            run.require_data(data)
        if resume.number <= len(phases):
            preflight.check_phases(
                phases,
                make_model,
                make_dataset,
                devices=strategy.num_replicas_in_sync,
                first=resume.number,
                run=run,
                check=check,
                callbacks=callbacks,
                validation=validation,
                estimate=None if check_memory else False,
            )
            stop.check()
        if chief:
            _note_plan(run, phases, resume, arguments or {}, data, restart_phase)
        distribute.barrier(strategy)
        return _run_phases(
            phases,
            make_model,
            make_dataset,
            run,
            strategy,
            resume=resume,
            start=start,
            keep_moments=keep_moments,
            more=callbacks,
            validation=validation,
            validate_every=validate_every,
            stop=stop,
            log_every=log_every,
            quiet=not progress,
            skipped_limit=skipped_limit,
            every=checkpoint_every,
            keep_last=keep_last,
            keep_every=keep_every,
        )


def _note_plan(
    run: RunDirectory,
    phases: Sequence[Phase],
    resume: ledger.Resume,
    arguments: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    restart_phase: int | None,
) -> None:
    """Write down what is asked for, and what it changes in the phase that was begun."""
    current = resume.number if resume.checkpoint is not None else 0
    phase = phases[current - 1] if current else None
    changed = ledger.changes(run, current, phase) if current else []
    if restart_phase is not None:
        run.forget_from(restart_phase)
    run.start(arguments, [phase.table_row() for phase in phases], data)
    if changed:
        ledger.note_changes(run, current, phase, resume.step, changed)


def _run_phases(
    phases: Sequence[Phase],
    make_model: Callable[[Phase], MatryoshkaDiffusion],
    make_dataset: Callable[[Phase, int], tf.data.Dataset],
    run: RunDirectory,
    strategy: tf.distribute.Strategy,
    *,
    resume: ledger.Resume,
    start: MatryoshkaDiffusion | None,
    keep_moments: bool,
    stop: OrderlyStop,
    log_every: int,
    **training: Any,
) -> MatryoshkaDiffusion:
    """Train what is left of every phase; the run directory is ours."""
    chief = distribute.is_chief(strategy)
    model, trained = None, False
    if resume.number > len(phases):  # the model is all that is left
        with strategy.scope():
            model = preflight.prepared_model(phases[-1], make_model, phases[-1].level_names)
        model.start_from(keras.saving.load_model(run.model, compile=False))
        return model
    newest, source = resume.checkpoint, resume.source
    for number, phase in list(enumerate(phases, start=1))[resume.number - 1 :]:
        done = 0 if newest is None else checkpoints.step_of(newest)
        model = None  # that of the phase before goes first
        free_what_is_gone()
        before = phases[number - 2].level_names if number > 1 else ()
        with strategy.scope():
            model = preflight.prepared_model(phase, make_model, before)
        model.unet.trained_alone = tuple(phase.groups)
        if chief:
            preflight.require_same_model(run, number, model)
            if run.phase_record(number) is None:
                ledger.note_start(run, number, phase, _source_name(run, source, start))
        distribute.barrier(strategy)
        dataset = make_dataset(phase, ledger.data_step(run, number, phase, done))
        batches.check_groups_of(dataset, phase)
        if newest is not None:
            restore_snapshot(model, newest)
        else:
            if source is not None:
                grow_from_snapshot(model, source, keep_moments=keep_moments)
            elif start is not None:
                model.start_from(start)
            model.measure_residual(make_dataset(phase, 0), only_missing=True)
        if done < phase.steps:
            trained = True
            # What knows the model gets no name here: it would keep it into the next phase.
            _train(
                PhaseContext(
                    number,
                    phase,
                    model,
                    run,
                    done,
                    TensorBoardLogger(
                        run.logs, every=log_every, initial_step=phase.first_step + done
                    )
                    if chief
                    else None,
                ),
                dataset,
                chief=chief,
                stop=stop,
                flop_per_step=count_step_flop(
                    model.unet, phase.groups, batches.text_tokens(dataset)
                ),
                description=f"phase {number}/{len(phases)} [{', '.join(phase.level_names)}]",
                **training,
            )
            if chief:
                with stop.writing():
                    _write_model(run, run.phase_model(number), model)
            distribute.barrier(strategy)  # the next phase starts from what the chief has written
            stop.check()
        source, newest = checkpoints.newest_valid(run.checkpoints(number)), None
    if chief and (trained or not run.model_is_whole()):
        with stop.writing():
            _write_model(run, run.model, model, same=run.phase_model(len(phases)))
    distribute.barrier(strategy)
    return model


def _source_name(
    run: RunDirectory, source: Path | None, start: MatryoshkaDiffusion | None
) -> str | None:
    """What a phase begins with, as the ledger says it."""
    if source is not None:
        return source.relative_to(run.path).as_posix()
    return None if start is None else f"model {start.name}"


def _write_model(
    run: RunDirectory, file: Path, model: MatryoshkaDiffusion, same: Path | None = None
) -> None:
    """Write a model, or another name of the file that holds it already."""
    run.require_present()
    if same is not None and same.is_file():
        with contextlib.suppress(OSError):  # a file system without links
            write_atomically(file, functools.partial(os.link, same), make_directory=False)
            run.note_model(file)
            return
    write_atomically(file, model.save, make_directory=False)
    run.note_model(file)


def _train(
    context: PhaseContext,
    dataset: tf.data.Dataset,
    *,
    chief: bool,
    more: Callable[[PhaseContext], Sequence[keras.callbacks.Callback]] | None,
    validation: Callable[[Phase], tf.data.Dataset] | None,
    validate_every: int | None,
    stop: OrderlyStop,
    description: str,
    flop_per_step: int,
    quiet: bool,
    skipped_limit: int,
    **checkpointing: Any,
) -> None:
    """Make the steps of a phase that are left, and its last checkpoint."""
    phase, model, done, run = context.phase, context.model, context.initial_step, context.run
    directory = run.checkpoints(context.number)

    def prepare(step: int) -> Callable[[], Path]:
        run.require_present()
        write = prepare_snapshot(model, directory, step, {"phase": context.number})

        def save() -> Path:
            run.require_present()  # it is written beside the training
            try:
                return write()
            except FileNotFoundError:
                run.require_present()
                raise

        return save

    def written(step: int) -> None:
        run.require_present()
        run.note_checkpoint(context.number, step, done=step == phase.steps)

    writer = CheckpointWriter(
        prepare, directory, initial_step=done, written=written, **checkpointing
    )

    def rescue(step: int) -> None:
        if chief and writer.unsaved:
            writer.write(step)

    def write_last(step: int) -> None:
        rescue(step)
        distribute.barrier(model.distribute_strategy)  # nobody leaves while the chief writes

    stop_on_signal = StopOnSignal(
        write_last,
        rescue=rescue,
        newest=lambda: [None, *checkpoints.list_checkpoints(directory)][-1],  # no time for hashes
        stop=stop,
        initial_step=done,
    )
    watching: list[keras.callbacks.Callback] = [
        stop_on_signal,  # first: it knows when a step is over
        NonFiniteGuard(skipped_limit, initial_step=done),
    ]
    if chief:
        watching += [
            # The others show what it measures.
            Throughput(phase.batch_size, flop_per_step=flop_per_step, initial_step=done),
            ProgressBar(phase.steps, description=description, initial_step=done, quiet=quiet),
            context.logger,
            writer,
        ]
    try:
        if validation is not None:
            watching.append(
                Validation(
                    validation(phase),
                    validate_every or phase.steps,
                    context.number,
                    run,
                    context.logger.writer if chief else None,
                    first_step=phase.first_step,
                    initial_step=done,
                )
            )
        if chief:
            watching += list(more(context)) if more is not None else []
        model.fit(
            dataset, steps_per_epoch=phase.steps - done, epochs=1, verbose=0, callbacks=watching
        )
    except BaseException as problem:
        # What is being written is of use, whatever ended the training; the first problem counts.
        with contextlib.suppress(Exception):
            writer.finish()
            if chief and isinstance(problem, RuntimeError) and writer.broken:
                writer.mark_suspect()
        raise
    finally:
        stop_on_signal.restore()
        for callback in watching:
            # Who keeps a callback beyond its phase must not keep the model with it.
            callback._model = None
        if context.logger is not None:
            context.logger.close()
    made = int(model.optimizer.iterations.numpy()) - phase.first_step
    if made != phase.steps:
        raise checks.error(
            f"the data ended before the phase: the dataset of phase {context.number} must last for "
            f"{phase.steps} steps",
            fix="let make_dataset return an endless dataset",
            steps_made=made,
        )
    if chief:
        with stop.writing():
            _write_last(writer, context)


def _write_last(writer: CheckpointWriter, context: PhaseContext) -> None:
    """Write the checkpoint at the end of a phase, which the next one begins with."""
    if writer.broken:
        raise RuntimeError(
            f"Phase {context.number} ended with steps that were not finite; its last checkpoint is "
            "the one before them. To go on: lower the learning rate (extend=True), or look for "
            "broken data."
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
            f"{context.number} must be written. Received: run_dir={str(context.run.path)!r}. To "
            "fix it: make room and start the run again; it goes on from "
            f"{newest or 'its beginning'}",
        ) from problem

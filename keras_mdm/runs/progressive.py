"""Progressive training: phase after phase, in one run directory, resumable at any step."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks, distribute
from keras_mdm.callbacks import TensorBoardLogger
from keras_mdm.callbacks.signals import OrderlyStop
from keras_mdm.files import remove_dead_temporaries, unless_full
from keras_mdm.runs import batches, checkpoints, ledger, preflight
from keras_mdm.runs.announcing import announce
from keras_mdm.runs.context import MakeDataset, MakeModel, PhaseContext, RunOptions, Worker
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.runs.one_phase import train_phase
from keras_mdm.runs.snapshot import grow_from_snapshot, load_snapshot, restore_snapshot
from keras_mdm.runs.writer import write_model
from keras_mdm.tracing import free_what_is_gone
from keras_mdm.training import usage
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion
from keras_mdm.training.phases import Phase

_PLAIN = (int, float, str, Mapping, list, tuple)


def fit_progressively(
    phases: Sequence[Phase],
    make_model: MakeModel,
    make_dataset: MakeDataset,
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
    sampling: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> MatryoshkaDiffusion:
    """Train phase after phase; the same call again continues an interrupted run.

    Every phase builds a new model inside the strategy's scope and restores a checkpoint: its own
    newest one, or the last one of the phase before, from which weights, averages and moments of
    the inner levels carry over. So a run that was killed at any moment continues as if nothing had
    happened. SIGTERM and SIGINT end it with a checkpoint and code 0.

    Before the first step all phases are checked: networks, groups and devices, one batch of every
    phase, memory, disk, and the checks of `callbacks` and `check`. For this `make_model` is called
    for every later phase in a scope where weights have no values, and `make_dataset` for every
    phase.

    A run can be changed. Phases that have not begun may change in any way, and phases may be
    appended. With `extend` the phase that runs, or ran last, can get more steps, another batch or
    rate. The results are in the directory: `phase-1.keras` and so on after every phase,
    `model.keras` at the end, checkpoints on the way; `keras_mdm.load` takes all of them. `run.json`
    holds the ledger.

    Of several workers the first one writes and calls the callbacks. All read the run directory,
    which must be on a shared file system. SIGTERM to any ends all after the same step.

    Args:
        phases: the phases, each with the levels of the one before and possibly more.
        make_model: function (phase) -> compiled `MatryoshkaDiffusion` with exactly the levels of
            the phase; `phase.learning_rate_schedule()` is its learning rate.
        make_dataset: function (phase, first_step) -> endless `tf.data.Dataset` of global batches,
            beginning with the batch of step `first_step` of the phase, in the groups of
            `phase.groups` (`keras_mdm.data.mixed_dataset` joins them).
        run_dir: directory of the run; made if it does not exist.
        fresh: start over; an earlier run in the directory is moved aside, to `run_dir.1`.
        extend: let the phase that began last change in steps, batch, groups, rate, weights or
            frozen levels; noted in `run.json` with the step. The data continues where it was.
        restart_phase: train this phase again from its beginning.
        start: model with all or the inner levels of phase 1, which begins with its weights and
            averages (`MatryoshkaDiffusion.start_from`), unless it has begun already.
        data: what identifies the data set, such as its name, number of records and a hash
            (`CaptionedImages.identity`); a run can only continue with the same.
        strategy: distribution strategy; the current one unless given.
        callbacks: function (PhaseContext) -> more Keras callbacks for the phase. A callable object
            may have a method `check`, which is called like the argument `check` and can test
            options used later, as with `model.generate(prompts, dry_run=True, **options)`.
        validation: function (phase) -> finite dataset of batches, on which the losses of the
            averaged weights are computed for TensorBoard ("validation_loss_64") and `run.json`.
        validate_every: steps between validations; one at the end of every phase unless given.
        check: function (phase, model without values), called before the first step for all
            remaining phases, which raises if something would fail later.
        check_memory: refuse phases whose estimate does not fit into the memory of a device.
        checkpoint_every: steps between checkpoints. The last step of a phase always makes one.
        keep_last: number of checkpoints to keep of each phase.
        keep_every: keep for good the checkpoints whose step is a multiple of this.
        keep_moments: at growth, take over the optimizer's moments of the inner levels.
        log_every: steps between TensorBoard entries.
        skipped_limit: number of consecutive non-finite steps after which the run ends; the last
            good checkpoint stays.
        arguments: arguments to note in `run.json`.
        sampling: how to draw from the run, options of `generate`; noted in `run.json`. Models that
            have no `sampling` of their own get what they may have of it, for their levels.
        progress: show a progress bar.

    Returns:
        The model of the last phase, trained; also written to `run_dir/model.keras`.

    Raises:
        ValueError: if phases, networks, processes or data have changed since the start of the run
            in ways that are not allowed, something needed is missing or damaged, a model does not
            have the levels of its phase, a dataset has other groups or ends before its phase, the
            phases do not fit devices, memory or disk, or another process is training in the
            directory.
        RuntimeError: if too many steps in a row are not finite. The next start passes over the
            checkpoints after which no step was finite.
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
    options = RunOptions(
        start=start,
        data=data,
        callbacks=callbacks,
        validation=validation,
        validate_every=validate_every,
        check=check,
        check_memory=check_memory,
        checkpoint_every=checkpoint_every,
        keep_last=keep_last,
        keep_every=keep_every,
        keep_moments=keep_moments,
        log_every=log_every,
        skipped_limit=skipped_limit,
        arguments=arguments,
        sampling=sampling,
        progress=progress,
    )
    strategy = strategy or tf.distribute.get_strategy()
    make_model = _with_sampling(make_model, sampling)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(OrderlyStop(agree=distribute.agreement(strategy)))
        worker = Worker(RunDirectory(run_dir), strategy, stop, options)
        if worker.is_chief:
            if fresh:
                if restart_phase is not None:
                    raise checks.error(
                        "`fresh` and `restart_phase` exclude each other",
                        fix="leave restart_phase out: a run that starts over begins all phases",
                        restart_phase=restart_phase,
                    )
                _set_aside(worker.run, phases)
            stack.enter_context(worker.run.locked())
            remove_dead_temporaries(worker.run.path, recursive=True)
        worker.wait()
        phases, resume = ledger.plan(worker.run, phases, extend=extend, restart_phase=restart_phase)
        if worker.is_chief:
            worker.run.require_data(data)
        if resume.number <= len(phases):
            preflight.check_phases(
                phases,
                make_model,
                make_dataset,
                devices=strategy.num_replicas_in_sync,
                first=resume.number,
                run=worker.run,
                check=check,
                callbacks=callbacks,
                validation=validation,
                estimate=None if check_memory else False,
            )
            stop.check()
        if worker.is_chief:
            _note_plan(worker, phases, resume, restart_phase)
        worker.wait()
        if resume.number > len(phases):  # only the model is left
            return _read_model(worker, phases[-1], make_model)
        return _run_phases(worker, phases, make_model, make_dataset, resume)


def _with_sampling(make_model: MakeModel, sampling: Mapping[str, Any] | None) -> MakeModel:
    """Let the models of the phases draw as the run does."""
    # Functions and records cannot be found again by what a file would hold of them.
    plain = {k: v for k, v in (sampling or {}).items() if isinstance(v, _PLAIN)}
    known = {name: plain[name] for name in usage.SAMPLING if name in plain}

    def make(phase: Phase) -> MatryoshkaDiffusion:
        model = make_model(phase)
        if isinstance(model, MatryoshkaDiffusion):
            usage.take_over(model, {"sampling": known}, strict=True)
        return model

    return make if known else make_model


def _set_aside(run: RunDirectory, phases: Sequence[Phase]) -> None:
    """Move an earlier run out of the way, unless the phases are wrong."""
    ledger.plan(RunDirectory(os.devnull), phases)
    if aside := run.set_aside():
        print(f"The earlier run is now {aside}", flush=True)


def _note_plan(
    worker: Worker, phases: Sequence[Phase], resume: ledger.Resume, restart_phase: int | None
) -> None:
    """Note the request, and what it changes in the phase that has begun."""
    run, options = worker.run, worker.options
    current = resume.number if resume.checkpoint is not None else 0
    phase = phases[current - 1] if current else None
    changed = ledger.changes(run, current, phase) if current else []
    if restart_phase is not None:
        run.forget_from(restart_phase)
    rows = [phase.table_row() for phase in phases]
    # Records and functions cannot be found again by what JSON would hold of them.
    sampling = {k: v for k, v in (options.sampling or {}).items() if isinstance(v, _PLAIN)}
    run.start(options.arguments or {}, rows, options.data, options.sampling and sampling)
    if changed:
        ledger.note_changes(run, current, phase, resume.step, changed)


def _read_model(worker: Worker, phase: Phase, make_model: MakeModel) -> MatryoshkaDiffusion:
    with worker.strategy.scope():
        model = preflight.prepared_model(phase, make_model, phase.level_names)
    model.start_from(keras.saving.load_model(worker.run.model, compile=False))
    return model


def _run_phases(
    worker: Worker,
    phases: Sequence[Phase],
    make_model: MakeModel,
    make_dataset: MakeDataset,
    resume: ledger.Resume,
) -> MatryoshkaDiffusion:
    """Train the rest of every phase; the caller has locked the run directory."""
    run, model, trained = worker.run, None, False
    newest, source = resume.checkpoint, resume.source
    if worker.is_chief and source is not None:
        ended = run.phase_model(resume.number - 1)
        if not run.holds(ended):  # stopped between that phase's last checkpoint and its model
            with worker.stop.writing(), unless_full(f"the model {ended.name}"):
                # None if a checkpoint of an earlier version does not say how to make it.
                before = None
                with contextlib.suppress(ValueError):
                    before = load_snapshot(source)
                if before is not None:
                    write_model(run, ended, before)
    for number, phase in list(enumerate(phases, start=1))[resume.number - 1 :]:
        done = 0 if newest is None else checkpoints.step_of(newest)
        model = None  # free the model of the phase before first
        free_what_is_gone()
        begun = run.phase_record(number)
        before = phases[number - 2].level_names if number > 1 else _started(worker, begun)
        with worker.strategy.scope():
            model = preflight.prepared_model(phase, make_model, before)
        model.unet.trained_alone = tuple(phase.groups)
        if worker.is_chief:
            preflight.require_same_model(run, number, model)
            if begun is None:
                name = _source_name(run, source, worker.options.start)
                ledger.note_start(run, number, phase, name, before)
        worker.wait()
        dataset = make_dataset(phase, ledger.data_step(run, number, phase, done))
        batches.check_groups_of(dataset, phase)
        if newest is not None:
            restore_snapshot(model, newest)
        else:
            _begin(worker, model, source)
            model.measure_residual(make_dataset(phase, 0), only_missing=True)
        if done < phase.steps:
            trained = True
            if worker.is_chief:
                run.outdate_models(number)
            # No name for objects that hold the model: it would live into the next phase.
            train_phase(
                worker,
                PhaseContext(
                    number, phase, model, run, done, _logger(worker, phases, number, done)
                ),
                dataset,
                description=f"phase {number}/{len(phases)} [{', '.join(phase.level_names)}]",
            )
            if worker.is_chief:
                with worker.stop.writing():
                    write_model(run, run.phase_model(number), model)
            worker.wait()  # the next phase starts from what the chief has written
            worker.stop.check()
        elif worker.is_chief:
            if (run.phase_record(number) or {}).get("state") != "done":
                run.note_checkpoint(number, done, done=True)  # it was stopped after the last one
            if not run.model_is_whole(run.phase_model(number)):
                with worker.stop.writing():
                    write_model(run, run.phase_model(number), model)
        source, newest = checkpoints.newest_valid(run.checkpoints(number)), None
    if worker.is_chief and (trained or not run.model_is_whole()):
        with worker.stop.writing():
            write_model(run, run.model, model, same=run.phase_model(len(phases)))
    worker.wait()
    return model


def _started(worker: Worker, begun: Mapping[str, Any] | None) -> Sequence[str]:
    """Levels that were trained before the first phase: those of the model to start from. Runs of
    earlier versions did not note them, and trained them at the full rate."""
    if begun is not None:
        return begun.get("trained_levels", ())
    start = worker.options.start
    return () if start is None else start.unet.levels


def _begin(worker: Worker, model: MatryoshkaDiffusion, source: Path | None) -> None:
    """Start a phase from the one before, or from the model to start from."""
    if source is not None:
        grow_from_snapshot(model, source, keep_moments=worker.options.keep_moments)
    elif worker.options.start is not None:
        model.start_from(worker.options.start)


def _logger(
    worker: Worker, phases: Sequence[Phase], number: int, done: int
) -> TensorBoardLogger | None:
    if not worker.is_chief:
        return None
    options, first = worker.options, phases[number - 1].first_step + done
    logger = TensorBoardLogger(worker.run.logs, every=options.log_every, initial_step=first)
    announce(logger, phases, number, options.arguments)
    return logger


def _source_name(
    run: RunDirectory, source: Path | None, start: MatryoshkaDiffusion | None
) -> str | None:
    """Name in the ledger of what a phase begins with."""
    if source is not None:
        return source.relative_to(run.path).as_posix()
    return None if start is None else f"model {start.name}"

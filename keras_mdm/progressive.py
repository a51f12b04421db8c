"""Progressive training: phase after phase, in one run directory, resumable at any step."""

import contextlib
import dataclasses
import gc
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
from keras_mdm.callbacks.checkpoint import CheckpointWriter
from keras_mdm.describe import DEFAULT_TEXT_TOKENS, count_step_flop
from keras_mdm.files import write_atomically
from keras_mdm.training import checkpoints
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion
from keras_mdm.training.mixing import check_groups
from keras_mdm.training.objective import check_level_weights
from keras_mdm.training.phases import Phase, number_phases
from keras_mdm.training.run_directory import RunDirectory
from keras_mdm.training.snapshot import grow_from_snapshot, prepare_snapshot, restore_snapshot


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
    data: Mapping[str, Any] | None = None,
    strategy: tf.distribute.Strategy | None = None,
    callbacks: Callable[[PhaseContext], Sequence[keras.callbacks.Callback]] | None = None,
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
    moment goes on as if it had not been. SIGTERM ends it with a checkpoint and exit code 0.

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
        data: what tells the data set from others, such as its name, number of records and a hash
            (`CaptionedImages.identity`); a run that goes on must have the same.
        strategy: distribution strategy; the current one unless given.
        callbacks: function (PhaseContext) -> more Keras callbacks for the phase.
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
            with, a model does not have the levels of its phase, a dataset has other groups or ends
            before its phase, or another process is training in the directory.
        RuntimeError: if too many steps in a row are not finite.

    Example:

    ```python
    mdm.fit_progressively(
        [mdm.Phase([16], steps=500, batch_size=32), mdm.Phase([16, 64], steps=300, batch_size=16)],
        make_model, make_dataset, run_dir="runs/emoji",
    )
    ```

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.3 and appendix B.
    """
    phases = number_phases(phases)
    checks.integer("checkpoint_every", checkpoint_every, minimum=1)
    checks.integer("keep_last", keep_last, minimum=1)
    checks.integer("log_every", log_every, minimum=1)
    checks.integer("skipped_limit", skipped_limit, minimum=1)
    run, strategy = RunDirectory(run_dir), strategy or tf.distribute.get_strategy()
    with contextlib.ExitStack() as stack:
        if distribute.is_chief(strategy):  # the only worker that writes
            if fresh and (aside := run.set_aside()):
                print(f"The earlier run is now {aside}", flush=True)
            stack.enter_context(run.locked())
            run.start(arguments or {}, [phase.table_row() for phase in phases], data)
        return _run_phases(
            phases,
            make_model,
            make_dataset,
            run,
            strategy,
            keep_moments=keep_moments,
            more=callbacks,
            log_every=log_every,
            quiet=not progress,
            skipped_limit=skipped_limit,
            every=checkpoint_every,
            keep_last=keep_last,
            keep_every=keep_every,
        )


def _run_phases(
    phases: Sequence[Phase],
    make_model: Callable[[Phase], MatryoshkaDiffusion],
    make_dataset: Callable[[Phase, int], tf.data.Dataset],
    run: RunDirectory,
    strategy: tf.distribute.Strategy,
    *,
    keep_moments: bool,
    log_every: int,
    **training: Any,
) -> MatryoshkaDiffusion:
    """Train what is left of every phase; the run directory is ours."""
    chief = distribute.is_chief(strategy)
    distribute.barrier(strategy)
    model, trained, levels_before = None, False, ()
    for number, phase in enumerate(phases, start=1):
        directory = run.checkpoints(number)
        newest = checkpoints.newest_valid(directory)
        done = 0 if newest is None else checkpoints.step_of(newest)
        if done > phase.steps:
            raise checks.error(
                f"phase {number} must not have made more steps than its {phase.steps}",
                fix="remove the checkpoint if it is of another run, or choose another directory",
                checkpoint=str(newest),
                steps=done,
            )
        if done == phase.steps and number < len(phases):
            levels_before = phase.level_names
            continue
        # Let the model of the phase before go first: it and its traced functions refer to each
        # other, so that only the collector frees them, and it would take its time.
        model = None
        gc.collect()
        with strategy.scope():
            model = _make(phase, make_model, levels_before)
        model.unet.trained_alone = tuple(phase.groups)
        levels_before = phase.level_names
        if chief:
            _require_same_model(run, number, model)
        dataset = make_dataset(phase, done)
        _check_groups_of(dataset, phase)
        if newest is not None:
            restore_snapshot(model, newest)
        else:
            if number > 1:
                before = checkpoints.newest_valid(run.checkpoints(number - 1))
                grow_from_snapshot(model, before, keep_moments=keep_moments)
            model.measure_residual(make_dataset(phase, 0), only_missing=True)
        if done == phase.steps:
            break
        # What knows the model gets no name here: it would keep the model into the next phase.
        _train(
            PhaseContext(
                number,
                phase,
                model,
                run,
                done,
                TensorBoardLogger(run.logs, every=log_every, initial_step=phase.first_step + done)
                if chief
                else None,
            ),
            dataset,
            chief=chief,
            flop_per_step=count_step_flop(model.unet, phase.groups, _text_tokens(dataset)),
            description=f"phase {number}/{len(phases)} [{', '.join(phase.level_names)}]",
            **training,
        )
        distribute.barrier(strategy)  # the next phase starts from what the chief has written
        trained = True
    if chief and (trained or not run.model.exists()):
        write_atomically(run.model, model.save)
    distribute.barrier(strategy)
    return model


def _train(
    context: PhaseContext,
    dataset: tf.data.Dataset,
    *,
    chief: bool,
    more: Callable[[PhaseContext], Sequence[keras.callbacks.Callback]] | None,
    description: str,
    flop_per_step: int,
    quiet: bool,
    skipped_limit: int,
    **checkpointing: Any,
) -> None:
    """Make the steps of a phase that are left, and its last checkpoint."""
    phase, model, done = context.phase, context.model, context.initial_step
    directory = context.run.checkpoints(context.number)

    def prepare(step: int) -> Callable[[], Path]:
        context.run.require_present()
        return prepare_snapshot(model, directory, step, {"phase": context.number})

    writer = CheckpointWriter(prepare, directory, initial_step=done, **checkpointing)

    def write_last(step: int) -> None:
        if chief:
            writer.write(step)
        distribute.barrier(model.distribute_strategy)  # nobody leaves while the chief writes

    stop = StopOnSignal(write_last, initial_step=done)
    watching: list[keras.callbacks.Callback] = [NonFiniteGuard(skipped_limit, initial_step=done)]
    if chief:
        watching += [
            # The others show what it measures.
            Throughput(phase.batch_size, flop_per_step=flop_per_step, initial_step=done),
            ProgressBar(phase.steps, description=description, initial_step=done, quiet=quiet),
            context.logger,
            writer,
        ]
    try:
        if chief:
            watching += list(more(context)) if more is not None else []
        watching.append(stop)  # last: what the others do at a step is done
        model.fit(
            dataset, steps_per_epoch=phase.steps - done, epochs=1, verbose=0, callbacks=watching
        )
    except BaseException:
        # What is being written is of use, whatever ended the training; the first problem counts.
        with contextlib.suppress(Exception):
            writer.finish()
        raise
    finally:
        stop.restore()
        if context.logger is not None:
            context.logger.close()
    made = int(model.optimizer.iterations.numpy()) - phase.first_step
    if made != phase.steps:
        raise checks.error(
            f"the dataset of phase {context.number} must last for {phase.steps} steps",
            fix="let make_dataset return an endless dataset",
            steps_made=made,
        )
    if chief:
        writer.write(phase.steps)


def _make(
    phase: Phase,
    make_model: Callable[[Phase], MatryoshkaDiffusion],
    trained_levels: Sequence[str],
) -> MatryoshkaDiffusion:
    """Make the model of a phase and apply what the phase says about it."""
    model = make_model(phase)
    if not isinstance(model, MatryoshkaDiffusion) or model.unet.levels != phase.level_names:
        raise checks.error(
            f"make_model must return a MatryoshkaDiffusion with the levels {phase.level_names}",
            fix="build its network from phase.levels",
            levels=getattr(getattr(model, "unet", None), "levels", None),
        )
    if getattr(model, "optimizer", None) is None or not hasattr(model.optimizer, "set_state"):
        raise checks.error(
            "make_model must return a model compiled with an optimizer of keras_mdm.optimizers",
            fix="call model.compile(optimizer=keras_mdm.optimizers.Adam(...))",
            optimizer=type(getattr(model, "optimizer", None)).__name__,
        )
    if phase.level_weights is not None:
        model.level_weights = check_level_weights(phase.level_weights, phase.level_names)
    model.phase_span = (phase.first_step, phase.steps)
    check_groups(
        phase.groups,
        phase.shares,
        model.distribute_strategy.num_replicas_in_sync * model.micro_batches,
    )
    if phase.downsample is not None:
        model.downsample = phase.downsample
    phase.check_trained(model.level_weights)
    if phase.steps % model.steps_per_execution:
        raise checks.error(
            "the steps of a phase must be a multiple of the model's `steps_per_execution`",
            fix="change one of the two",
            steps=phase.steps,
            steps_per_execution=model.steps_per_execution,
        )
    model.optimizer.set_learning_rate_factors(_factors(phase, model, trained_levels))
    return model


def _require_same_model(run: RunDirectory, number: int, model: MatryoshkaDiffusion) -> None:
    """Raise if the architecture, or what its outputs mean, is not that of the run so far: with
    another one the weights would be worthless."""
    config = model.get_config()
    network = dict(config["unet"]["config"]["spec"])
    for name, level in zip(model.unet.levels, network.pop("levels"), strict=True):
        run.require_same(f"level {name}", level)
    network.pop("seed")  # of the initial values
    if network["pooled_width"] is None:
        del network["pooled_width"]  # which runs of earlier versions do not know
    run.require_same("conditions", {**network, "text_encoder": config["text_encoder"]})
    names = ("schedule", "shift_power", "prediction", "residual", "signal_scale", "output_limit")
    run.require_same(f"process of phase {number}", {name: config[name] for name in names})


def _text_tokens(dataset: tf.data.Dataset) -> int:
    """Tokens of the prompts in a dataset, as far as they are fixed."""
    texts = [spec for spec in tf.nest.flatten(dataset.element_spec) if len(spec.shape) == 3]
    return next((spec.shape[1] for spec in texts if spec.shape[1]), DEFAULT_TEXT_TOKENS)


def _check_groups_of(dataset: tf.data.Dataset, phase: Phase) -> None:
    """Raise unless a dataset yields the groups of its phase."""
    spec, groups = dataset.element_spec, phase.groups
    nested = isinstance(spec, Mapping) and all(isinstance(v, Mapping) for v in spec.values())
    found = spec if nested else {phase.level_names[-1]: spec}
    sizes = {
        level: next(iter(batch.values())).shape[0] if isinstance(batch, Mapping) else None
        for level, batch in found.items()
    }
    fits = sizes.keys() == groups.keys() and all(
        rows in (None, groups[level]) for level, rows in sizes.items()
    )
    if not fits:
        raise checks.error(
            f"make_dataset must yield batches of {groups} samples by their highest level",
            fix="make one dataset per entry of phase.groups and join them with "
            "keras_mdm.data.mixed_dataset, or pass Phase(mixed=False)",
            groups=sizes,
        )


def _factors(
    phase: Phase, model: MatryoshkaDiffusion, trained_levels: Sequence[str]
) -> list[tuple[Any, float]]:
    """Learning-rate factors: frozen levels do not move, levels trained before may move slower."""
    factors = []
    for name, part in model.unet.parts.items():
        level = model.unet.level_of(name)
        factor = phase.inner_learning_rate if level in trained_levels else 1.0
        if level in phase.freeze:
            factor = 0.0
        if factor != 1.0:
            factors += [(variable, factor) for variable in part.trainable_variables]
    return factors

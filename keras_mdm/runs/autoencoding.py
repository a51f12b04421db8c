"""The training of an autoencoder in a run directory, resumable at any step."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks, distribute, named_arrays
from keras_mdm.callbacks import (
    NonFiniteGuard,
    OrderlyStop,
    ProgressBar,
    StopOnSignal,
    TensorBoardLogger,
    Throughput,
)
from keras_mdm.latents import KLAutoencoder
from keras_mdm.latents.loading import RUN_FILE as FILE
from keras_mdm.runs import checkpoints
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.runs.writer import CheckpointWriter, write_model

# What checkpoints say they are of.
KIND = {"phase": 1, "kind": "autoencoder"}


def fit_autoencoder(
    make_model: Callable[[], KLAutoencoder],
    make_dataset: Callable[[int], tf.data.Dataset],
    measured_on: Callable[[], Any],
    *,
    steps: int,
    batch_size: int,
    run_dir: str | Path,
    fresh: bool = False,
    data: Mapping[str, Any] | None = None,
    strategy: tf.distribute.Strategy | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint_every: int = 200,
    keep_last: int = 2,
    log_every: int = 10,
    skipped_limit: int = 10,
    arguments: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> KLAutoencoder:
    """Train an autoencoder and measure the scale of its codes; the same call again continues.

    What a step sees and draws depends on its number alone, so a run that was killed ends with the
    weights of one that was not. SIGTERM and SIGINT end it with a checkpoint and code 0. The result
    is `run_dir/autoencoder.keras`.

    Args:
        make_model: function () -> compiled `KLAutoencoder`.
        make_dataset: function (first step) -> endless dataset of batches from that step on.
        measured_on: function () -> pictures, or a finite dataset, on which the scale of the codes
            is measured after the last step.
        steps: optimizer steps of the training.
        batch_size: pictures per step, over all replicas; for the speed that is shown.
        run_dir: directory of the run; made if it does not exist.
        fresh: start over; an earlier run in the directory is moved aside.
        data: what identifies the data; a run can only continue with the same.
        strategy: distribution strategy of one machine; the current one unless given.
        callbacks: more Keras callbacks for the training.
        checkpoint_every: steps between checkpoints.
        keep_last: number of checkpoints to keep.
        log_every: steps between TensorBoard entries.
        skipped_limit: number of consecutive non-finite steps after which the run ends.
        arguments: arguments to note in `run.json`.
        progress: show a progress bar.

    Returns:
        The trained autoencoder.

    Raises:
        ValueError: if the run was begun with another network, loss, number of steps or data, the
            dataset ends early, or there are several workers.
        RuntimeError: if too many steps in a row are not finite.

    Example:

    ```python
    fit_autoencoder(make_model, make_dataset, lambda: images, steps=600, batch_size=16,
                    run_dir="runs/autoencoder_f4")
    ```
    """
    checks.integer("steps", steps, minimum=1)
    if distribute.workers() > 1:
        raise checks.error(
            "an autoencoder is trained by one worker, on all devices of its machine",
            fix="leave keras-mdm launch out",
            workers=distribute.workers(),
        )
    strategy = strategy or tf.distribute.get_strategy()
    run, stop = RunDirectory(run_dir), OrderlyStop()
    with stop:
        if fresh and (aside := run.set_aside()):
            print(f"The earlier run is now {aside}", flush=True)
        with run.locked():
            run.require_data(data)
            with strategy.scope():
                model = make_model()
            if not hasattr(getattr(model, "optimizer", None), "set_state"):
                raise checks.error(
                    "make_model must return a model compiled with an optimizer of "
                    "keras_mdm.optimizers",
                    fix="call model.compile(keras_mdm.optimizers.Adam(...))",
                    optimizer=type(getattr(model, "optimizer", None)).__name__,
                )
            known = {**_facts(model), "steps": steps, "batch_size": batch_size}
            run.require_known("autoencoder", known)
            run.start(arguments or {}, [{"steps": steps, "batch_size": batch_size}], data)
            run.require_same("autoencoder", known)
            done = _restored(run, model)
            if done == steps and _is_whole(run):
                return keras.saving.load_model(run.path / FILE)
            if done < steps:
                options = {"every": checkpoint_every, "keep_last": keep_last}
                writer = _writer(run, model, done, steps, **options)
                logger = TensorBoardLogger(run.logs, every=log_every, initial_step=done)
                watching: list[Any] = [
                    StopOnSignal(_rescue(writer), stop=stop, initial_step=done),
                    NonFiniteGuard(skipped_limit, initial_step=done),
                    Throughput(batch_size, initial_step=done),
                    ProgressBar(
                        steps, description="autoencoder", initial_step=done, quiet=not progress
                    ),
                    logger,
                    *callbacks,
                    writer,
                ]
                _train(model, make_dataset(done), steps, done, watching, writer)
            stop.check()
            with stop.writing():
                model.measure_scale(measured_on())
                write_model(run, run.path / FILE, model)
    return model


def _facts(model: KLAutoencoder) -> dict[str, Any]:
    """What a run may not change: the network and its loss."""
    config = {k: v for k, v in model.get_config().items() if k not in ("name", "dtype")}
    return {**config, "reconstruction": model.reconstruction, "kl_weight": model.kl_weight}


def _is_whole(run: RunDirectory) -> bool:
    """Whether the finished model was written, and is unchanged since."""
    noted = (run.read() or {}).get("models", {}).get(FILE)
    file = run.path / FILE
    return bool(noted) and file.is_file() and file.stat().st_size == noted["bytes"]


def _groups(model: KLAutoencoder) -> dict[str, Mapping[str, Any]]:
    weights = {variable.path: variable for variable in model.weights}
    return {"model": weights, "optimizer": model.optimizer.state()}


def _restored(run: RunDirectory, model: KLAutoencoder) -> int:
    """Restore the newest checkpoint, if there is one; return its step."""
    newest = checkpoints.newest_valid(run.checkpoints(1))
    if newest is None:
        return 0
    groups, state = checkpoints.load(newest)
    named_arrays.assign(_groups(model)["model"], groups["model"], what="autoencoder")
    model.optimizer.set_state(groups["optimizer"])
    return int(state["step"])


def _writer(
    run: RunDirectory, model: KLAutoencoder, done: int, steps: int, *, every: int, keep_last: int
) -> CheckpointWriter:
    directory = run.checkpoints(1)

    def prepare(step: int) -> Callable[[], Path]:
        run.require_present()
        # A real copy: training goes on while it is written.
        groups = {
            name: {key: np.asarray(value).copy() for key, value in group.items()}
            for name, group in _groups(model).items()
        }
        return functools.partial(checkpoints.save, directory, step, groups, dict(KIND))

    def written(step: int) -> None:
        run.note_checkpoint(1, step, done=step == steps)

    return CheckpointWriter(
        prepare,
        directory,
        every=every,
        keep_last=keep_last,
        initial_step=done,
        written=written,
    )


def _rescue(writer: CheckpointWriter) -> Callable[[int], None]:
    def write(step: int) -> None:
        if writer.unsaved:
            writer.write(step)

    return write


def _train(
    model: KLAutoencoder,
    dataset: tf.data.Dataset,
    steps: int,
    done: int,
    watching: list[Any],
    writer: CheckpointWriter,
) -> None:
    """Make the remaining steps, and the last checkpoint."""
    try:
        model.fit(dataset, steps_per_epoch=steps - done, epochs=1, verbose=0, callbacks=watching)
    except BaseException as problem:
        # Finish the checkpoint being written; errors are ignored: the first problem counts.
        with contextlib.suppress(Exception):
            writer.finish()
            if isinstance(problem, RuntimeError) and writer.broken:
                writer.mark_suspect()
        raise
    finally:
        for callback in watching:
            if isinstance(callback, StopOnSignal):
                callback.restore()
            if isinstance(callback, TensorBoardLogger):
                callback.close()
    made = int(np.asarray(model.optimizer.iterations))
    if made != steps:
        raise checks.error(
            f"the data ran out before the training ended: it must last for {steps} steps",
            fix="let make_dataset return an endless dataset",
            steps_made=made,
        )
    if writer.broken:
        raise RuntimeError(
            "The training of the autoencoder ended with non-finite steps; its last checkpoint is "
            "the one before them. To continue, lower the learning rate and start over (fresh=True),"
            " or look for broken data."
        )
    writer.write(steps)

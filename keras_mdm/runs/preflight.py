"""Checks of all phases before the first step, for everything that can be known to fail."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.costs.estimate import estimate_training
from keras_mdm.costs.fitting import device_memory
from keras_mdm.costs.unallocated import unallocated
from keras_mdm.runs.batches import (
    check_batch,
    check_groups_of,
    check_validation,
    text_tokens,
)
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion
from keras_mdm.training.mixing import check_groups
from keras_mdm.training.objective import check_level_weights
from keras_mdm.training.phases import Phase, number_phases

# If weights, gradients, moments and averages take less than the first share of the memory, and
# pictures less than the second, the estimate is not worth its time.
SMALL_STATE, SMALL_BATCH = 0.02, 0.002
# The disk must have room for them: the checkpoint being written and the one before it.
CHECKPOINTS_AT_ONCE = 2


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found out about a phase.

    Args:
        number: its number, from 1.
        levels: names of its levels.
        groups: samples of a batch by their highest level.
        rows: samples per replica and micro-batch by their highest level.
        checkpoint_bytes: size of a checkpoint.
        estimate: the row of `estimate_training`; `None` if memory was clearly sufficient.
    """

    number: int
    levels: tuple[str, ...]
    groups: Mapping[str, int]
    rows: Mapping[str, int]
    checkpoint_bytes: int
    estimate: Mapping[str, Any] | None


def check_phases(
    phases: Sequence[Phase],
    make_model: Callable[[Phase], MatryoshkaDiffusion],
    make_dataset: Callable[[Phase, int], tf.data.Dataset],
    *,
    devices: int,
    first: int = 1,
    memory: int | None = None,
    run: RunDirectory | None = None,
    check: Callable[[Phase, MatryoshkaDiffusion], None] | None = None,
    callbacks: Any = None,
    validation: Callable[[Phase], tf.data.Dataset] | None = None,
    estimate: bool | None = None,
) -> list[Report]:
    """Check phases without training: models are made without memory for their weights.

    `phases`, `make_model`, `make_dataset` and `validation` are as in `fit_progressively`.
    `make_model` is called once for every phase, in a scope where weights have no values; one batch
    of each dataset is drawn for every phase.

    Args:
        devices: replicas that share a batch.
        first: number of the first phase to check.
        memory: bytes of a device; those of this machine's first device unless given.
        run: directory that must have room for the checkpoints, and whose networks and processes the
            phases must fit.
        check: function (phase, model without values) for checks of your own.
        callbacks: as in `fit_progressively`; its `check`, if it has one, is called like `check`.
        estimate: estimate the memory of every phase, or of none; by default where it could matter.

    Returns:
        One report per phase that was checked.

    Raises:
        ValueError: naming the first thing that would fail.
    """
    phases = number_phases(phases)
    memory = device_memory() if memory is None else memory
    reports, before, levels = [], None, ()
    for number, phase in enumerate(phases, start=1):
        with unallocated():
            model = prepared_model(phase, make_model, levels)
        levels = phase.level_names
        check_growth(number, model, before)
        before = {variable.path: tuple(variable.shape) for variable in model.unet.weights}
        if number < first:
            continue
        if run is not None:
            require_same_model(run, number, model, note=False)
        model.unet.trained_alone = tuple(phase.groups)  # needed to draw samples
        for own in (check, getattr(callbacks, "check", None)):
            if own is not None:
                _call_check(own, number, phase, model)
        if validation is not None:
            check_validation(number, phase, model, validation(phase))
        dataset = make_dataset(phase, 0)
        check_groups_of(dataset, phase)
        check_batch(number, phase, model, dataset)
        reports.append(_report(number, phase, model, dataset, devices, memory, estimate))
    if run is not None:
        check_disk(run.path, max(report.checkpoint_bytes for report in reports))
    return reports


def _call_check(
    check: Callable[[Phase, MatryoshkaDiffusion], None],
    number: int,
    phase: Phase,
    model: MatryoshkaDiffusion,
) -> None:
    """Call a user's own check, and add the number of the phase to its errors."""
    try:
        check(phase, model)
    except ValueError as problem:
        levels = ", ".join(phase.level_names)
        raise ValueError(f"phase {number} [{levels}]: {problem}") from problem


def prepared_model(
    phase: Phase,
    make_model: Callable[[Phase], MatryoshkaDiffusion],
    trained_levels: Sequence[str],
    *,
    devices: int | None = None,
) -> MatryoshkaDiffusion:
    """Make the model of a phase and apply the phase's options to it.

    Args:
        phase: the phase.
        make_model: function (phase) -> compiled model.
        trained_levels: levels that earlier phases have trained.
        devices: number of replicas; that of the model's strategy unless given.
    """
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
        model.phase_weights = model.level_weights
    phase.check_trained(model.level_weights)
    if phase.downsample is not None:
        model.downsample = phase.downsample
    model.phase_span = (phase.first_step, phase.steps)
    replicas = model.distribute_strategy.num_replicas_in_sync if devices is None else devices
    check_groups(phase.groups, phase.shares, replicas * model.micro_batches)
    if phase.steps % model.steps_per_execution:
        raise checks.error(
            "the steps of a phase must be a multiple of the model's `steps_per_execution`",
            fix="change one of the two",
            steps=phase.steps,
            steps_per_execution=model.steps_per_execution,
        )
    factors = _factors(phase, model, trained_levels)
    still = {id(variable) for variable, factor in factors if factor == 0.0}
    if all(id(variable) in still for variable in model.unet.trainable_variables):
        raise checks.error(
            f"nothing is left to train in the phase with the levels {phase.level_names}",
            fix="freeze fewer levels, or raise inner_learning_rate",
            freeze=list(phase.freeze),
            inner_learning_rate=phase.inner_learning_rate,
            trained_before=list(trained_levels),
        )
    model.optimizer.set_learning_rate_factors(factors)
    return model


def check_growth(
    number: int, model: MatryoshkaDiffusion, before: Mapping[str, tuple[int, ...]] | None
) -> None:
    """Raise unless a phase's network has the weights of the one before.

    Args:
        number: number of the phase.
        model: its model.
        before: shapes by path in the phase before; `None` for the first.
    """
    now = {variable.path: tuple(variable.shape) for variable in model.unet.weights}
    wrong = {
        path: f"{shape} in phase {number - 1}, {now.get(path, 'missing')} in phase {number}"
        for path, shape in (before or {}).items()
        if now.get(path) != shape
    }
    if wrong:
        raise checks.error(
            "levels that a phase has trained must be the same in the next phase",
            fix="pass the same LevelSpec, text width and classes in all phases",
            phase=number,
            differences=dict(list(wrong.items())[:5]),
            how_many=len(wrong),
        )


def require_same_model(
    run: RunDirectory, number: int, model: MatryoshkaDiffusion, *, note: bool = True
) -> None:
    """Raise if the architecture, or the meaning of its outputs, differs from that of the run so
    far, which would make the weights worthless.

    Args:
        run: the directory.
        number: number of the phase.
        model: its model.
        note: write down what was not known before.
    """
    require = run.require_same if note else run.require_known
    config = model.get_config()
    recorded = model.unet.recorded()
    for name, level in recorded.items():
        if name != "conditions":
            require(name, level)
    require("conditions", {**recorded["conditions"], "text_encoder": config["text_encoder"]})
    names = ("schedule", "shift_power", "prediction", "residual", "signal_scale", "output_limit")
    if note or run.phase_record(number) is not None:  # a phase that has not begun may change
        require(f"process of phase {number}", {name: config[name] for name in names})


def _report(
    number: int,
    phase: Phase,
    model: MatryoshkaDiffusion,
    dataset: tf.data.Dataset,
    devices: int,
    memory: int,
    wanted: bool | None,
) -> Report:
    parts = devices * model.micro_batches
    check_groups(phase.groups, phase.shares, parts)
    averages = 1 + len(model.power_emas)
    weights = 4 * model.unet.count_params()
    slots = len(getattr(model.optimizer, "slot_names", ()))
    moving = sum(int(np.prod(v.shape, dtype="int64")) for v in model.unet.trainable_variables)
    state = weights * (1 + averages) + 4 * slots * moving
    row = None
    spec = model.unet.spec
    pixels = 4 * np.prod(spec.levels[-1].input_shape(spec.in_channels), dtype="int64")
    largest = pixels * sum(phase.groups.values()) / parts
    if wanted or (
        wanted is None
        and (state + weights > SMALL_STATE * memory or largest > SMALL_BATCH * memory)
    ):
        (row,) = estimate_training(
            [dataclasses.replace(phase, first_step=0)],
            lambda _: model.unet,
            text_tokens=text_tokens(dataset),
            devices=devices,
            micro_batches=model.micro_batches,
            recompute=model.recompute,
            averages=averages,
            flop_per_second=1e12 if wanted is None else None,
        )
        _check_memory(number, phase, row["memory"], memory, devices, model.micro_batches)
    return Report(
        number,
        phase.level_names,
        phase.groups,
        {level: rows // parts for level, rows in phase.groups.items()},
        state,
        row,
    )


def _check_memory(
    number: int, phase: Phase, needed: Mapping[str, int], memory: int, devices: int, parts: int
) -> None:
    if needed["total"] <= memory:
        return
    raise checks.error(
        f"phase {number} [{', '.join(phase.level_names)}] must fit into the memory of a "
        f"device; by estimate it needs {needed['total'] / 1e9:.3g} GB, including "
        f"{needed['activations'] / 1e9:.3g} GB of activations",
        fix="use more micro-batches (compile(micro_batches=), --micro-batches auto of a recipe), "
        "more devices, recompute=True, smaller batches, or check_memory=False if you know better",
        device_gb=round(memory / 1e9, 1),
        devices=devices,
        micro_batches=parts,
        batch_size=phase.batch_size,
    )


def check_disk(path: str | os.PathLike, checkpoint_bytes: int) -> None:
    """Raise unless two checkpoints fit onto the disk.

    Args:
        path: directory of the run, which need not exist.
        checkpoint_bytes: size of a checkpoint.
    """
    there = Path(path).absolute()
    while not there.exists():
        there = there.parent
    free, needed = shutil.disk_usage(there).free, CHECKPOINTS_AT_ONCE * checkpoint_bytes
    if needed > free:
        raise checks.error(
            "the disk must have room for two checkpoints",
            fix="make room, or choose a run directory on another disk",
            run_dir=str(path),
            free_gb=round(free / 1e9, 2),
            needed_gb=round(needed / 1e9, 2),
        )


def _factors(
    phase: Phase, model: MatryoshkaDiffusion, trained_levels: Sequence[str]
) -> list[tuple[Any, float]]:
    """Learning-rate factors: 0 for frozen levels; levels trained before may move more slowly."""
    factors = []
    for name, part in model.unet.parts.items():
        level = model.unet.level_of(name)
        factor = phase.inner_learning_rate if level in trained_levels else 1.0
        if level in phase.freeze:
            factor = 0.0
        if factor != 1.0:
            factors += [(variable, factor) for variable in part.trainable_variables]
    return factors

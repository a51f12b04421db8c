"""First phases that several trainings have in common: trained once, and copied."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared.experiments.planning import Planned, Stage, levels_of
from shared.experiments.trainings import without_nest


def first_of(stage: Stage) -> Stage:
    """A stage with its first phase alone, and without options that change nothing in it."""
    scale = dataclasses.replace(stage.scale, phases=stage.scale.phases[:1])
    if len(levels_of(scale.phases[0])) == 1:
        scale = dataclasses.replace(scale, process=without_nest(scale.process))
    return dataclasses.replace(stage, scale=scale)


def digest(stage: Stage, phase: Any) -> str:
    """Changes whenever the training of a phase of a stage does."""
    scale = stage.scale
    parts = [
        [repr(level) for level in levels_of(phase)],
        phase.table_row(),
        [scale.network, stage.network, stage.factor, stage.sees, scale.process, scale.tokens],
        getattr(scale.optimizer, "__name__", repr(scale.optimizer)),
    ]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def begin(
    stage: Stage,
    planned: Sequence[Planned],
    run_dir: Path,
    common: Path,
    seed: int,
    train: Callable[[Stage, Sequence[Planned], Path], Any],
) -> None:
    """Let a run begin with the first phase of another training, if theirs are the same.

    The phase is trained in a run of its own, in `common`; a copy of that run is then continued with
    the later phases. Growth goes on from a checkpoint, so the result is that of one run.

    Args:
        stage: the stage.
        planned: its phases, the first of which is not measured on the way.
        run_dir: of the stage; a run that has begun is left alone.
        common: directory of first phases.
        seed: of the training.
        train: function (stage, phases, run_dir) that trains them, or continues.
    """
    if run_dir.exists():
        return
    first = first_of(stage)
    source = common / f"{digest(first, planned[0].phase)}-seed-{seed}"
    train(first, planned[:1], source)
    for old in sorted((source / "checkpoints" / "phase-1").glob("step-*"))[:-1]:
        shutil.rmtree(old)  # growth needs the last one
    # Under another name until it is whole: a copy may be interrupted.
    part = run_dir.with_name(f".{run_dir.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    part.rename(run_dir)

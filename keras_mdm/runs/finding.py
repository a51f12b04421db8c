"""Find the model that a path means: a file, a run, a phase or a checkpoint."""

import contextlib
import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

from keras_mdm import checks
from keras_mdm.release.preset import PRESET_FILE, model_of
from keras_mdm.runs import checkpoints
from keras_mdm.runs.directory import RunDirectory

_PHASE = re.compile(r"phase-(\d+)")
_STEP = re.compile(r"step-\d{7,}")
_SUFFIX = ".keras"


class FoundModel(NamedTuple):
    """The model that a path means.

    Args:
        kind: `"file"` or `"checkpoint"`.
        path: the `.keras` file, or the directory of the checkpoint.
        phase: number of the phase, from 1; `None` if not known.
        step: optimizer steps of the phase; `None` for a file.
    """

    kind: str
    path: Path
    phase: int | None = None
    step: int | None = None

    @property
    def run(self) -> Path | None:
        """Directory of the run that holds the model, or `None` if its place does not tell."""
        if self.phase is None:
            return None
        return self.path.parent if self.kind == "file" else self.path.parents[2]

    def __str__(self) -> str:
        if self.step is None:
            return str(self.path)
        if self.phase is None:
            return f"step {self.step} of {self.path.parent}"
        return f"phase {self.phase}, step {self.step} of {self.run}"


def find_model(path: str | os.PathLike) -> FoundModel:
    """Say which model a path means, without loading or writing anything.

    - A `.keras` file is that file.
    - A preset, as `save_preset` wrote it, is its model, compared with its checksum.
    - A checkpoint, `RUN/checkpoints/phase-2/step-0001200`, is that checkpoint.
    - A phase, `RUN/checkpoints/phase-2` or in short `RUN/phase-2`, is its newest checkpoint, or
      `RUN/phase-2.keras` where no checkpoint is left or the newest is damaged.
    - A run is its newest state: `model.keras` once all phases are finished; before that, its
      highest phase that holds anything; and `model.keras` if nothing else is left.

    Checkpoints are first compared with their checksums. Damaged ones are passed over with a
    warning, unless the path names one. The run may be training meanwhile.

    Args:
        path: the path.

    Returns:
        The model's kind, exact path, phase and step. `str` of it is meant for a reader.

    Raises:
        ValueError: if the path is none of these, a run or phase has no complete checkpoint yet, or
            the path names a damaged checkpoint.

    Example:

    >>> print(find_model("runs/x"))
    phase 2, step 1200 of runs/x
    """
    path = Path(path)
    if not path.name or ".." in path.parts:  # "." does not tell where it is
        path = Path(os.path.abspath(path))
    if path.is_file() and path.suffix == _SUFFIX:
        return FoundModel("file", path, _phase_number(path.stem))
    if (path / PRESET_FILE).is_file():
        return FoundModel("file", model_of(path))
    if _STEP.fullmatch(path.name):
        return _checkpoint(path)
    number = _phase_number(path.name)
    damaged: dict[Path, str] = {}
    if number is not None and path.parent.name == "checkpoints":
        found = _newest_of_phase(RunDirectory(path.parent.parent), number, damaged)
    elif number is not None and _is_run(path.parent):
        found = _newest_of_phase(RunDirectory(path.parent), number, damaged)
    elif _is_run(path):
        found = _newest_of_run(RunDirectory(path), damaged)
    elif checkpoints.list_checkpoints(path):  # of a user's own program
        found = _newest_checkpoint(path, None, damaged)
    else:
        raise checks.error(
            "a model must be a .keras file, a preset, the directory of a run, the directory of one "
            "of its phases (RUN/checkpoints/phase-2), or a checkpoint "
            "(RUN/checkpoints/phase-2/step-0001200)",
            fix=_advice(path),
            path=str(path),
        )
    if found is None:
        raise checks.error(
            "a run or phase must hold a complete checkpoint to load a model from",
            fix="pass another phase, or an older run"
            if damaged
            else "wait for the first checkpoint of the training, or check the path",
            path=str(path),
            damaged=[f"{each.name}: {problem}" for each, problem in damaged.items()],
        )
    if damaged:
        listed = "; ".join(f"{each}: {problem}" for each, problem in damaged.items())
        warnings.warn(f"Damaged checkpoints are passed over: {listed}", stacklevel=2)
    return found


def model_files(run: RunDirectory, number: int) -> list[Path]:
    """The `.keras` files that hold the end of a phase, if any.

    Args:
        run: the run.
        number: number of the phase.
    """
    files = [run.path / f"phase-{number}{_SUFFIX}"]
    with contextlib.suppress(ValueError):  # a damaged `run.json` is no reason to load nothing
        if number == len(_phases(run)):
            files.append(run.model)
    return [file for file in files if file.is_file()]


def _advice(path: Path) -> str:
    """Advice about a path that means no model."""
    directory = path.parent / "checkpoints" / path.stem
    if path.suffix == _SUFFIX and directory.is_dir():
        return f"pass {directory}: the file is written when the phase is finished"
    return "check the path"


def _is_run(path: Path) -> bool:
    run = RunDirectory(path)
    return run.file.is_file() or bool(_numbers(run)) or (path.is_dir() and run.model.is_file())


def _phase_number(name: str) -> int | None:
    match = _PHASE.fullmatch(name)
    return int(match.group(1)) if match and int(match.group(1)) else None


def _phases(run: RunDirectory) -> list[dict]:
    """The phases of `run.json`; empty where there is none."""
    return list((run.read() or {}).get("phases", ()))


def _numbers(run: RunDirectory) -> list[int]:
    """Numbers of the phases that have files, descending."""
    directories = (run.path / "checkpoints").glob("phase-*")
    names = [path.name for path in directories if path.is_dir()]
    names += [path.stem for path in run.path.glob(f"phase-*{_SUFFIX}")]
    return sorted({n for n in map(_phase_number, names) if n is not None}, reverse=True)


def _checkpoint(path: Path) -> FoundModel:
    """The checkpoint that a path names."""
    problem = checkpoints.find_damage(path)
    if not path.is_dir():  # checked afterwards: it may be deleted while it is read
        raise checks.error(
            "the checkpoint must still be there",
            fix="pass the directory above it for the newest one: a run keeps only some of its "
            "checkpoints (keep_last and keep_every of fit_progressively)",
            path=str(path),
        )
    if problem is not None:
        raise checks.error(
            "a checkpoint must have the sizes and sha256 of its manifest",
            fix="pass another one, or the directory above it for the newest complete one",
            path=str(path),
            damage=problem,
        )
    return _found(path)


def _found(path: Path) -> FoundModel:
    in_run = path.parent.parent.name == "checkpoints"
    number = _phase_number(path.parent.name) if in_run else None
    return FoundModel("checkpoint", path, number, checkpoints.step_of(path))


def _newest_of_run(run: RunDirectory, damaged: dict[Path, str]) -> FoundModel | None:
    if run.model.is_file() and _is_finished(run):
        return FoundModel("file", run.model)
    for number in _numbers(run):
        found = _newest_of_phase(run, number, damaged)
        if found is not None:
            return found
    return FoundModel("file", run.model) if run.model.is_file() else None


def _is_outdated(run: RunDirectory, file: Path) -> bool:
    """Whether a model of a run is older than its newest checkpoints, as far as `run.json` says."""
    try:
        return run.is_outdated(file)
    except ValueError:  # its checkpoints can still be loaded
        return False


def _is_finished(run: RunDirectory) -> bool:
    """Whether nothing is newer than `model.keras`: a finished run may have been extended."""
    if run.is_outdated(run.model):
        return False
    phases = _phases(run)
    if not phases:
        return True
    listed = checkpoints.list_checkpoints(run.checkpoints(len(phases)))
    return not listed or checkpoints.step_of(listed[-1]) >= phases[-1]["steps"]


def _newest_of_phase(run: RunDirectory, number: int, damaged: dict[Path, str]) -> FoundModel | None:
    files = [file for file in model_files(run, number) if not _is_outdated(run, file)]
    end = FoundModel("file", files[0], _phase_number(files[0].stem)) if files else None
    return _newest_checkpoint(run.checkpoints(number), end, damaged)


def _newest_checkpoint(
    directory: Path, end: FoundModel | None, damaged: dict[Path, str]
) -> FoundModel | None:
    """The newest complete checkpoint, or the end of the phase if the newest one is damaged."""
    for path in reversed(checkpoints.list_checkpoints(directory)):
        problem = checkpoints.find_damage(path)
        if problem is None:
            return _found(path)
        if not path.exists():  # pruned meanwhile, so there is a newer one
            return _newest_checkpoint(directory, end, damaged)
        damaged[path] = problem
        if end is not None:
            return end
    return end

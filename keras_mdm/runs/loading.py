"""Load models from files, runs, phases and checkpoints, even while the run trains."""

import functools
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_mdm import checks
from keras_mdm.cascade import Cascade
from keras_mdm.files import DAMAGED
from keras_mdm.finite import warn_of_weights
from keras_mdm.latents import LatentDiffusion
from keras_mdm.layers.own_layers import UnknownLayer
from keras_mdm.release import PRESET_FILE, fetched, model_of
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.runs.finding import FoundModel, find_model, model_files
from keras_mdm.runs.snapshot import load_snapshot, unknown_class
from keras_mdm.stages import stages_of
from keras_mdm.training import usage
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion

# Number of attempts, each lost to a checkpoint that the training deleted, before giving up.
_ATTEMPTS = 10


def load(path: str | os.PathLike) -> MatryoshkaDiffusion | Cascade | LatentDiffusion:
    """Load a model from a `.keras` file, a run, a phase or a checkpoint.

    Weights, all averages, the null condition and measured deviations are loaded; the text encoder
    is found when prompts need it, as after `keras.saving.load_model`. Functions among the model's
    options must be registered here, as where it was saved; level weights set by a phase of a run
    are not loaded. The run may be training meanwhile: nothing is locked or written. Weights that
    are not finite cause a warning; `generate` and the export refuse them.

    Args:
        path: as in `find_model`: `model.keras`, `runs/x` for the newest state of a run,
            `runs/x/checkpoints/phase-2` for that of a phase, or
            `runs/x/checkpoints/phase-2/step-0001200`; a preset; or its address, as in
            `MatryoshkaDiffusion.from_preset`.

    Returns:
        The model, not compiled; a `Cascade` or a `LatentDiffusion` from the file of one.

    Raises:
        ValueError: if the path is none of these, its content is damaged or not a model, or a class
            of the model is not known here.

    Example:

    >>> model = mdm.load("runs/x")
    >>> model.generate(["a red apple"], weights="ema")
    """
    return load_found(path)[1]


def load_preset(path: str | os.PathLike, kind: type) -> Any:
    """Load the model of a preset; see `MatryoshkaDiffusion.from_preset`.

    Args:
        path: a directory written by `save_preset`, or its address.
        kind: the class that the model must have.

    Raises:
        ValueError: if files are missing or damaged, a later version wrote them, or the model is of
            another class.
    """
    model = _load_found(FoundModel("file", model_of(fetched(path))))
    if not isinstance(model, kind):
        raise checks.error(
            f"the preset must hold a {kind.__name__}",
            fix=f"call {type(model).__name__}.from_preset, or keras_mdm.load",
            preset=str(path),
            holds=type(model).__name__,
        )
    return model


def recorded_sampling(path: str | os.PathLike) -> dict[str, Any]:
    """How a run draws, as `fit_progressively` noted it: options of `generate`, empty if it did not.

    Args:
        path: a run, or something inside one, as in `load`.

    Returns:
        Those that were noted out of what a model may have as its own `sampling`.

    Example:

    >>> recorded_sampling("runs/x/checkpoints/phase-1")
    {'steps': 25, 'guidance_scale': 3.0}
    """
    noted = _noted_sampling(path)
    return {key: noted[key] for key in usage.SAMPLING if key in noted}


def _noted_sampling(path: str | os.PathLike) -> dict[str, Any]:
    path = Path(path).absolute()
    for directory in (path, *path.parents[:3]):
        if (directory / PRESET_FILE).is_file():  # which holds its own
            return {}
        if (directory / "run.json").is_file():
            return (RunDirectory(directory).read() or {}).get("sampling", {})
    return {}


def recorded_output(path: str | os.PathLike) -> str | None:
    """The `output` with which a run draws: "float32" for a model of codes; `None` if it noted none.

    The file of a `LatentDiffusion` inside the run draws pictures all the same.

    Args:
        path: as in `recorded_sampling`.
    """
    return _noted_sampling(path).get("output")


def load_found(
    path: str | os.PathLike,
) -> tuple[FoundModel, MatryoshkaDiffusion | Cascade | LatentDiffusion]:
    """Load a model, and say which one it was.

    Args:
        path: as in `load`.

    Returns:
        (what `find_model` found, the model).

    Raises:
        ValueError: as in `load`.

    Example:

    >>> found, model = load_found("runs/x")
    >>> print(found)
    phase 2, step 1200 of runs/x
    """
    path = fetched(path)
    for attempt in range(_ATTEMPTS):
        found = find_model(path)
        try:
            return found, _load_found(found)
        except Exception:
            # A run deletes old checkpoints while it trains. Then there is a newer one to find; if
            # this one was named, an error says that it is gone.
            if found.path.exists() or attempt == _ATTEMPTS - 1:
                raise


def _load_found(found: FoundModel) -> MatryoshkaDiffusion | Cascade | LatentDiffusion:
    if found.kind == "file":
        model = _load_file(found.path)
        for stage in stages_of(model):  # loading warned of the averages already
            warn_of_weights(stage, stage.unet.variables)
        return model
    described = functools.partial(_description_beside, found)
    model = load_snapshot(found.path, description=described)
    warn_of_weights(model, model.variables)
    return model


def _description_beside(found: FoundModel) -> Mapping[str, Any] | None:
    """Configuration of the same phase's finished model, for checkpoints of earlier versions."""
    if found.run is None or found.phase is None:
        return None
    for file in model_files(RunDirectory(found.run), found.phase):
        try:
            with zipfile.ZipFile(file) as archive:
                described = dict(json.loads(archive.read("config.json")))
        except DAMAGED as problem:
            raise _damaged(file, problem) from problem
        # The program brings its own optimizer.
        return {k: v for k, v in described.items() if k not in ("compile_config", "build_config")}
    return None


def _load_file(path: Path) -> MatryoshkaDiffusion | Cascade | LatentDiffusion:
    if not zipfile.is_zipfile(path):  # Keras would say that the file is not there
        raise _damaged(path, "not an archive, or truncated")
    try:
        model = keras.saving.load_model(path, compile=False)
    except TypeError as problem:
        if "Could not locate" not in str(problem):
            raise _damaged(path, problem) from problem
        raise unknown_class(path, problem) from problem
    except UnknownLayer:
        raise
    except (*DAMAGED, AttributeError, IndexError) as problem:
        raise _damaged(path, problem) from problem
    if not isinstance(model, MatryoshkaDiffusion | Cascade | LatentDiffusion):
        raise checks.error(
            "the file must hold a MatryoshkaDiffusion, a Cascade or a LatentDiffusion",
            fix="save the diffusion model, not only its network; an autoencoder is loaded by "
            "keras_mdm.latents.load_codec",
            path=str(path),
            type=type(model).__name__,
        )
    for stage in stages_of(model):
        stage.refresh(contents=False)  # gives averages of earlier versions their places
    return model


def _damaged(path: Path, problem: Any) -> ValueError:
    if isinstance(problem, BaseException):
        problem = f"{type(problem).__name__}: {problem}"
    return checks.error(
        "a .keras file must be complete and written by `model.save` of this version",
        fix="copy it again, or load the run or checkpoint that it was made from",
        path=str(path),
        problem=problem,
    )

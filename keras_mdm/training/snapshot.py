"""What a checkpoint holds of a model, and how it comes back, into the same or a larger model."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.training import checkpoints
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion
from keras_mdm.training.ema import ExponentialMovingAverage


def _weights(model: MatryoshkaDiffusion) -> dict[str, Any]:
    """Every weight of a model but the averages, by name."""
    found = {variable.path: variable for variable in model.unet.variables}
    found |= {f"residual_std/{name}": value for name, value in model.residual_std.items()}
    return found | {f"null/{name}": value for name, value in model.null_condition.items()}


def _averages(model: MatryoshkaDiffusion) -> dict[str, ExponentialMovingAverage]:
    """All averages of a model by the name of their group."""
    return {"ema": model.ema, **model.power_emas}


def _group(groups: Mapping[str, Any], name: str) -> Any:
    if name not in groups:
        raise checks.error(
            f"the checkpoint must hold the average {name!r}",
            fix="train all phases of a run with the same power_emas",
            groups=sorted(groups),
        )
    return groups[name]


def save_snapshot(
    model: MatryoshkaDiffusion, directory: str | Path, step: int, state: Mapping[str, Any]
) -> Path:
    """Write weights, averages and optimizer of a compiled model as one checkpoint.

    Args:
        model: the model.
        directory: where the checkpoints of the phase are.
        step: steps made in the phase.
        state: JSON values to keep.

    Returns:
        The checkpoint's directory.
    """
    groups = _groups_of(model)
    return checkpoints.save(directory, step, groups, {**state, "seed": model.seed})


def _groups_of(model: MatryoshkaDiffusion) -> dict[str, Mapping[str, Any]]:
    """Everything a checkpoint holds, as variables."""
    return {
        "model": _weights(model),
        "optimizer": model.optimizer.state(),
        **{name: ema.state() for name, ema in _averages(model).items()},
    }


def prepare_snapshot(
    model: MatryoshkaDiffusion, directory: str | Path, step: int, state: Mapping[str, Any]
) -> Callable[[], Path]:
    """Copy what `save_snapshot` would write, and return the function that writes it.

    Training may go on in the meantime. Costs the memory of weights, averages and moments once more.

    Args:
        model: as in `save_snapshot`.
        directory: as in `save_snapshot`.
        step: as in `save_snapshot`.
        state: as in `save_snapshot`.
    """
    groups = {
        # A real copy: on the CPU an array may share the memory of the variable.
        name: {key: np.asarray(value).copy() for key, value in group.items()}
        for name, group in _groups_of(model).items()
    }
    return functools.partial(
        checkpoints.save, directory, step, groups, {**state, "seed": model.seed}
    )


def restore_snapshot(model: MatryoshkaDiffusion, path: str | Path) -> dict[str, Any]:
    """Put a checkpoint back into the model that it was made of; everything is used or it fails.

    Args:
        model: a compiled model of the same architecture and seed.
        path: the checkpoint.

    Returns:
        The state that was saved.

    Raises:
        ValueError: if a weight is missing, left over or of another shape, or the seed differs.
    """
    groups, state = checkpoints.load(path)
    _check_seed(model, state)
    checkpoints.assign(_weights(model), groups["model"], what="model")
    for name, ema in _averages(model).items():
        ema.set_state(_group(groups, name))
    model.optimizer.set_state(groups["optimizer"])
    return state


def grow_from_snapshot(
    model: MatryoshkaDiffusion, path: str | Path, *, keep_moments: bool = True
) -> list[str]:
    """Start a larger model from the last checkpoint of a smaller one.

    Weights, averages and, by default, the optimizer's moments of the inner levels are taken over.
    What is new keeps its initial values, and its step counts begin now.

    Args:
        model: a compiled model that holds all levels of the smaller one.
        path: the checkpoint of the smaller model.
        keep_moments: take over the optimizer's moments.

    Returns:
        Names of the new weights.

    Raises:
        ValueError: if a weight of the checkpoint has no place or another shape in the model.

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.3.
    """
    groups, state = checkpoints.load(path)
    _check_seed(model, state)
    weights = _weights(model)
    new = [name for name in weights if name not in groups["model"]]
    inner = {name: value for name, value in weights.items() if name not in new}
    checkpoints.assign(inner, groups["model"], what="inner levels of the grown model")
    step = int(np.asarray(groups["optimizer"]["iterations"]))
    for name, ema in _averages(model).items():
        ema.set_state(_group(groups, name), new_start=step)
    if keep_moments:
        model.optimizer.set_state(groups["optimizer"], allow_new=True)
    else:
        model.optimizer.iterations.assign(step)
    return new


def _check_seed(model: MatryoshkaDiffusion, state: Mapping[str, Any]) -> None:
    if state["seed"] != model.seed:
        raise checks.error(
            f"the run was started with seed {state['seed']}",
            fix="make the model with that seed",
            seed=model.seed,
        )

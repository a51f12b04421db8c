"""What a checkpoint holds of a model, and how it is restored: alone, or into another model.

Besides the arrays, its `state.json` holds the configuration of the model under "model", so that the
model can be made again without the program that trained it.
"""

import functools
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mdm import checks, named_arrays
from keras_mdm.models import lora
from keras_mdm.runs import checkpoints
from keras_mdm.training import usage
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion
from keras_mdm.training.options import saved_functions


def _weights(model: MatryoshkaDiffusion) -> dict[str, Any]:
    """Every weight of a model except the averages, by name."""
    found = {variable.path: variable for variable in model.unet.weights}
    # By number: Keras numbers the names of random generators in a user's layers.
    known = {id(variable) for variable in found.values()}
    states = [variable for variable in model.unet.variables if id(variable) not in known]
    found |= {f"state/{number}": state for number, state in enumerate(states)}
    found |= {f"residual_std/{name}": value for name, value in model.residual_std.items()}
    return found | {f"null/{name}": value for name, value in model.null_condition.items()}


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
    return checkpoints.save(directory, step, _groups_of(model), _state_of(model, state))


def _groups_of(model: MatryoshkaDiffusion) -> dict[str, Mapping[str, Any]]:
    """Everything a checkpoint holds, as variables."""
    return {
        "model": _weights(model),
        "optimizer": model.optimizer.state(),
        **{name: ema.state() for name, ema in model.averages.by_name.items()},
    }


def prepare_snapshot(
    model: MatryoshkaDiffusion, directory: str | Path, step: int, state: Mapping[str, Any]
) -> Callable[[], Path]:
    """Copy what `save_snapshot` would write, and return the function that writes it.

    The arguments are those of `save_snapshot`. Training may continue in the meantime. The copy
    takes the memory of weights, averages and moments once more.
    """
    groups = {
        # A real copy: on the CPU an array may share the memory of the variable.
        name: {key: np.asarray(value).copy() for key, value in group.items()}
        for name, group in _groups_of(model).items()
    }
    return functools.partial(checkpoints.save, directory, step, groups, _state_of(model, state))


def _state_of(model: MatryoshkaDiffusion, state: Mapping[str, Any]) -> dict[str, Any]:
    adapted = {e.path: [e.lora_rank, e.lora_alpha] for e in lora.adapted_layers(model.unet)}
    return {
        **state,
        "seed": model.seed,
        "model": describe_model(model),
        "ema_age": model.averages.age,
        # Checkpoints hold LoRA as it is trained; files hold it merged.
        "lora": adapted,
    }


def _restore_averages(
    model: MatryoshkaDiffusion,
    groups: Mapping[str, Any],
    state: Mapping[str, Any],
    new_start: int | None = None,
) -> None:
    """Restore all averages and their age."""
    weights = [v.path for v in model.averages.ema.variables]
    # Earlier versions averaged only trainable weights, and counted with the optimizer.
    known = "ema_age" in state
    age = state["ema_age"] if known else int(np.asarray(groups["optimizer"]["iterations"]))
    for name, ema in model.averages.by_name.items():
        ema.set_state(_group(groups, name), new_start=new_start, left_out=() if known else weights)
    model.averages.age = age
    model.averages.mark()


def describe_model(model: MatryoshkaDiffusion) -> dict[str, Any] | None:
    """Return the configuration that makes the model again, without its weights, as JSON values.

    A `.keras` file holds the same and the optimizer. This is quick, so every checkpoint can ask
    for the current configuration.

    Args:
        model: the model.

    Returns:
        The configuration; `None`, with a warning, for a user's class whose configuration is not
        JSON.

    Raises:
        ValueError: if an option of the model is a function that cannot be saved.
    """
    kind = type(model)
    saved_functions(model)
    try:
        config = keras.saving.serialize_keras_object(model.get_config())
        description = {
            "module": None if kind.__module__ == "__main__" else kind.__module__,
            "class_name": kind.__name__,
            "registered_name": keras.saving.get_registered_name(kind),
            "config": config,
        }
        return json.loads(json.dumps(description))
    except Exception as problem:  # in code that is not ours
        warnings.warn(
            f"Checkpoints do not say how to make a {kind.__name__}: its configuration "
            f"cannot be written ({problem}). The run can continue from them, but nothing "
            "else can load them",
            stacklevel=2,
        )
        return None


def load_snapshot(
    path: str | Path, *, description: Callable[[], Mapping[str, Any] | None] | None = None
) -> MatryoshkaDiffusion:
    """Make the model of a checkpoint, with its weights and all averages.

    Args:
        path: the checkpoint.
        description: returns the result of `describe_model`, for checkpoints of earlier versions,
            which do not hold it.

    Returns:
        The model, not compiled. Its text encoder is found when prompts need it, as after
        `keras.saving.load_model`.

    Raises:
        ValueError: if the checkpoint does not describe its model, a class is not known, or the
            arrays are not those of the model.
    """
    groups, state = checkpoints.load(path)
    described = state.get("model") or (description and description())
    if state.get("kind") == "autoencoder":
        raise checks.error(
            "a model must be one that draws, not an autoencoder",
            fix="load that with keras_mdm.latents.load_codec",
            checkpoint=str(path),
        )
    if described is None:
        raise checks.error(
            "a checkpoint must say how to make its model; those of earlier versions do "
            "not, nor do those of models whose configuration cannot be written",
            fix="continue the run until its next checkpoint, or pass its model.keras",
            checkpoint=str(path),
        )
    model = _make(described, path)
    lora.adapt(model.unet, state.get("lora", {}))
    model.refresh(contents=False)
    named_arrays.assign(_weights(model), _group(groups, "model"), what="model")
    _restore_averages(model, groups, state)
    return model


def _make(description: Mapping[str, Any], path: str | Path) -> MatryoshkaDiffusion:
    try:
        return keras.saving.deserialize_keras_object(dict(description))
    except TypeError as problem:
        raise unknown_class(path, problem) from problem


def unknown_class(path: str | Path, problem: TypeError) -> ValueError:
    """Reword Keras' error about an object that it cannot make from its configuration.

    Args:
        path: file or checkpoint being loaded.
        problem: Keras' error.

    Returns:
        The error for the caller to raise.
    """
    return checks.error(
        "the classes of a model must be known where it is loaded, and be constructible "
        "from their configuration",
        fix="decorate them with @keras.saving.register_keras_serializable() and import their "
        "module before the model is loaded",
        path=str(path),
        problem=str(problem).partition(". ")[0],  # the rest is the whole configuration
    )


def restore_snapshot(model: MatryoshkaDiffusion, path: str | Path) -> dict[str, Any]:
    """Restore a checkpoint into the model that it was made from; all entries must find a place.

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
    model.refresh(contents=False)
    named_arrays.assign(_weights(model), groups["model"], what="model")
    _restore_averages(model, groups, state)
    model.optimizer.set_state(groups["optimizer"])
    # What growth or a model to start from had brought.
    usage.take_over(model, (state.get("model") or {}).get("config", {}))
    return state


def grow_from_snapshot(
    model: MatryoshkaDiffusion, path: str | Path, *, keep_moments: bool = True
) -> list[str]:
    """Start a larger model from the last checkpoint of a smaller one.

    Weights, averages and, by default, the optimizer's moments of the inner levels are taken over.
    New weights keep their initial values, and their step counts begin now.

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
    named_arrays.assign(inner, groups["model"], what="inner levels of the grown model")
    step = int(np.asarray(groups["optimizer"]["iterations"]))
    _restore_averages(model, groups, state, new_start=state.get("ema_age", step))
    if keep_moments:
        model.optimizer.set_state(groups["optimizer"], allow_new=True)
    else:
        model.optimizer.iterations.assign(step)
    usage.take_over(model, (state.get("model") or {}).get("config", {}))
    return new


def _check_seed(model: MatryoshkaDiffusion, state: Mapping[str, Any]) -> None:
    if state["seed"] != model.seed:
        raise checks.error(
            f"the run was started with seed {state['seed']}",
            fix="make the model with that seed",
            seed=model.seed,
        )

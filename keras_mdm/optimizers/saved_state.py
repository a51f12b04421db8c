"""The state of an optimizer by paths of variables, in checkpoints and files."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mdm import checks
from keras_mdm.named_arrays import require_match, unique_names


def state(optimizer: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return everything that later steps depend on, by name.

    The learning rate is an argument of the run and not part of the state.

    Args:
        names: names of the optimizer's variables, in the order of `build`; their paths by default.

    Returns:
        {"iterations": ..., "updates/<name>": ..., "<slot>/<name>": ...}; the values are
        variables or scalars, read when they are converted to arrays.
    """
    names = _names(optimizer, names)
    state: dict[str, Any] = {
        "iterations": np.asarray(optimizer._iterations),
        "skips": np.asarray(optimizer._skips),
        "scaling": np.asarray(optimizer._scaling),
    }
    counts = np.asarray(optimizer._updates)
    for row, name in enumerate(names):
        state[f"updates/{name}"] = counts[row]
        for slot_name, slots in zip(optimizer.slot_names, optimizer._slots, strict=True):
            state[f"{slot_name}/{name}"] = slots[row]
    return state


def set_state(
    optimizer: Any,
    arrays: Mapping[str, np.ndarray],
    names: Sequence[str] | None = None,
    *,
    allow_new: bool = False,
) -> list[str]:
    """Restore the result of `state`: either all of it is used, or nothing is set and it raises.

    Args:
        arrays: {key: array} with the keys of `state`.
        names: as in `state`.
        allow_new: for growth: variables without saved state keep zero slots and count their updates
            from now.

    Returns:
        Names of the new variables.

    Raises:
        ValueError: naming all keys that are missing or unexpected and all shapes that differ.
    """
    state = optimizer.state(names)
    names = _names(optimizer, names)
    new = [name for name in names if f"updates/{name}" not in arrays] if allow_new else []
    skipped = {f"{kind}/{name}" for kind in ("updates", *optimizer.slot_names) for name in new}
    # A half-saved variable is not new: its stray keys count as unexpected.
    expected = {key: value for key, value in state.items() if key not in skipped}
    require_match(
        expected,
        arrays,
        what="optimizer",
        fix="build the same optimizer, or pass allow_new=True if the network has grown",
    )
    for row, name in enumerate(names):
        if name not in new:
            for slot_name, slots in zip(optimizer.slot_names, optimizer._slots, strict=True):
                slots[row].assign(arrays[f"{slot_name}/{name}"])
    counts = [0 if name in new else arrays[f"updates/{name}"] for name in names]
    optimizer._updates.assign(np.asarray(counts, "int64"))
    optimizer._iterations.assign(arrays["iterations"])
    optimizer._skips.assign(arrays["skips"])
    optimizer._scaling.assign(arrays["scaling"])
    return new


def save_own_variables(optimizer: Any, store: Any) -> None:
    """Write `state` into a `.keras` file, without LoRA's variables, as its kernels are merged."""
    if not optimizer.built:
        keras.optimizers.Optimizer.save_own_variables(optimizer, store)
        return
    for key, value in optimizer.state().items():
        if not key.rsplit("/", 1)[-1].startswith("lora_"):
            store[key.replace("/", "|")] = np.asarray(value)


def load_own_variables(optimizer: Any, store: Any) -> None:
    """Read `state` back, also from earlier versions' files, which number the variables."""
    keys = list(store.keys())
    if all(key.isdigit() for key in keys):
        keras.optimizers.Optimizer.load_own_variables(optimizer, store)
    else:
        optimizer.set_state({key.replace("|", "/"): store[key] for key in keys})


def _names(optimizer: Any, names: Sequence[str] | None) -> list[str]:
    if not optimizer.built:
        raise checks.error(
            "the optimizer must be built", fix="call optimizer.build(variables)", built=False
        )
    return unique_names(optimizer._trainable_variables, names)

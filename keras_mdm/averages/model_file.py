"""The model's own part of a `.keras` file: averages of every weight, by name."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.averages.averages import digest
from keras_mdm.models.flags import is_lora, lora_kernel
from keras_mdm.models.lora import adapted_layers

# H5 treats a slash as a folder separator.
_SLASH = "|"
# An average of this age continues with its largest decay.
_OLD = 100_000


def _fixed(model: Any) -> dict[str, keras.Variable]:
    """The model's weights that are neither the network's nor averages, by name."""
    found = {f"residual_std|{name}": value for name, value in model.residual_std.items()}
    return found | {f"null|{name}": value for name, value in model.null_condition.items()}


def save_own_variables(model: Any, store: Any) -> None:
    """Write the averages, their age, the null condition and measured values.

    LoRA is merged, as Keras does with the weights of layers.
    """
    model.refresh()
    for name, variable in _fixed(model).items():
        store[name] = variable
    averages = model.averages
    rows = [i for i, v in enumerate(averages.ema.variables) if not is_lora(v.path)]
    store["age"] = np.int64(averages.age)
    for name, ema in averages.by_name.items():
        store[f"starts|{name}"] = np.array([ema.starts[row] for row in rows], "int64")
        for path, value in averages.merged(name, model.unet):
            store[_key(name, path)] = np.asarray(value)
    # Digests of the weights, to detect changes before the first picture. Merged kernels are left
    # out, as Keras rounds them in its own way.
    adapted = {id(lora_kernel(layer)) for layer in adapted_layers(model.unet)}
    seen = [averages.ema.variables[row] for row in rows]
    found = [b"" if id(variable) in adapted else digest(variable) for variable in seen]
    words = [np.frombuffer(each or bytes(8), "uint8") for each in found]
    store["contents"] = np.stack(words)


def load_own_variables(model: Any, store: Any) -> None:
    """Read a file of this or an earlier version; raise unless everything in it is used."""
    if "age" not in store.keys():
        _load_earlier(model, store)
        return
    averages, fixed = model.averages, _fixed(model)
    targets = {
        _key(name, path): average
        for name, ema in averages.by_name.items()
        for path, average in ema.by_path().items()
    }
    added = {key: targets.pop(key) for key in list(targets) if is_lora(key)}
    rows = [i for i, v in enumerate(averages.ema.variables) if not is_lora(v.path)]
    notes = {"age", "contents", *(f"starts|{name}" for name in averages.by_name)}
    _require_same({*fixed, *targets, *notes}, set(store.keys()))
    for name, variable in (fixed | targets).items():
        variable.assign(store[name])
    for variable in added.values():  # as Keras does with weights
        variable.assign(tf.zeros(variable.shape))
    averages.age = int(np.asarray(store["age"]))
    for name, ema in averages.by_name.items():
        for row, start in zip(rows, np.asarray(store[f"starts|{name}"]), strict=True):
            ema.starts[row] = int(start)
    paths = [averages.ema.variables[row].path for row in rows]
    words = [np.asarray(each).tobytes() for each in np.asarray(store["contents"])]
    pairs = zip(paths, words, strict=True)
    averages.mark({path: word for path, word in pairs if word != bytes(8)})


# Files of earlier versions number their variables, and only average trainable ones.


def _load_earlier(model: Any, store: Any) -> None:
    emas, fixed = model.averages.by_name, list(_fixed(model).values())
    arrays = [np.asarray(store[str(number)]) for number in range(len(store.keys()))]
    for variable, array in zip(fixed, arrays, strict=False):
        variable.assign(array)
    arrays = arrays[len(fixed) :]
    count, rest = divmod(len(arrays), len(emas))
    if rest or count > len(model.averages.ema.variables):
        raise checks.error(
            "the averages in the file must be those of the model",
            fix="build the model as it was when the file was written",
            arrays=len(arrays),
            expected=len(emas) * len(model.averages.ema.variables),
        )
    saved = {name: arrays[i * count : (i + 1) * count] for i, name in enumerate(emas)}
    starts = model._earlier_starts or [0] * count
    del model._earlier_starts
    # Assigned later, when Keras has loaded the weights.
    model._earlier = (saved, starts, _iterations(store))
    model.averages.forget()


def place_earlier_averages(model: Any) -> None:
    """Assign the averages of an earlier version's file to their weights."""
    if model._earlier is None:
        return
    saved, starts, age = model._earlier
    del model._earlier
    weights = model.averages.ema.variables
    rows = _places(saved["ema"], weights)
    moved = False
    for name, ema in model.averages.by_name.items():
        ema.restart(range(len(weights)), 0)
        for row, start, array in zip(rows, starts, saved[name], strict=True):
            moved = moved or not np.array_equal(array, np.asarray(weights[row]))
            ema.averages[row].assign(array)
            ema.starts[row] = start
    if age is None:
        # Only the optimizer knew it; without one, averages that have moved count as old.
        age = _OLD if moved else 0
    model.averages.age = age
    model.averages.mark()


def _key(name: str, path: str) -> str:
    return f"{name}|{path.replace('/', _SLASH)}"


def _iterations(store: Any) -> int | None:
    """Number of steps of the optimizer in the same file, if there is one."""
    file = getattr(store, "h5_file", None)  # private, of Keras 3.15
    where = "optimizer/vars/0"
    return int(np.asarray(file[where])) if file is not None and where in file else None


def _places(arrays: list, weights: list) -> list[int]:
    """Match averages to weights: in order, with equal shapes, nearest in value.

    Args:
        arrays: averages of some of the weights, in the weights' order.
        weights: all weights.
    """
    if len(arrays) == len(weights):
        return list(range(len(weights)))
    first = lambda value: np.ravel(np.asarray(value, "float32"))[:64]  # noqa: E731
    heads = [(tuple(w.shape), first(w)) for w in weights]
    best = {0: (0.0, None)}  # by number of arrays matched so far
    for row, (shape, head) in enumerate(heads):
        found = dict(best)  # if the weight was frozen
        for number, (cost, rows) in best.items():
            if number < len(arrays) and arrays[number].shape == shape:
                more = cost + float(np.sum((first(arrays[number]) - head) ** 2))
                if number + 1 not in found or more < found[number + 1][0]:
                    found[number + 1] = (more, (rows, row))
        best = found
    if len(arrays) not in best:
        raise checks.error(
            "the averages in the file must belong to weights of the model",
            fix="build the model as it was when the file was written",
            averages=len(arrays),
            weights=len(weights),
        )
    found, chain = [], best[len(arrays)][1]
    while chain is not None:
        chain, row = chain
        found.append(row)
    return found[::-1]


def _require_same(expected: set, found: set) -> None:
    if expected != found:
        raise checks.error(
            "the file must hold the averages of this model, one to one",
            fix="build the model as it was when the file was written",
            missing=sorted(expected - found),
            unexpected=sorted(found - expected),
        )

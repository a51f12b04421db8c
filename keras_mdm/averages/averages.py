"""All averages of a network, and the one place that resolves names of weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks, named_arrays
from keras_mdm.averages.ema import ExponentialMovingAverage
from keras_mdm.averages.power_ema import PowerEMA, group_name
from keras_mdm.models.flags import is_lora, lora_kernel
from keras_mdm.models.lora import adapted_layers, merged


class Averages:
    """The averages of all weights of a network, frozen ones included, and their age.

    `"ema"`, `"raw"` or a power-function average such as `"ema_0.05"` mean the same everywhere,
    because all code resolves them here.

    Args:
        unet: the network. Make the averages under the network's strategy.
        create: function (weight, prefix) -> its average.
        widths: relative widths of the power-function averages.
        decay: as in `ExponentialMovingAverage`.
        warmup: as in `ExponentialMovingAverage`.
    """

    def __init__(
        self,
        unet: keras.Model,
        create: Callable[[keras.Variable, str], keras.Variable],
        *,
        widths: Sequence[float],
        decay: float,
        warmup: bool,
    ):
        weights = unet.weights
        self.ema = ExponentialMovingAverage(
            weights, lambda v: create(v, "ema"), decay=decay, warmup=warmup
        )
        self.power: dict[str, PowerEMA] = {}
        for width in widths:
            group = group_name(width)
            self.power[group] = PowerEMA(
                weights, lambda v, g=group: create(v, g.replace(".", "_")), width=width
            )
        # Number of steps that the averages have followed, perhaps under several optimizers.
        self._age = keras.Variable(
            "zeros", shape=(), dtype="int64", trainable=False, name="ema_age"
        )
        # Digests of every weight and average by identity, and the age at which they were taken.
        self._seen: tuple[dict[int, bytes], int] | None = None

    # Which weights

    @property
    def names(self) -> tuple[str, ...]:
        """All names that `weights` may have."""
        return ("ema", "raw", *self.power)

    @property
    def by_name(self) -> dict[str, ExponentialMovingAverage]:
        """The averages by name, which is also the name of their group in checkpoints."""
        return {"ema": self.ema, **self.power}

    def check(self, name: Any) -> str:
        """Return `name`, or raise unless the model has weights of that name."""
        return checks.one_of("weights", name, self.names)

    def replacing(self, name: Any) -> list[tuple[keras.Variable, keras.Variable]]:
        """Pairs of a weight and the average that replaces it; none for the raw weights."""
        if self.check(name) == "raw":
            return []
        ema = self.by_name[name]
        return list(zip(ema.variables, ema.averages, strict=True))

    def held(self, name: Any) -> list[keras.Variable]:
        """The variables that hold the weights of that name."""
        pairs = self.replacing(name)
        return [average for _, average in pairs] if pairs else list(self.ema.variables)

    def substituted(
        self, name: Any, narrow: Mapping[int, tf.Tensor] | None = None
    ) -> keras.StatelessScope:
        """Context in which the network computes with the weights of that name. Nothing is swapped,
        and no variables may be created in it.

        Args:
            name: as in `check`.
            narrow: by identity of a weight, its value of that name in the dtype in which the
                network computes.
        """
        narrow = narrow or {}
        mapping = [(v, average.value) for v, average in self.replacing(name) if id(v) not in narrow]
        scope = keras.StatelessScope(state_mapping=mapping, initialize_variables=False)
        # Not in the mapping: Keras casts what is in it to the dtype of the weight.
        scope.state_mapping.update(narrow)
        return scope

    # Age and contents

    @property
    def age(self) -> int:
        """Steps that the averages have followed."""
        return int(self._age.numpy())

    @age.setter
    def age(self, value: int) -> None:
        self._age.assign(int(value))

    @property
    def age_variable(self) -> keras.Variable:
        """The variable of `age`, which the training step increments."""
        return self._age

    def follow(self, weights: Sequence[keras.Variable]) -> list[keras.Variable]:
        """Add new weights to all averages and remove old ones; return the removed averages."""
        age = self.age
        if self._seen is not None:
            # New weights are taken as unchanged.
            known = {id(variable) for variable in self.ema.variables}
            new = [variable for variable in weights if id(variable) not in known]
            self._seen[0].update(digests(new))
        left_over = [old for ema in self.by_name.values() for old in ema.follow(weights, age)]
        if self._seen is not None:
            self._seen[0].update(digests(self.ema.averages))
        return left_over

    def mark(self, contents: Mapping[str, bytes] | None = None) -> None:
        """Remember the present weights, to tell later whether they changed without a step.

        Args:
            contents: digests of the weights by path, if known.
        """
        weights = self.ema.variables
        if any(variable._value is None for variable in weights):  # a network without memory
            return
        if contents is None:
            found = digests(weights)
        else:
            found = {id(v): contents[v.path] for v in weights if v.path in contents}
        self._seen = (found | digests(self.ema.averages), self.age)

    def forget(self) -> None:
        """Forget the remembered weights."""
        self._seen = None

    def restart_changed(self, *, replaced: bool = False) -> list[str]:
        """Restart the averages of weights that were changed without a step.

        Args:
            replaced: all weights were changed, whatever steps were taken before.

        Returns:
            Paths of the changed weights.
        """
        if not replaced and (self._seen is None or self._seen[1] != self.age):
            self.mark()  # after steps, the averages have followed
            return []
        age, now = self.age, digests([*self.ema.variables, *self.ema.averages])
        rows = list(range(len(self.ema.variables)))
        if self._seen is not None and self._seen[1] == age:
            seen = self._seen[0]

            def changed(variable: keras.Variable) -> bool:
                return seen.get(id(variable), now[id(variable)]) != now[id(variable)]

            # If both a weight and its average were changed, the average is intended.
            pairs = zip(self.ema.variables, self.ema.averages, strict=True)
            rows = [row for row, (v, a) in enumerate(pairs) if changed(v) and not changed(a)]
        for ema in self.by_name.values():
            ema.restart(rows, age)
        if rows:
            now.update(digests([self.ema.averages[row] for row in rows]))
        self._seen = (now, age)
        return [self.ema.variables[row].path for row in rows]

    # Files

    def merged(self, name: str, unet: keras.Model) -> Iterator[tuple[str, Any]]:
        """Yield (path, value) of all weights of that name as in files, with LoRA merged."""
        with self.substituted(name):
            kernels = {id(lora_kernel(e)): merged(e) for e in adapted_layers(unet)}
        values = self.held(name)
        for variable, value in zip(self.ema.variables, values, strict=True):
            if not is_lora(variable.path):
                yield variable.path, kernels.get(id(variable), value)

    def merge(self, unet: keras.Model) -> None:
        """Merge LoRA into the kernels, in the weights and in all averages."""
        paths = [variable.path for variable in self.ema.variables]
        for name in self.names:
            targets = dict(zip(paths, self.held(name), strict=True))
            for path, value in list(self.merged(name, unet)):
                if value is not targets[path]:
                    targets[path].assign(np.array(value))


def digests(variables: Sequence[Any]) -> dict[int, bytes]:
    """64-bit digests of all variables by identity, at the speed of memory."""
    return {id(variable): digest(variable) for variable in variables}


def digest(value: Any) -> bytes:
    """Return a 64-bit digest of an array or variable.

    It detects changes, but is not cryptographically secure.
    """
    with tf.device("CPU:0"):
        flat = tf.reshape(tf.convert_to_tensor(value), (1, -1))
        return tf.fingerprint(flat).numpy().tobytes()


def set_average(model: Any, arrays: Mapping[str, Any]) -> None:
    """Replace the averaged weights, for example with the result of `runs.reconstruct`.

    Args:
        arrays: {variable path: array} of all weights of the network; frozen ones may be left out
            and keep their average.

    Raises:
        ValueError: naming all paths that are missing or unexpected and all shapes that differ.
    """
    model.refresh()
    moving = {variable.path for variable in model.unet.trainable_variables}
    averages = {
        path: average
        for path, average in model.ema.by_path().items()
        if path in arrays or path in moving
    }
    named_arrays.assign(averages, arrays, what="averages")
    model.averages.mark()

"""Exponential moving average of the weights, kept in plain float32 variables."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.named_arrays import require_match, unique_names
from keras_mdm.tracing import SharedTrace, local


def float32_copy(variable: keras.Variable) -> keras.Variable:
    """Return a new non-trainable float32 variable with the value of `variable`."""
    return keras.Variable(
        _value_of(variable), dtype="float32", trainable=False, name=f"{variable.name}_ema"
    )


def _value_of(variable: keras.Variable) -> np.ndarray:
    # A real copy: on the CPU an array, and a variable made from it, may share the weight's memory,
    # and the average is updated in place.
    return np.asarray(variable).astype("float32", copy=True)


class ExponentialMovingAverage:
    """Average of weights: e <- d e + (1 - d) w, once per optimizer step.

    With n earlier updates of this variable, the decay is

    - 0 while n < `copy_steps` (called warm-up steps in the release),
    - else min(decay, (1 + n) / (10 + n)) with `warmup`, so that the average forgets its start,
    - else the constant `decay`.

    Each variable counts n from its own first step, so one that joins in a later phase starts at 0.
    It is a plain object: no layer tracks it, and weights are never swapped.

    Args:
        variables: the weights to follow. Make the average under their strategy.
        create: function that makes a weight's average; `float32_copy` by default.
        decay: the final decay.
        warmup: whether the decay rises to this value gradually.
        copy_steps: number of first updates that just copy the weight.

    Example:

    ```python
    with strategy.scope():
        ema = ExponentialMovingAverage(network.trainable_variables)
    ...
    optimizer.apply(gradients, network.trainable_variables)  # inside train_step
    ema.update(optimizer.iterations - 1)
    ```

    Reference: d = 0.9999 in Gu et al., appendix B; the warm-up is TensorFlow's `num_updates` rule.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        create: Callable[[keras.Variable], keras.Variable] = float32_copy,
        *,
        decay: float = 0.9999,
        warmup: bool = True,
        copy_steps: int = 0,
    ):
        self.variables = list(variables)
        self.decay = checks.real("decay", decay, minimum=0.0, maximum=1.0)
        self.warmup = bool(warmup)
        self.copy_steps = checks.integer("copy_steps", copy_steps, minimum=0)
        self._create = create
        self.averages = [create(variable) for variable in self.variables]
        self.starts = [0] * len(self.variables)

    def decay_at(self, n: Any) -> tf.Tensor:
        """Decay of the update after `n` earlier ones, float32, for any shape of `n`."""
        n = tf.cast(n, tf.float32)
        d = tf.fill(tf.shape(n), tf.constant(self.decay, tf.float32))
        if self.warmup:
            d = tf.minimum(d, (1.0 + n) / (10.0 + n))
        return tf.where(n < self.copy_steps, tf.zeros_like(d), d)

    @tf.autograph.experimental.do_not_convert
    def update(self, step: Any, applied: Any = 1.0) -> None:
        """Update all averages from the current weights.

        Call it once after each optimizer step, in replica context (inside `train_step`) or outside
        any strategy. Every replica updates its own copy from its own copy of the weights, which are
        equal, so nothing is sent.

        Args:
            step: number of the average's steps before the one just taken, an int64 scalar; it keeps
                counting when a new optimizer restarts.
            applied: 0 if that step was skipped, which leaves the averages unchanged; else 1.
        """
        step = tf.cast(tf.convert_to_tensor(step), tf.int64)
        self._shared_update(step, tf.cast(applied, tf.float32))

    @functools.cached_property
    def _shared_update(self) -> SharedTrace:
        return SharedTrace(self._update, lambda: [*self.averages, *self.variables])

    def _update(self, step: tf.Tensor, applied: tf.Tensor) -> tf.Tensor:
        rates = {
            start: applied * (1.0 - self.decay_at(tf.maximum(step - start, 0)))
            for start in sorted(set(self.starts))
        }
        for average, variable, start in zip(
            self.averages, self.variables, self.starts, strict=True
        ):
            _move(local(average), local(variable), rates[start])
        return applied  # a traced function must return something

    def traced_with(self) -> tuple:
        """What a traced update depends on besides values."""
        return self.decay, self.warmup, self.copy_steps, tuple(self.starts)

    def state(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the averages and their first steps as "average/<name>" and "start/<name>".

        Args:
            names: names of the weights, in order; their paths by default.
        """
        state: dict[str, Any] = {}
        for name, average, start in zip(
            unique_names(self.variables, names), self.averages, self.starts, strict=True
        ):
            state[f"average/{name}"] = average
            state[f"start/{name}"] = np.int64(start)
        return state

    def set_state(
        self,
        arrays: Mapping[str, np.ndarray],
        names: Sequence[str] | None = None,
        *,
        new_start: int | None = None,
        left_out: Collection[str] = (),
    ) -> list[str]:
        """Restore the result of `state`; call it before the training step is traced.

        Args:
            arrays: {key: array} with the keys of `state`.
            names: as in `state`.
            new_start: for growth: weights without a saved average are copied and count from this
                step. With `None` they are an error.
            left_out: names of weights that may be missing; they are copied and count from 0.

        Returns:
            Names of the new weights.

        Raises:
            ValueError: naming all keys that are missing or unexpected and all shapes that differ.
        """
        names = unique_names(self.variables, names)
        new = [name for name in names if f"average/{name}" not in arrays]
        if new_start is None:
            new, new_start = [name for name in new if name in left_out], 0
        expected = {k: v for k, v in self.state(names).items() if k.split("/", 1)[1] not in new}
        require_match(
            expected,
            arrays,
            what="averages",
            fix="build the same network, or pass new_start if it has grown",
        )
        for row, name in enumerate(names):
            if name in new:
                self.averages[row].assign(_value_of(self.variables[row]))
                self.starts[row] = checks.integer("new_start", new_start, minimum=0)
            else:
                self.averages[row].assign(arrays[f"average/{name}"])
                self.starts[row] = int(arrays[f"start/{name}"])
        return new

    def follow(self, variables: Sequence[keras.Variable], age: int) -> list[keras.Variable]:
        """Follow other weights; new ones are copied and count from now.

        Args:
            variables: the weights, in their new order.
            age: steps of the average so far.

        Returns:
            The averages of the removed weights.
        """
        known = {
            id(variable): (average, start)
            for variable, average, start in zip(
                self.variables, self.averages, self.starts, strict=True
            )
        }
        rows = [known.pop(id(v), None) or (self._create(v), age) for v in variables]
        self.variables = list(variables)
        self.averages = [average for average, _ in rows]
        self.starts = [start for _, start in rows]
        return [average for average, _ in known.values()]

    def restart(self, rows: Sequence[int], age: int) -> None:
        """Restart the averages of some weights from the weights' present values.

        Args:
            rows: indices of the weights in `variables`.
            age: steps of the average so far.
        """
        for row in rows:
            self.averages[row].assign(_value_of(self.variables[row]))
            self.starts[row] = int(age)

    def by_path(self) -> dict[str, keras.Variable]:
        """The averages by path of their weight."""
        return {v.path: a for v, a in zip(self.variables, self.averages, strict=True)}

    def reset(self) -> None:
        """Set the averages to the current weights, for example after loading weights."""
        for average, variable in zip(self.averages, self.variables, strict=True):
            average.assign(_value_of(variable))


def _move(average: tf.Variable, variable: tf.Variable, rate: tf.Tensor) -> None:
    # e - (1 - d)(e - w): the fused kernel reads and writes each array once, and this form is more
    # accurate than d e + (1 - d) w when d is close to 1. It waits for the rate, which is known at
    # the end of a step: otherwise the differences of frozen weights, together as large as the
    # network, could be computed at its beginning and be kept until then.
    with tf.control_dependencies([rate]):
        difference = average - tf.cast(variable, tf.float32)
    tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=rate, delta=difference)

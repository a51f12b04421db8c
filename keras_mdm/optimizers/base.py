"""The optimizers' common base: clipping, learning-rate factors, update counts, named state."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.optimizers import saved_state
from keras_mdm.optimizers.packing import pack, unpack
from keras_mdm.tracing import SharedTrace, local
from keras_mdm.untracked import Untracked, keep_untracked, set_untracked

# The official code adds this to the norm before dividing, so that a zero gradient stays zero.
CLIP_EPSILON = 1e-6

FIRST_LOSS_SCALE, LARGEST_LOSS_SCALE = 2.0**15, 2.0**31
LOSS_SCALE_GROWS_AFTER = 2000  # finite steps


class Optimizer(keras.optimizers.Optimizer):
    """Base of the package's optimizers; subclasses implement the update of one variable.

    It differs from the stock Keras optimizers in five ways:

    - Gradients are clipped by their global norm *after* the sum over replicas. Keras clips before
      it, so that a step depends on how many devices share the batch.
    - `gradient_norm` holds the global norm of the last step, before clipping.
    - A step whose gradients are not finite changes only the counts `skipped` and
      `skipped_in_a_row`. With `loss_scale="dynamic"` it also halves the loss scale.
    - Every variable counts its own updates. A variable that joins in a later phase starts its bias
      correction and its warm-up at zero; a frozen one does not count.
    - `state` and `set_state` name everything by the path of its variable, so that a grown network
      finds its earlier state. (Keras numbers the variables instead.)

    Args:
        learning_rate: a number, or a `keras.optimizers.schedules.LearningRateSchedule`. If it has a
            method `per_variable(step, updates)`, that gives each variable its own rate.
        clip_norm: largest global norm of the gradients; `None` for no clipping.
        loss_scale: `"dynamic"` for training in float16, where gradients could be rounded to zero:
            `scale_loss` multiplies the loss by a power of two, and the gradients are divided by it.
        name: name of the optimizer.

    Reference: Gu et al., Matryoshka Diffusion Models, appendix B (clipping at 2.0).
    """

    slot_names: tuple[str, ...] = ()

    # Pairs of (variable or its path, factor), and the rows of the variables that the last step
    # moves. Untracked: Keras would take the network's variables for the optimizer's.
    _factors = Untracked(list)
    _moving_rows = Untracked(list)

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        *,
        clip_norm: float | None = 2.0,
        loss_scale: str | None = None,
        name: str | None = None,
    ):
        checks.one_of("loss_scale", loss_scale, (None, "dynamic"))
        if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            learning_rate = checks.real("learning_rate", learning_rate, minimum=0.0)
        if clip_norm is not None and checks.real("clip_norm", clip_norm, minimum=0.0) == 0.0:
            raise checks.error(
                "`clip_norm` must be positive",
                fix="pass clip_norm=None to switch it off",
                clip_norm=clip_norm,
            )
        super().__init__(learning_rate=learning_rate, name=name)
        self.clip_norm = clip_norm
        self._gradient_norm = self.add_variable(
            (), dtype="float32", aggregation="only_first_replica", name="gradient_norm"
        )
        self.loss_scale = loss_scale
        self._skips = self.add_variable(
            (2,), dtype="int64", aggregation="only_first_replica", name="skips"
        )
        self._scaling = self.add_variable(
            (2,), dtype="float32", aggregation="only_first_replica", name="scaling"
        )
        self._scaling.assign([FIRST_LOSS_SCALE, 0.0])

    def __setattr__(self, name: str, value: Any) -> None:
        if not set_untracked(self, name, value):
            super().__setattr__(name, value)

    @property
    def skipped(self) -> tf.Tensor:
        """Number of steps skipped because their gradients were not finite, int64."""
        return tf.convert_to_tensor(self._skips)[0]

    @property
    def skipped_in_a_row(self) -> tf.Tensor:
        """Number of consecutive steps skipped up to and including the last one, int64."""
        return tf.convert_to_tensor(self._skips)[1]

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Multiply the loss by the loss scale; `apply` divides the gradients by it."""
        if self.loss_scale is None:
            return loss
        return loss * tf.cast(tf.convert_to_tensor(self._scaling)[0], loss.dtype)

    @property
    def gradient_norm(self) -> keras.Variable:
        """Global norm of the last step's gradients before clipping; a float32 variable."""
        return self._gradient_norm

    def _var_key(self, variable):
        # Networks without memory have variables without a value, so these need another key.
        if isinstance(variable, keras.Variable) and variable._value is None:
            return id(variable)
        return super()._var_key(variable)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots of `variables` and their update counts."""
        if self.built:
            return
        super().build(list(variables))
        self._slots = [self.make_slots(name, variables) for name in self.slot_names]
        self._updates = self.add_variable(
            (len(variables),), dtype="int64", aggregation="only_first_replica", name="updates"
        )
        self._resolve_factors()

    def follow(self, variables: Sequence[keras.Variable]) -> None:
        """Switch to other variables: those that stay keep their state, new ones begin with zeros
        and count their updates from now, and those left out are forgotten.

        Args:
            variables: the variables to update from now on. Call it between two steps, and retrace
                the next one.
        """
        if not self.built:
            self.build(variables)
            return
        before = {self._var_key(v): row for row, v in enumerate(self._trainable_variables)}
        rows = [before.get(self._var_key(variable)) for variable in variables]
        new = [variable for variable, row in zip(variables, rows, strict=True) if row is None]
        gone = set(before.values()) - set(rows)
        slots = []
        for name, held in zip(self.slot_names, self._slots, strict=True):
            added = iter(self.make_slots(name, new) if new else ())
            slots.append([next(added) if row is None else held[row] for row in rows])
            for row in gone:
                self._untrack_variable(held[row])
        counts, old = np.asarray(self._updates), self._updates
        self._updates = self.add_variable(
            (len(rows),), dtype="int64", aggregation="only_first_replica", name="updates"
        )
        self._updates.assign([0 if row is None else counts[row] for row in rows])
        self._untrack_variable(old)
        self._slots = slots
        # Not tracked by Keras, as in its `build`: they belong to the network.
        keep_untracked(
            self,
            _trainable_variables=list(variables),
            _trainable_variables_indices={
                self._var_key(variable): row for row, variable in enumerate(variables)
            },
        )
        known = set(self._trainable_variables_indices) | {v.path for v in variables}
        self._factors = [
            (key, factor)
            for key, factor in self._factors
            if (key if isinstance(key, str) else self._var_key(key)) in known
        ]
        self._resolve_factors()

    def set_learning_rate_factors(
        self, factors: Mapping[str, float] | Iterable[tuple[Any, float]]
    ) -> None:
        """Multiply the learning rate of some variables by a constant.

        The factors are part of the traced step but are not saved: set them before the first step. A
        variable with factor 0 is left out as if it were not trainable: it has no effect on moments,
        update count or gradient norm.

        Args:
            factors: {variable path: factor}, or pairs (variable or its path, factor). They replace
                earlier factors; other variables have factor 1.

        Example:

        ```python
        optimizer = Adam(1e-4)
        optimizer.set_learning_rate_factors({v.path: 0.1 for v in inner.trainable_variables})
        ```
        """
        pairs = factors.items() if isinstance(factors, Mapping) else factors
        self._factors = [
            (key, checks.real("learning rate factor", factor, minimum=0.0)) for key, factor in pairs
        ]
        if self.built:
            self._resolve_factors()

    def moving(self, variables: Sequence[keras.Variable]) -> list[keras.Variable]:
        """The variables whose factor is not 0, in their order; only these need gradients."""
        return [v for v in variables if self._factor_by_row[self._get_variable_index(v)] > 0.0]

    def _resolve_factors(self) -> None:
        row_of_path: dict[str, int] = {}
        for row, variable in enumerate(self._trainable_variables):
            row_of_path[variable.path] = row
        by_row = np.ones(len(self._trainable_variables), "float32")
        strangers: list[str] = []
        for key, factor in self._factors:
            if isinstance(key, str):
                row = row_of_path.get(key)
            else:
                row = self._trainable_variables_indices.get(self._var_key(key))
            if row is None:
                strangers.append(key if isinstance(key, str) else key.path)
            else:
                by_row[row] = factor
        if strangers:
            raise checks.error(
                "learning-rate factors must name variables of this optimizer",
                fix="take the paths from `model.trainable_variables`",
                unknown=strangers,
            )
        self._factor_by_row = by_row

    # The step ---------------------------------------------------------------------------------

    def coefficients(
        self, learning_rate: tf.Tensor, updates: tf.Tensor, finite: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Turn (n,) float64 learning rates and update counts into (n,) vectors of coefficients.

        In a skipped step `finite` is false, rates and gradients are zero, and the coefficients must
        leave the slots unchanged; a branch around every update would cost more.

        They are computed for all variables at once: a few vector operations instead of a dozen
        scalar ones per variable.
        """
        raise NotImplementedError

    def update_variable(
        self, variable: tf.Variable, gradient: tf.Tensor, row: int, *coefficients: tf.Tensor
    ) -> None:
        """Update one component of a variable in place, given its row of the coefficients."""
        raise NotImplementedError

    def make_slots(self, name: str, variables: Sequence[keras.Variable]) -> list[keras.Variable]:
        """Make the slots of a name, one per variable."""
        return self.add_optimizer_variables(variables, name)

    def slot(self, name: str, row: int) -> tf.Variable:
        """This replica's copy of the slot `name` of variable number `row`."""
        return local(self._slots[self.slot_names.index(name)][row])

    @tf.autograph.experimental.do_not_convert
    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        # Private hook of Keras 3.15: called in replica context with unreduced gradients.
        rows, gradients = [], []
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            row = self._get_variable_index(variable)
            if self._factor_by_row[row] > 0.0:
                rows.append(row)
                # Embeddings give slices, whose repeated rows would count wrongly in the norm.
                gradients.append(tf.convert_to_tensor(gradient))
        if not rows:
            return
        # Not tensors, so not passed through the trace that replicas share.
        self._moving_rows = rows
        rate = tf.cast(tf.convert_to_tensor(learning_rate), tf.float64)
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            packed = self._shared_packing(gradients)
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, packed)
        self._shared_update(gradients, rate)

    @functools.cached_property
    def _shared_packing(self) -> SharedTrace:
        return SharedTrace(pack, list)

    @functools.cached_property
    def _shared_update(self) -> SharedTrace:
        # Every replica updates its own copies, as all have the same summed gradients.
        return SharedTrace(self._update, lambda: [*self.variables, *self._trainable_variables])

    def _update(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> tf.Tensor:
        """Update this replica's copies from the summed gradients, which are packed if there are
        several replicas; return whether the step was taken."""
        rows = self._moving_rows
        shapes = [self._trainable_variables[row].shape for row in rows]
        if self._distribution_strategy.num_replicas_in_sync > 1:
            gradients = unpack(gradients, shapes)
        variables = [local(self._trainable_variables[row]) for row in rows]
        gradients, finite = self._clip(gradients)
        counts = local(self._updates)
        updates = counts.read_value()
        rates = self._learning_rates(learning_rate, updates)
        table = self.coefficients(
            tf.where(finite, rates, 0.0), tf.cast(updates, tf.float64), finite
        )
        if all(variable.dtype == tf.float32 for variable in variables):
            table = [tf.cast(column, tf.float32) for column in table]  # all at once
        table = [tf.unstack(tf.gather(column, rows)) for column in table]
        counted = np.zeros(len(self._trainable_variables), "int64")
        counted[rows] = 1
        counts.assign_add(counted * tf.cast(finite, tf.int64))
        for place, (row, gradient, variable) in enumerate(
            zip(rows, gradients, variables, strict=True)
        ):
            values = [tf.cast(column[place], variable.dtype) for column in table]
            self.update_variable(variable, tf.cast(gradient, variable.dtype), row, *values)
        return finite

    def _clip(self, gradients: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Return clipped gradients of the unscaled loss, and whether they are finite; if not,
        zeros."""
        squares = [tf.cast(tf.nn.l2_loss(gradient), tf.float32) for gradient in gradients]
        norm = tf.sqrt(2.0 * tf.add_n(squares))
        factor = tf.ones(())
        if self.loss_scale is not None:
            factor = 1.0 / local(self._scaling).read_value()[0]
            norm = norm * factor
        local(self._gradient_norm).assign(norm)
        finite = tf.math.is_finite(norm)
        self._count(finite)
        if self.clip_norm is not None:
            factor = factor * tf.minimum(1.0, self.clip_norm / (norm + CLIP_EPSILON))
        # Unlike a product with zero, `multiply_no_nan` drops NaN. A branch around all gradients
        # would take six operations per gradient to trace.
        factor = tf.where(finite, factor, 0.0)
        return [
            tf.math.multiply_no_nan(gradient, tf.cast(factor, gradient.dtype))
            for gradient in gradients
        ], finite

    def _count(self, finite: tf.Tensor) -> None:
        """Count a skipped step, and adapt the loss scale."""
        skips = local(self._skips).read_value()
        ok = tf.cast(finite, tf.int64)
        local(self._skips).assign(tf.stack([skips[0] + 1 - ok, (skips[1] + 1) * (1 - ok)]))
        if self.loss_scale is None:
            return
        scale, good = tf.unstack(local(self._scaling).read_value())
        good = tf.where(finite, good + 1.0, 0.0)
        grow = good >= LOSS_SCALE_GROWS_AFTER
        # A scale that itself overflows would never recover.
        larger = tf.where(grow, tf.minimum(2.0 * scale, LARGEST_LOSS_SCALE), scale)
        scale = tf.where(finite, larger, tf.maximum(scale / 2.0, 1.0))
        local(self._scaling).assign(tf.stack([scale, tf.where(grow, 0.0, good)]))

    def _learning_rates(self, learning_rate, updates: tf.Tensor) -> tf.Tensor:
        per_variable = getattr(self._learning_rate, "per_variable", None)
        if per_variable is not None:
            learning_rate = per_variable(local(self._iterations).read_value(), updates)
        rates = tf.cast(tf.convert_to_tensor(learning_rate), tf.float64)
        return rates * self._factor_by_row.astype("float64")

    def _apply_weight_decay(self, variables):
        # Keras would decay with the common learning rate; AdamW uses each variable's own.
        pass

    # Saving and loading: keras_mdm/optimizers/saved_state.py

    state = saved_state.state
    set_state = saved_state.set_state
    save_own_variables = saved_state.save_own_variables
    load_own_variables = saved_state.load_own_variables

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        kept = {key: config[key] for key in ("name", "learning_rate")}
        return {**kept, "clip_norm": self.clip_norm, "loss_scale": self.loss_scale}

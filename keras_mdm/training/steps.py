"""One step of training and of evaluation, on one replica's part of a batch."""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import randomness
from keras_mdm.conditioning.conditions import condition_names, drop
from keras_mdm.optimizers import Optimizer
from keras_mdm.tracing import SharedTrace, local
from keras_mdm.training import batches, remainder
from keras_mdm.training.penalties import penalties_of, with_penalties

TIMES = ("uniform", "stratified")


class StepMixin:
    """Draws, gradients and logs; needs `ObjectiveMixin`, `ema`, `seed`, `cond_dropout`, `times`,
    `micro_batches`, and the trackers."""

    # Draws

    def _samples(
        self, group: Mapping[str, Any], step: tf.Tensor, rows: tf.Tensor, number: int, count: int
    ) -> tf.Tensor:
        """Global position of every row: given, or counted from the step and the replica. Groups
        take turns, so that no two rows of a step share a position."""
        if "sample" in group:
            return tf.cast(group["sample"], tf.int64)
        place, full = remainder.sample_places(group) or (self._place(rows), self._global(rows))
        return (step * full + place) * count + number

    def _global(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows of all replicas together, int64."""
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        return tf.cast(rows, tf.int64) * replicas

    def _place(self, rows: tf.Tensor) -> tf.Tensor:
        """Place of this replica's rows among those of all, `(rows,)` int64."""
        context = tf.distribute.get_replica_context()
        rows = tf.cast(rows, tf.int64)
        return tf.cast(context.replica_id_in_sync_group, tf.int64) * rows + tf.range(rows)

    def _times(
        self, purpose: str, step: Any, samples: tf.Tensor, stratum: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Time index k in 1..N of every sample, and whether it loses its conditions, `(B,)`; or
        each of them, `(B, n)`.

        Args:
            purpose: what is drawn for.
            step: optimizer step.
            samples: `(B,)` int64.
            stratum: `(B,)` float32 in [0, 1), where the sample's stratum begins, and its width as
                the last entry; `None` for independent times.
        """
        base = randomness.key(self.seed, purpose, step)
        rates = self.cond_dropout
        names = [f"condition_{name}" for name in rates] if isinstance(rates, Mapping) else []
        uniform = randomness.uniform_per_sample(base, samples, ("time", *(names or ["condition"])))
        place = uniform["time"]
        if stratum is not None:
            place = stratum[:-1] + stratum[-1] * place
        num_steps = self.process.schedules[self.unet.levels[0]].num_steps
        index = 1 + tf.cast(tf.floor(place * num_steps), tf.int32)
        if isinstance(rates, Mapping):
            pairs = zip(names, rates.values(), strict=True)
            dropped = tf.stack([uniform[name] < rate for name, rate in pairs], axis=-1)
        else:
            dropped = uniform["condition"] < rates
        return tf.minimum(index, num_steps), dropped

    def draw_noise(
        self, purpose: str, step: Any, samples: tf.Tensor, x0: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Standard normal noise of every sample at its levels."""
        base = randomness.key(self.seed, purpose, step)
        shapes = {name: tuple(value.shape[1:]) for name, value in x0.items()}
        return randomness.normal_per_sample(base, samples, shapes)

    def _strata(self, step: tf.Tensor, groups: Mapping[str, Mapping[str, Any]]) -> dict:
        """Strata of every group's rows: the global batch takes one time from each of B intervals.

        The intervals are dealt out anew in every step, and do not depend on how the batch is split.
        """
        if self.times == "uniform":
            return dict.fromkeys(groups)
        rows = {level: batches.rows_of(group) for level, group in groups.items()}
        counted = {level: remainder.counted_places(group) for level, group in groups.items()}
        total = tf.add_n([self._global(count) for count in rows.values()])
        words = tf.reshape(tf.bitcast(randomness.key(self.seed, "strata", step), tf.uint32), (4,))
        found, before = {}, tf.zeros((), tf.int64)
        for level, count in rows.items():
            index = before + self._place(count)
            if counted[level] is not None:
                index, total = counted[level]
            dealt = tf.raw_ops.RandomIndexShuffle(
                index=index,
                seed=words[:3],
                max_index=total - 1,
                rounds=16,
            )
            width = 1.0 / tf.cast(total, tf.float32)
            found[level] = tf.concat([tf.cast(dealt, tf.float32) * width, width[None]], axis=0)
            before += self._global(count)
        return found

    def _drawn(self, purpose: str, step: tf.Tensor, batch: Mapping[str, Any], counter: Any) -> dict:
        """The groups of a batch with position, time index and dropout of every row."""
        groups = batches.split_groups(batch, self.unet.levels)
        strata, drawn = self._strata(counter, groups), {}
        for number, (level, group) in enumerate(groups.items()):
            rows = batches.rows_of(group)
            samples = self._samples(group, counter, rows, number, len(groups))
            index, dropped = self._times(purpose, step, samples, strata[level])
            drawn[level] = {**group, "sample": samples, "index": index, "dropped": dropped}
        return drawn

    # Steps

    def _forward(
        self, purpose: str, step: Any, network: Any, drawn: Mapping[str, Mapping[str, Any]]
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """(losses by level, time index) of all rows of the groups; rows that only fill a batch up
        have the loss 0, and their share is the others'."""
        x0, eps, conditions, index, dropped = [], [], [], [], []
        for level, group in drawn.items():
            data = {
                k: v for k, v in remainder.data_of(group).items() if k not in ("index", "dropped")
            }
            levels, given = self._prepare_group(level, data)
            x0.append(levels)
            conditions.append(given)
            eps.append(self.draw_noise(purpose, step, group["sample"], levels))
            index.append(group["index"])
            dropped.append(group["dropped"])
        joined = batches.join_conditions(conditions, self.unet.spec)
        index, dropped = tf.concat(index, axis=0), tf.concat(dropped, axis=0)
        if purpose == "train" and condition_names(self.unet.spec) and self.cond_dropout:
            if isinstance(self.cond_dropout, Mapping):
                dropped = dict(zip(self.cond_dropout, tf.unstack(dropped, axis=-1), strict=True))
            joined = drop(joined, self._null, dropped)
        names = self.unet.levels
        x0, eps = batches.join_levels(x0, names), batches.join_levels(eps, names)
        by_level = self.level_losses(network, x0, eps, index, joined)
        weights = remainder.level_weights(drawn, names)
        if weights is not None:
            by_level = {
                name: tf.math.multiply_no_nan(value, weights[name])
                for name, value in by_level.items()
            }
        return by_level, index

    def _backward(
        self,
        step: tf.Tensor,
        drawn: Mapping[str, Mapping[str, Any]],
        variables: list,
        normalizer: tf.Tensor,
        share: float,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], list[tf.Tensor]]:
        """(loss, mean loss by level, gradients times `share`)."""

        penalties: list[tf.Tensor | None] = []

        def network(inputs: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
            outputs = self.unet(inputs, training=True)
            penalties.append(penalties_of(self.unet))
            return self.bounded(outputs)

        with tf.GradientTape() as tape:
            by_level, index = self._forward("train", step, network, drawn)
            loss = self.batch_loss(
                by_level, index, progress=self.progress(step), normalizer=normalizer
            )
            loss = with_penalties(loss, penalties)
            # Gradients are summed over replicas. Inside the tape, or they would double.
            scaled = self.optimizer.scale_loss(loss * share)
        gradients = tape.gradient(
            scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        means = {name: tf.reduce_mean(value) for name, value in by_level.items()}
        return loss, means, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _accumulate(self, step, drawn, variables, normalizer, replicas):
        """`_backward` over all micro-batches, one after the other in the same memory."""
        parts = self.micro_batches
        batches.check_divisible(drawn, parts)

        def one(index: tf.Tensor):
            part = {level: batches.take_part(group, index, parts) for level, group in drawn.items()}
            share = 1.0 / (replicas * parts)
            loss, means, gradients = self._backward(step, part, variables, normalizer, share)
            means = [means[name] for name in self.unet.levels]
            return [value / parts for value in (loss, *means)], gradients

        def body(index, logs, gradients):
            new_logs, new_gradients = one(index)
            logs = [a + b for a, b in zip(logs, new_logs, strict=True)]
            return index + 1, logs, [a + b for a, b in zip(gradients, new_gradients, strict=True)]

        start = (
            tf.constant(0),
            [tf.zeros(()) for _ in range(1 + len(self.unet.levels))],
            [tf.zeros(variable.shape, variable.dtype) for variable in variables],
        )
        _, logs, gradients = tf.while_loop(
            lambda index, *_: index < parts, body, start, parallel_iterations=1
        )
        return logs[0], dict(zip(self.unet.levels, logs[1:], strict=True)), gradients

    # Kept in the instance's dictionary, past Keras' tracking.

    @functools.cached_property
    def _shared_gradients(self) -> SharedTrace:
        return SharedTrace(self._gradients, lambda: [*self.variables, *self.optimizer.variables])

    @functools.cached_property
    def _shared_losses(self) -> SharedTrace:
        return SharedTrace(self._test_losses, lambda: self.variables)

    def _normalizer(self, drawn: Mapping[str, Mapping[str, Any]]) -> tf.Tensor:
        """`loss_normalizer` of the global batch."""
        index = tf.concat([group["index"] for group in drawn.values()], axis=0)
        replicas = self.distribute_strategy.num_replicas_in_sync
        return self.loss_normalizer(index, remainder.counted_share(drawn, replicas))

    def _moving(self) -> list:
        """The variables that the optimizer moves: frozen weights cost no gradient."""
        variables = self.unet.trainable_variables
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer.moving(variables)
        return variables

    def _gradients(
        self, step: tf.Tensor, drawn: Mapping[str, Mapping[str, Any]], normalizer: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], list[tf.Tensor]]:
        """(loss, mean loss by level, gradients) of a replica's samples; the gradients sum up to
        those of the global batch."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if self.micro_batches == 1:
            return self._backward(step, drawn, self._moving(), normalizer, 1.0 / replicas)
        return self._accumulate(step, drawn, self._moving(), normalizer, replicas)

    def train_step(self, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """One optimizer step on this replica's part of a batch; returns the step's values."""
        # A copy: `tf.cast` to the same type would give the variable, which counts on below.
        step = tf.identity(tf.convert_to_tensor(self.optimizer.iterations))
        drawn = self._drawn("train", step, batch, step)
        # While tracing: the levels of the groups are known then, and do not change after.
        self.unet.trained_alone = tuple(drawn)
        normalizer = self._normalizer(drawn)
        loss, means, gradients = self._shared_gradients(step, drawn, normalizer)
        learning_rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        self.optimizer.apply(gradients, self._moving())
        if isinstance(self.optimizer, Optimizer):
            norm = tf.convert_to_tensor(self.optimizer.gradient_norm)
            in_a_row = tf.cast(self.optimizer.skipped_in_a_row, tf.float32)
        else:
            norm, in_a_row = tf.linalg.global_norm(gradients), tf.zeros(())
        applied = tf.cast(tf.equal(in_a_row, 0.0), tf.float32)
        age = local(self.averages.age_variable)
        followed = tf.identity(age)
        for ema in self.averages.by_name.values():
            ema.update(followed, applied)
        age.assign(followed + 1)
        logs = {"learning_rate": learning_rate, "gradient_norm": norm, "skipped_in_a_row": in_a_row}
        for name, tracker in self._step_trackers.items():
            counts = tf.ones(()) if name == "skipped_in_a_row" else applied
            tracker.update_state(tf.math.multiply_no_nan(logs[name], counts), counts)
        return {**self._loss_logs(loss, means, drawn, applied), **logs}

    def test_step(self, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Loss without training; a sample's noise depends on its position only."""
        seen = tf.identity(tf.convert_to_tensor(self._test_batches))
        drawn = self._drawn("test", 0, batch, seen)
        by_level, index = self._shared_losses(drawn)
        self._test_batches.assign_add(1)
        means = {name: tf.reduce_mean(value) for name, value in by_level.items()}
        loss = self.batch_loss(by_level, index, progress=1.0, normalizer=self._normalizer(drawn))
        return self._loss_logs(loss, means, drawn)

    def _test_losses(self, drawn: Mapping[str, Mapping[str, Any]]) -> tuple[dict, tf.Tensor]:
        """(losses by level, time index) of all rows, of the weights that are evaluated."""
        return self._forward("test", 0, self.network(self.evaluated_weights), drawn)

    def _loss_logs(
        self,
        loss: tf.Tensor,
        means: Mapping[str, tf.Tensor],
        drawn: Mapping[str, Mapping[str, Any]],
        applied: tf.Tensor | float = 1.0,
    ) -> dict[str, tf.Tensor]:
        """Losses by the name of their metric, weighed by the samples they are means of; a skipped
        step leaves the metrics alone."""
        logs = {"loss": loss, **{f"loss_{name}": value for name, value in means.items()}}
        replicas, levels = self.distribute_strategy.num_replicas_in_sync, self.unet.levels
        rows = {level: remainder.counted_rows(group, replicas) for level, group in drawn.items()}
        for number, (name, value) in enumerate(logs.items()):
            # The samples of a level are those of its groups; the loss as a whole is of all.
            having = [rows[group] for group in rows if levels.index(group) >= number - 1]
            kept = tf.math.multiply_no_nan(value, tf.cast(applied, value.dtype))
            self._loss_trackers[name].update_state(kept, sample_weight=tf.add_n(having) * applied)
        return logs

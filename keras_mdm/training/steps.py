"""One step of training or evaluation on one replica's part of a batch, with the loss
`objective.joint_loss`."""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import randomness
from keras_mdm.conditioning.conditions import condition_names, drop
from keras_mdm.optimizers import Optimizer
from keras_mdm.tracing import SharedTrace, local, share_repeats
from keras_mdm.training import batches, objective, remainder
from keras_mdm.training.augmenting import augmented
from keras_mdm.training.penalties import penalties_of, with_penalties

TIMES = ("uniform", "stratified")


def _samples(
    model: Any, group: Mapping[str, Any], step: tf.Tensor, rows: tf.Tensor, number: int, count: int
) -> tf.Tensor:
    """Global position of every row: given, or counted from the step and the replica. Groups
    take turns, so that no two rows of a step share a position."""
    if "sample" in group:
        return tf.cast(group["sample"], tf.int64)
    place, full = remainder.sample_places(group) or (_place(model, rows), _global(model, rows))
    return (step * full + place) * count + number


def _global(model: Any, rows: tf.Tensor) -> tf.Tensor:
    """Rows of all replicas together, int64."""
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    return tf.cast(rows, tf.int64) * replicas


def _place(model: Any, rows: tf.Tensor) -> tf.Tensor:
    """Place of this replica's rows among those of all, `(rows,)` int64."""
    context = tf.distribute.get_replica_context()
    rows = tf.cast(rows, tf.int64)
    return tf.cast(context.replica_id_in_sync_group, tf.int64) * rows + tf.range(rows)


def draw_times(
    model: Any, purpose: str, step: Any, samples: tf.Tensor, stratum: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Time index k in 1..N of every sample, and whether it loses all its conditions, `(B,)`, or
    each of them, `(B, n)`.

    Args:
        purpose: `"train"` or `"test"`.
        step: optimizer step.
        samples: `(B,)` int64.
        stratum: `(B,)` float32 in [0, 1), the beginning of the sample's stratum, and its width as
            the last entry; `None` for independent times.
    """
    base = randomness.key(model.seed, purpose, step)
    rates = model.cond_dropout
    names = [f"condition_{name}" for name in rates] if isinstance(rates, Mapping) else []
    uniform = randomness.uniform_per_sample(base, samples, ("time", *(names or ["condition"])))
    place = uniform["time"]
    if stratum is not None:
        place = stratum[:-1] + stratum[-1] * place
    num_steps = model.process.schedules[model.unet.levels[0]].num_steps
    index = 1 + tf.cast(tf.floor(place * num_steps), tf.int32)
    if isinstance(rates, Mapping):
        pairs = zip(names, rates.values(), strict=True)
        dropped = tf.stack([uniform[name] < rate for name, rate in pairs], axis=-1)
    else:
        dropped = uniform["condition"] < rates
    return tf.minimum(index, num_steps), dropped


def draw_noise(
    model: Any, purpose: str, step: Any, samples: tf.Tensor, x0: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Standard normal noise of every sample at its levels."""
    base = randomness.key(model.seed, purpose, step)
    shapes = {name: tuple(value.shape[1:]) for name, value in x0.items()}
    return randomness.normal_per_sample(base, samples, shapes)


def _strata(model: Any, step: tf.Tensor, groups: Mapping[str, Mapping[str, Any]]) -> dict:
    """Strata of every group's rows: the global batch takes one time from each of B intervals.

    The intervals are dealt out again at every step, however the batch is split.
    """
    if model.times == "uniform":
        return dict.fromkeys(groups)
    rows = {level: batches.rows_of(group) for level, group in groups.items()}
    counted = {level: remainder.counted_places(group) for level, group in groups.items()}
    total = tf.add_n([_global(model, count) for count in rows.values()])
    words = tf.reshape(tf.bitcast(randomness.key(model.seed, "strata", step), tf.uint32), (4,))
    found, before = {}, tf.zeros((), tf.int64)
    for level, count in rows.items():
        index = before + _place(model, count)
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
        before += _global(model, count)
    return found


def draw_all(
    model: Any, purpose: str, step: tf.Tensor, batch: Mapping[str, Any], counter: Any
) -> dict:
    """The groups of a batch with position, time index and dropout of every row."""
    groups = batches.split_groups(batch, model.unet.levels)
    strata, drawn = _strata(model, counter, groups), {}
    for number, (level, group) in enumerate(groups.items()):
        rows = batches.rows_of(group)
        samples = _samples(model, group, counter, rows, number, len(groups))
        index, dropped = draw_times(model, purpose, step, samples, strata[level])
        drawn[level] = {**group, "sample": samples, "index": index, "dropped": dropped}
    return drawn


def _loss_of(
    model: Any,
    purpose: str,
    step: Any,
    network: Any,
    drawn: Mapping[str, Mapping[str, Any]],
    *,
    progress: Any,
    normalizer: tf.Tensor,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """(loss, losses by level) of all rows of the groups; rows that only fill up a batch have the
    loss 0, and the other rows take over their share."""
    x0, eps, conditions, index, dropped, samples = [], [], [], [], [], []
    for level, group in drawn.items():
        data = {k: v for k, v in remainder.data_of(group).items() if k not in ("index", "dropped")}
        levels, given = objective.prepare_group(model, level, data)
        x0.append(levels)
        conditions.append(given)
        eps.append(model.draw_noise(purpose, step, group["sample"], levels))
        index.append(group["index"])
        dropped.append(group["dropped"])
        samples.append(group["sample"])
    joined = batches.join_conditions(conditions, model.unet.spec)
    index, dropped = tf.concat(index, axis=0), tf.concat(dropped, axis=0)
    if purpose == "train" and condition_names(model.unet.spec) and model.cond_dropout:
        if isinstance(model.cond_dropout, Mapping):
            dropped = dict(zip(model.cond_dropout, tf.unstack(dropped, axis=-1), strict=True))
        joined = drop(joined, model.null_condition, dropped)
    joined = augmented(model, purpose, step, tf.concat(samples, axis=0), joined)
    names = model.unet.levels
    return model.joint_loss(
        network,
        batches.join_levels(x0, names),
        batches.join_levels(eps, names),
        index,
        joined,
        row_weights=remainder.level_weights(drawn, names),
        progress=progress,
        normalizer=normalizer,
    )


def _backward(
    model: Any,
    step: tf.Tensor,
    drawn: Mapping[str, Mapping[str, Any]],
    variables: list,
    normalizer: tf.Tensor,
    share: float,
) -> tuple[tf.Tensor, dict[str, tf.Tensor], list[tf.Tensor]]:
    """(loss, mean loss by level, gradients times `share`)."""

    penalties: list[tf.Tensor | None] = []

    def network(inputs: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        outputs = model.unet(inputs, training=True)
        penalties.append(penalties_of(model.unet))
        return model.bounded(outputs)

    options = {"progress": model.progress(step), "normalizer": normalizer}
    with tf.GradientTape() as tape:
        loss, by_level = _loss_of(model, "train", step, network, drawn, **options)
        loss = with_penalties(loss, penalties)
        # Gradients are summed over replicas. Scaled inside the tape, or they would double.
        scaled = model.optimizer.scale_loss(loss * share)
    # By TensorFlow's own variables: it cannot make zeros like Keras' variables, which it must for
    # weights of a user's layer that nothing uses.
    gradients = tape.gradient(
        scaled,
        [variable.value for variable in variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    means = {name: tf.reduce_mean(value) for name, value in by_level.items()}
    return loss, means, [tf.convert_to_tensor(gradient) for gradient in gradients]


def _accumulate(model: Any, step, drawn, variables, normalizer, replicas):
    """`_backward` on all micro-batches, one after the other in the same memory."""
    parts = model.micro_batches
    batches.check_divisible(drawn, parts)

    def one(index: tf.Tensor):
        part = {level: batches.take_part(group, index, parts) for level, group in drawn.items()}
        share = 1.0 / (replicas * parts)
        loss, means, gradients = _backward(model, step, part, variables, normalizer, share)
        means = [means[name] for name in model.unet.levels]
        return [value / parts for value in (loss, *means)], gradients

    def body(index, logs, gradients):
        new_logs, new_gradients = one(index)
        logs = [a + b for a, b in zip(logs, new_logs, strict=True)]
        return index + 1, logs, [a + b for a, b in zip(gradients, new_gradients, strict=True)]

    start = (
        tf.constant(0),
        [tf.zeros(()) for _ in range(1 + len(model.unet.levels))],
        [tf.zeros(variable.shape, variable.dtype) for variable in variables],
    )
    _, logs, gradients = tf.while_loop(
        lambda index, *_: index < parts, body, start, parallel_iterations=1
    )
    return logs[0], dict(zip(model.unet.levels, logs[1:], strict=True)), gradients


def shared_gradients(model: Any) -> SharedTrace:
    """`_gradients`, traced once for all replicas."""
    return SharedTrace(
        functools.partial(_gradients, model),
        lambda: [*model.variables, *model.optimizer.variables],
    )


def shared_losses(model: Any) -> SharedTrace:
    """`_test_losses`, likewise."""
    return SharedTrace(functools.partial(_test_losses, model), lambda: model.variables)


def _normalizer(model: Any, drawn: Mapping[str, Mapping[str, Any]]) -> tf.Tensor:
    """`loss_normalizer` of the global batch."""
    index = tf.concat([group["index"] for group in drawn.values()], axis=0)
    replicas = model.distribute_strategy.num_replicas_in_sync
    return model.loss_normalizer(index, remainder.counted_share(drawn, replicas))


def _moving(model: Any) -> list:
    """The variables that the optimizer moves: frozen weights cost no gradient."""
    variables = model.unet.trainable_variables
    if isinstance(model.optimizer, Optimizer):
        return model.optimizer.moving(variables)
    return variables


def _gradients(
    model: Any, step: tf.Tensor, drawn: Mapping[str, Mapping[str, Any]], normalizer: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor], list[tf.Tensor]]:
    """(loss, mean loss by level, gradients) of a replica's samples; summed over replicas, the
    gradients are those of the global batch."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    if model.micro_batches == 1:
        return _backward(model, step, drawn, _moving(model), normalizer, 1.0 / replicas)
    return _accumulate(model, step, drawn, _moving(model), normalizer, replicas)


def size_of(model: Any, batch: Mapping[str, Any]) -> tuple[int, ...]:
    """Height and width of a batch, for which a step is traced, if the model has buckets; `()` if
    not, since all batches are alike."""
    if not model.buckets:
        return ()
    group = next(iter(batches.split_groups(batch, model.unet.levels).values()))
    picture = group.get("image", group.get("video"))
    (first, *_) = model.distribute_strategy.experimental_local_results(picture)
    return tuple(first.shape[-3:-1])


def train_step(model: Any, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """One optimizer step on this replica's part of a batch; returns the step's values."""
    share_repeats()
    # A copy: `tf.cast` to the same type would return the variable, which is incremented below.
    step = tf.identity(tf.convert_to_tensor(model.optimizer.iterations))
    drawn = draw_all(model, "train", step, batch, step)
    # Set while tracing, when the levels of the groups are known; they do not change afterwards.
    model.unet.trained_alone = tuple(drawn)
    normalizer = _normalizer(model, drawn)
    loss, means, gradients = model._shared_gradients(step, drawn, normalizer)
    learning_rate = tf.cast(model.optimizer.learning_rate, tf.float32)
    model.optimizer.apply(gradients, _moving(model))
    if isinstance(model.optimizer, Optimizer):
        norm = tf.convert_to_tensor(model.optimizer.gradient_norm)
        in_a_row = tf.cast(model.optimizer.skipped_in_a_row, tf.float32)
    else:
        norm, in_a_row = tf.linalg.global_norm(gradients), tf.zeros(())
    applied = tf.cast(tf.equal(in_a_row, 0.0), tf.float32)
    age = local(model.averages.age_variable)
    followed = tf.identity(age)
    for ema in model.averages.by_name.values():
        ema.update(followed, applied)
    age.assign(followed + 1)
    logs = {"learning_rate": learning_rate, "gradient_norm": norm, "skipped_in_a_row": in_a_row}
    for name, tracker in model._step_trackers.items():
        counts = tf.ones(()) if name == "skipped_in_a_row" else applied
        tracker.update_state(tf.math.multiply_no_nan(logs[name], counts), counts)
    return {**_loss_logs(model, loss, means, drawn, applied), **logs}


def test_step(model: Any, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Loss without training; a sample's noise depends on its position only."""
    share_repeats()
    seen = tf.identity(tf.convert_to_tensor(model._test_batches))
    drawn = draw_all(model, "test", 0, batch, seen)
    loss, by_level = model._shared_losses(drawn, _normalizer(model, drawn))
    model._test_batches.assign_add(1)
    means = {name: tf.reduce_mean(value) for name, value in by_level.items()}
    return _loss_logs(model, loss, means, drawn)


def _test_losses(
    model: Any, drawn: Mapping[str, Mapping[str, Any]], normalizer: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """`_loss_of` the weights that are evaluated."""
    network = model.network(model.evaluated_weights)
    return _loss_of(model, "test", 0, network, drawn, progress=1.0, normalizer=normalizer)


def _loss_logs(
    model: Any,
    loss: tf.Tensor,
    means: Mapping[str, tf.Tensor],
    drawn: Mapping[str, Mapping[str, Any]],
    applied: tf.Tensor | float = 1.0,
) -> dict[str, tf.Tensor]:
    """Losses by the name of their metric, each weighted by the number of its samples; a skipped
    step does not change the metrics."""
    logs = {"loss": loss, **{f"loss_{name}": value for name, value in means.items()}}
    replicas, levels = model.distribute_strategy.num_replicas_in_sync, model.unet.levels
    rows = {level: remainder.counted_rows(group, replicas) for level, group in drawn.items()}
    for number, (name, value) in enumerate(logs.items()):
        # The samples of a level are those of its groups; the total loss is over all.
        having = [rows[group] for group in rows if levels.index(group) >= number - 1]
        kept = tf.math.multiply_no_nan(value, tf.cast(applied, value.dtype))
        model._loss_trackers[name].update_state(kept, sample_weight=tf.add_n(having) * applied)
    return logs

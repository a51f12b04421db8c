"""The multi-resolution objective of a `MatryoshkaDiffusion`."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning.low_res import network_inputs
from keras_mdm.diffusion import losses, parameterization, process
from keras_mdm.training import batches, options, remainder

Network = Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]


def prepare(model: Any, batch: Mapping[str, Any]) -> tuple[dict, dict]:
    """Split a batch into the data of all levels and the conditions.

    Args:
        batch: see the class.

    Returns:
        (x0 by level name, float32 in [-1, 1]; conditions by key). In a mixed batch outer levels
        hold the first samples only.

    Raises:
        ValueError: if a key is missing or unknown, or the data has another size.
    """
    prepared = [
        prepare_group(model, level, remainder.unweighted(group))
        for level, group in batches.split_groups(batch, model.unet.levels).items()
    ]
    return (
        batches.join_levels([x0 for x0, _ in prepared], model.unet.levels),
        batches.join_conditions([given for _, given in prepared], model.unet.spec),
    )


def prepare_group(model: Any, level: str, group: Mapping[str, Any]) -> tuple[dict, dict]:
    return batches.prepare_group(group, model.process.up_to(level), model.unet.spec)


def joint_loss(
    model: Any,
    network: Network,
    x0: Mapping[str, tf.Tensor],
    eps: Mapping[str, tf.Tensor],
    index: tf.Tensor,
    conditions: Mapping[str, tf.Tensor],
    *,
    row_weights: Mapping[str, tf.Tensor] | None = None,
    progress: Any = 0.0,
    normalizer: tf.Tensor | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Equation 3: all levels are noised at one time, denoised together, and compared level by
    level, L = E[ sum over levels r of w_r |f_r(z, t) - target_r|^2 ].

    Args:
        model: a `MatryoshkaDiffusion`.
        network: function (inputs) -> outputs by level name.
        x0: `(B', [T,] H, W, C)` by level name; outer levels may hold the first samples only.
        eps: standard normal noise, likewise, independent over levels.
        index: `(B,)` int32, the table index k in 1..N, shared by the levels.
        conditions: see `conditions.cast_conditions`.
        row_weights: `(B',)` by level name, weight of every sample; 1 unless given.
        progress: see `batch_loss`, also for `normalizer`.

    Returns:
        (loss of a replica's samples, losses `(B',)` of every sample by level name, before the
        weights of levels and times).

    Reference: Gu et al. 2023 (arXiv 2310.15111), equation 3.
    """
    by_level = model.level_losses(network, x0, eps, index, conditions)
    if row_weights is not None:
        by_level = {
            name: tf.math.multiply_no_nan(value, row_weights[name])
            for name, value in by_level.items()
        }
    # The weights w_r, and the sum.
    loss = model.batch_loss(by_level, index, progress=progress, normalizer=normalizer)
    return loss, by_level


def level_losses(
    model: Any,
    network: Network,
    x0: Mapping[str, tf.Tensor],
    eps: Mapping[str, tf.Tensor],
    index: tf.Tensor,
    conditions: Mapping[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Loss of every sample at every level, before weights; arguments as in `joint_loss`.

    Returns:
        `(B',)` float32 by level name: the mean over pixels of the squared difference between
        prediction and target, both of the kind `loss_target`.
    """
    levels, t = model.process, _time(model, index)
    # The noise: z_r = alpha_r(t) x_r + sigma_r(t) eps_r.
    divided = levels.divided(x0)
    z = process.forward(divided, eps, t, levels.schedules)
    # The network sees all levels at once.
    inputs = network_inputs(levels, z, conditions)
    outputs = network({**inputs, "time": tf.cast(index, tf.float32) - 1.0})
    predictions, _ = levels.predictions(outputs, z, t, model.residual_std)
    # The target of every level and the distance of the prediction from it, both as `loss_target`.
    clean, by_level = divided if levels.divide_targets else x0, {}
    for name in levels.levels:
        at_t = [process.first_rows(a, z[name]) for a in levels.amplitudes(name, t)]
        target = parameterization.from_x0_eps(model.loss_target, clean[name], eps[name], *at_t)
        prediction = parameterization.convert(
            levels.prediction, model.loss_target, predictions[name], z[name], *at_t
        )
        if model.censored:
            prediction = losses.censored(prediction, target, x0[name], model.loss_target)
        by_level[name] = losses.level_loss(prediction, target)
    return by_level


def batch_loss(
    model: Any,
    by_level: Mapping[str, tf.Tensor],
    index: tf.Tensor,
    *,
    progress: Any = 0.0,
    normalizer: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weigh and sum the losses of a replica's samples to a scalar, whose mean over replicas is the
    loss of the global batch.

    Args:
        model: a `MatryoshkaDiffusion`.
        by_level: `(B',)` by level name, see `joint_loss`.
        index: `(B,)` int32.
        progress: share of the phase that has been trained, for level weights that follow it.
        normalizer: from `loss_normalizer` of the global batch; computed from `index` unless
            given.
    """
    options.check_weighting(model.loss_weighting, model.process)
    t, name = _time(model, index), losses.check_weighting(model.loss_weighting)[0]
    if name not in ("none", "vdm"):
        by_level = {
            level: value * process.first_rows(_weighting(model, level, t), value)
            for level, value in by_level.items()
        }
    per_sample = losses.multi_resolution(by_level, model.weights_at(progress))
    if name != "vdm":
        return tf.reduce_mean(per_sample)
    if normalizer is None:
        normalizer = model.loss_normalizer(index)
    weights = _weighting(model, model.unet.levels[0], t)
    return tf.reduce_mean(weights * per_sample) / normalizer


def _time(model: Any, index: tf.Tensor) -> tf.Tensor:
    """t = k / N."""
    return tf.cast(index, tf.float32) / model.process.schedules[model.unet.levels[0]].num_steps


def _weighting(model: Any, level: str, t: tf.Tensor) -> tf.Tensor:
    schedule = model.process.schedules[level]
    return losses.weighting(model.loss_weighting, schedule, t, target=model.loss_target)


def loss_normalizer(model: Any, index: tf.Tensor, share: tf.Tensor | None = None) -> tf.Tensor:
    """The divisor of the release's VDM weights, which is their mean over the global batch; 1 for
    all other weights.

    Args:
        index: `(B,)` int32, of all samples of a replica.
        share: `(B,)`, weight of every sample in that mean, see `remainder.counted_share`;
            1 unless given.
    """
    if losses.check_weighting(model.loss_weighting)[0] != "vdm":
        return tf.ones(())
    weights = _weighting(model, model.unet.levels[0], _time(model, index))
    mean = tf.reduce_mean(weights if share is None else share * weights)
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, mean)


def weights_at(model: Any, progress: Any = 0.0) -> dict[str, Any]:
    """Weight of every level's loss; levels that are missing weigh 1.

    Args:
        progress: share of the phase that has been trained, a number or a scalar tensor.
    """
    if not callable(model.level_weights):
        return dict(model.level_weights)
    weights = model.level_weights(progress)
    checks.known_keys("the result of level_weights", weights, model.unet.levels)
    return dict(weights)


def progress(model: Any, step: Any) -> tf.Tensor:
    """Share of the phase that has been trained before optimizer step `step`, float32; 1 outside
    of `fit_progressively`."""
    if model.phase_span is None:
        return tf.ones(())
    first, steps = model.phase_span
    done = tf.cast(tf.cast(step, tf.int64) - first, tf.float32) / float(steps)
    return tf.clip_by_value(done, 0.0, 1.0)


def check_level_weights(weights: Any, levels: tuple[str, ...]) -> Any:
    """Return level weights as `ObjectiveMixin` wants them, checked.

    Args:
        weights: by level name; `"highest"`; a function (progress) -> weights; or `None`.
        levels: level names, ascending.

    Raises:
        ValueError: if a name is not a level, or a weight is negative.
    """
    if callable(weights):
        return weights
    if isinstance(weights, str):
        checks.one_of("level_weights", weights, ("highest",))
        return dict.fromkeys(levels[:-1], 0.0)
    checks.known_keys("level_weights", weights or {}, levels)
    return {
        level: checks.real(f"level_weights[{level!r}]", weight, minimum=0.0)
        for level, weight in (weights or {}).items()
    }

"""The denoiser: from noisy data at all levels to estimates of the clean data.

It is composed of small functions, in the order in which they act: the network under one condition
or guided by two, reconstruction, threshold, known pixels. The last three take a denoiser and return
one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm.conditioning.conditions import match_tokens
from keras_mdm.conditioning.low_res import network_inputs
from keras_mdm.diffusion import thresholding
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.sampling import guidances
from keras_mdm.sampling.guidances import Found, Point
from keras_mdm.sampling.plan import Amounts, SamplingPlan

Levels = dict[str, tf.Tensor]
Conditions = Mapping[str, tf.Tensor]
Network = Callable[[Mapping[str, Any]], Mapping[str, Any]]
# (noisy data by level name, scalar time) -> outputs of the network, or clean data.
Outputs = Callable[[Levels, tf.Tensor], Levels]
Denoiser = Callable[[Levels, tf.Tensor], Levels]
# Pictures in [-1, 1] and masks by level name; masks are 1 where the picture is unknown.
Known = Mapping[str, tuple[tf.Tensor, tf.Tensor]]


def make_denoiser(
    network: Network,
    process: LevelProcess,
    plan: SamplingPlan,
    amounts: Amounts,
    conditions: Conditions,
    *,
    away: Conditions | None = None,
    weaker: Network | None = None,
    residual_std: Mapping[str, Any] | None = None,
    known: Known | None = None,
) -> Denoiser:
    """Make the function that the sampler's loop calls to estimate the clean data at time t.

    Args:
        network: function (inputs) -> outputs by level name.
        process: the joint process.
        plan: the static choices.
        amounts: the continuous choices, see `amounts_of`.
        conditions: conditions of every row.
        away: conditions to guide away from; required for a plan with guidance unless there is a
            `weaker` network.
        weaker: a weaker network to guide away from, under the same conditions.
        residual_std: see `LevelProcess.predictions`.
        known: pictures and masks by level name; known pixels replace the estimate.

    Returns:
        function (x_t by level name, scalar t) -> x0 by level name.
    """
    deviations, known = residual_std or {}, known or {}
    if plan.guidance is None:
        denoise = plain(outputs_under(network, process, conditions), process, deviations)
    else:
        if weaker is not None:
            pair = one_by_one(
                outputs_under(network, process, conditions),
                outputs_under(weaker, process, conditions),
            )
        else:
            conditions, away = match_tokens(conditions, away)
            halves = in_turn if plan.split else in_one_batch
            pair = halves(network, process, conditions, away)
        denoise = guided(pair, process, plan, amounts, deviations)
    if plan.reconstruction and known:
        denoise = reconstructed(denoise, process, known, amounts["reconstruction"])
    # Thresholds apply to pictures, not to the process's divided data.
    draw = as_pictures(denoise, process)
    draw = thresholded(draw, thresholding.get(plan.threshold))
    draw = with_known(draw, known)
    return as_data(draw, process)


# The network


def outputs_under(network: Network, process: LevelProcess, conditions: Conditions) -> Outputs:
    """The network under one set of conditions."""

    def outputs(x: Levels, t: tf.Tensor) -> Levels:
        inputs = network_inputs(process, x, conditions)
        return dict(network({**inputs, "time": _told(process, x, t)}))

    return outputs


def _told(process: LevelProcess, x: Levels, t: tf.Tensor) -> tf.Tensor:
    """The network's time input for every row."""
    schedule = process.schedules[process.levels[0]]
    rows = tf.shape(x[process.levels[0]])[0]
    return tf.fill([rows], tf.cast(schedule.time(t), tf.float32))


# Pairs: functions (x, t) -> (conditional outputs, outputs to guide away from).


def in_one_batch(
    network: Network, process: LevelProcess, conditions: Conditions, away: Conditions
) -> Callable[[Levels, tf.Tensor], tuple[Levels, Levels]]:
    """Both halves of classifier-free guidance in one batch, the unconditional one first."""
    both = {name: tf.concat([away[name], conditions[name]], axis=0) for name in conditions}

    def pair(x: Levels, t: tf.Tensor) -> tuple[Levels, Levels]:
        time = _told(process, x, t)
        twice = {name: tf.concat([value, value], axis=0) for name, value in x.items()}
        inputs = network_inputs(process, twice, both)
        outputs = network({**inputs, "time": tf.concat([time, time], axis=0)})
        halves = {name: tf.split(value, 2, axis=0) for name, value in outputs.items()}
        first, second = ({name: part[i] for name, part in halves.items()} for i in (0, 1))
        return second, first

    return pair


def in_turn(
    network: Network, process: LevelProcess, conditions: Conditions, away: Conditions
) -> Callable[[Levels, tf.Tensor], tuple[Levels, Levels]]:
    """Both halves one after the other, in half the memory."""
    first = outputs_under(network, process, conditions)
    second = outputs_under(network, process, away)

    def pair(x: Levels, t: tf.Tensor) -> tuple[Levels, Levels]:
        outputs = first(x, t)
        # Without this order both could be in memory at once.
        with tf.control_dependencies(list(outputs.values())):
            x = {name: tf.identity(value) for name, value in x.items()}
        return outputs, second(x, t)

    return pair


def one_by_one(
    first: Outputs, second: Outputs
) -> Callable[[Levels, tf.Tensor], tuple[Levels, Levels]]:
    """The outputs of two networks."""
    return lambda x, t: (first(x, t), second(x, t))


# Denoisers


def plain(outputs: Outputs, process: LevelProcess, residual_std: Mapping[str, Any]) -> Denoiser:
    """Estimates without guidance."""
    return lambda x, t: process.predictions(outputs(x, t), x, t, residual_std)[1]


def guided(
    pair: Callable[[Levels, tf.Tensor], tuple[Levels, Levels]],
    process: LevelProcess,
    plan: SamplingPlan,
    amounts: Amounts,
    residual_std: Mapping[str, Any],
) -> Denoiser:
    """Estimates that a guidance combines from two."""
    combine = guidances.get(plan.guidance)
    scales = {
        name: 1.0 + amounts["shares"].get(name, 1.0) * (amounts["guidance_scale"] - 1.0)
        for name in process.levels
    }
    rescale = amounts["rescale"] if plan.rescaled else None

    def denoise(x: Levels, t: tf.Tensor) -> Levels:
        at = Point(x, t, scales, rescale, process, residual_std)
        conditional, away = (Found(outputs, at) for outputs in pair(x, t))
        return dict(combine(conditional, away, at))

    return denoise


def reconstructed(
    denoise: Denoiser, process: LevelProcess, known: Known, weight: tf.Tensor
) -> Denoiser:
    """Move estimates down the gradient of the error in the known pixels, so that the rest fits
    them.

    Reference: Ho et al. 2022 (arXiv 2204.03458), equation 7.
    """

    def moved(x: Levels, t: tf.Tensor) -> Levels:
        wanted = process.divided({name: picture for name, (picture, _) in known.items()})
        with tf.GradientTape() as tape:
            tape.watch(x)
            x0 = denoise(x, t)
            missed = tf.add_n(
                [
                    tf.reduce_sum((1.0 - mask) * tf.square(wanted[name] - x0[name]))
                    for name, (_, mask) in known.items()
                ]
            )
        zero = tf.UnconnectedGradients.ZERO  # of levels on which no known pixel depends
        slopes = tape.gradient(missed, x, unconnected_gradients=zero)
        return {
            name: x0[name] - 0.5 * weight * process.amplitudes(name, t)[0] * slopes[name]
            for name in x0
        }

    return moved


def as_pictures(denoise: Denoiser, process: LevelProcess) -> Denoiser:
    """Estimates in the range of pictures."""
    return lambda x, t: process.multiplied(denoise(x, t))


def as_data(draw: Denoiser, process: LevelProcess) -> Denoiser:
    """Estimates as the process sees them: undoes `as_pictures`."""
    return lambda x, t: process.divided(draw(x, t))


def thresholded(draw: Denoiser, limit: Callable[[tf.Tensor], tf.Tensor]) -> Denoiser:
    """Keep estimates inside the range of pictures."""
    return lambda x, t: {name: limit(value) for name, value in draw(x, t).items()}


def with_known(draw: Denoiser, known: Known) -> Denoiser:
    """Replace the estimate by the known pixels."""

    def denoise(x: Levels, t: tf.Tensor) -> Levels:
        pictures = draw(x, t)
        for name, (picture, mask) in known.items():
            pictures[name] = mask * pictures[name] + (1.0 - mask) * picture
        return pictures

    return denoise

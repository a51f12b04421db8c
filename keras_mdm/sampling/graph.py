"""The network as a sampler sees it, and the traced steps; one graph per plan."""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm.conditioning.conditions import cast_conditions, unconditional
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.diffusion import samplers
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.models import cut
from keras_mdm.models.recompute import no_recompute
from keras_mdm.sampling.denoiser import (
    Amounts,
    SamplingPlan,
    make_denoiser,
    noisy_start,
    run_steps,
    start_noise,
)
from keras_mdm.sampling.guiding import Guidance

# The steps between two updates of the progress bar are at most this share of all steps.
STRETCHES = 25


def network(
    model: Any, weights: str = "ema", stop_at: str | None = None
) -> Callable[[Mapping[str, Any]], dict]:
    """Return the network as a function, with averaged or raw weights.

    Nothing is swapped: the averages are used for the time of the call.

    Args:
        weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`.
        stop_at: the highest level that is computed; all unless given.

    Returns:
        function (inputs) -> outputs by level name, without training behaviour.

    Raises:
        ValueError: if the model has no such weights or level.
    """
    model.averages.check(weights)
    model.refresh(contents=weights != "raw")
    unet = inner_unet(model, stop_at)

    def infer(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        with no_recompute():
            return model.bounded(unet(inputs, training=False))

    if weights == "raw":
        return infer

    def averaged(inputs):
        with model.averages.substituted(weights):
            return infer(inputs)

    return averaged


def inner_unet(model: Any, stop_at: str | None) -> Any:
    """The network without the levels above `stop_at`; kept, past Keras' tracking."""
    if stop_at is None or stop_at == model.unet.levels[-1]:
        return model.unet
    known = model._inner_unets
    if stop_at not in known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `generate` warns in its own words
            known[stop_at] = cut(model.unet, stop_at)
    return known[stop_at]


def bounded(model: Any, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bound the network's outputs smoothly to +-`output_limit`, if there is one."""
    limit = model.output_limit
    if not limit:
        return outputs
    return {
        name: limit * tf.tanh(tf.cast(value, tf.float32) / limit) for name, value in outputs.items()
    }


def process_of(model: Any, plan: SamplingPlan) -> LevelProcess:
    return model.process.up_to(plan.stop_at) if plan.stop_at else model.process


def begin(
    model: Any, plan: SamplingPlan, process: LevelProcess, rows: dict, steps: int, first: int
) -> samplers.State:
    """State before step `first`."""
    times = plan.times(process, steps)
    given = rows["seeds"], rows["samples"], rows["noise"], rows["init"]
    return model._graphs.call(
        "start", plan.start(), functools.partial(_start, model), *given, times[first]
    )


def stretches(
    model: Any,
    plan: SamplingPlan,
    guidance: Guidance,
    amounts: Amounts,
    rows: dict,
    state: samplers.State,
    steps: int,
    first: int,
    marks: np.ndarray,
    *,
    each: bool,
    jit_compile: bool,
) -> Iterator[tuple[int, int, samplers.State]]:
    """Take the steps from `first` on; yields (first step, step after the last, state)."""
    stretch = 1 if each else max(1, steps // STRETCHES)
    guided = guidance.steps(plan.times(process_of(model, plan), steps).numpy())
    ends = {*range(first + stretch, steps, stretch), *marks.tolist(), *guided, steps}
    begin = first
    for end in sorted(mark for mark in ends if first < mark <= steps):
        # Steps outside of the interval run in a graph without the other half of guidance.
        inside = guided[0] <= begin < guided[1]
        active = plan if inside else plan.unguided()
        # Another model, to be guided away from, may change as well.
        version = active.weak[0].network_version if active.weak else ""
        state = model._graphs.call(
            f"run{version}",
            active,
            functools.partial(_run, model),
            state,
            rows["conditions"],
            rows["without"] if active.guided else {},
            rows["known"],
            amounts,
            rows["seeds"],
            rows["samples"],
            *(tf.constant(value, tf.int32) for value in (steps, begin, end)),
            jit_compile=jit_compile,
        )
        yield begin, end, state
        begin = end


def _start(
    model: Any,
    plan: SamplingPlan,
    seeds: tf.Tensor,
    samples: tf.Tensor,
    noise: Mapping[str, tf.Tensor],
    init: Mapping[str, tf.Tensor],
    t: tf.Tensor,
) -> samplers.State:
    process = process_of(model, plan)
    x = dict(noise) or start_noise(process, model.unet.spec.out_channels, seeds, samples)
    x = noisy_start(process, init, x, t) if init else x
    return samplers.begin(samplers.get(plan.sampler), x)


def _run(
    model: Any,
    plan: SamplingPlan,
    state: samplers.State,
    conditions: Mapping[str, tf.Tensor],
    without: Mapping[str, tf.Tensor],
    known: Mapping[str, tuple[tf.Tensor, tf.Tensor]],
    amounts: Amounts,
    seeds: tf.Tensor,
    samples: tf.Tensor,
    *bounds: tf.Tensor,
) -> samplers.State:
    return model.sample_stretch(
        plan, state, conditions, amounts, seeds, samples, *bounds, without=without, known=known
    )


def sample_stretch(
    model: Any,
    plan: SamplingPlan,
    state: samplers.State,
    conditions: Mapping[str, tf.Tensor],
    amounts: Amounts,
    seeds: tf.Tensor,
    samples: tf.Tensor,
    steps: tf.Tensor,
    start: tf.Tensor,
    stop: tf.Tensor,
    *,
    without: Mapping[str, tf.Tensor] | None = None,
    known: Mapping[str, tuple[tf.Tensor, tf.Tensor]] | None = None,
) -> samplers.State:
    """Trace steps `start` to `stop`; the body of `generate` and of the exported model.

    Args:
        plan: the static choices.
        state: from `samplers.begin`, or from the steps before.
        conditions: conditions of every row.
        amounts: the continuous choices, see `amounts_of`.
        seeds: `(B,)` int64, as are `samples`.
        samples: see `seeds`.
        steps: scalar int32, as are `start` and `stop`.
        start: see `steps`.
        stop: see `steps`.
        without: conditions to be guided away from; the dropped condition unless given.
        known: see `make_denoiser`.

    Returns:
        The state at the end.
    """
    spec, process = model.unet.spec, process_of(model, plan)
    conditions = cast_conditions(conditions, spec)
    weak, away = None, None
    if plan.guided and plan.weak:
        weaker, weights = plan.weak
        weak = weaker.network(weights, plan.stop_at)
    elif plan.guided:
        away = (
            cast_conditions(without, spec)
            if without
            else unconditional(conditions, model.null_condition)
        )
    inner = {k: v for k, v in conditions.items() if _takes(model, plan, k)}
    denoise = make_denoiser(
        model.network(plan.weights, plan.stop_at),
        process,
        inner,
        None if away is None else {k: v for k, v in away.items() if k in inner},
        amounts["guidance_scale"],
        plan.threshold,
        model.residual_std,
        amounts["shares"],
        weak=weak,
        rescale=amounts["rescale"] if plan.rescaled else None,
        split=plan.split,
        known=known,
        reconstruction=amounts["reconstruction"] if plan.reconstructed else None,
    )
    return run_steps(
        plan,
        process,
        denoise,
        state,
        seeds=seeds,
        samples=samples,
        steps=steps,
        start=start,
        stop=stop,
        eta=amounts["eta"],
    )


def _takes(model: Any, plan: SamplingPlan, condition: str) -> bool:
    """Whether the network of a plan has an input of that name: micro-conditions belong to
    levels."""
    # A picture is a part of every level's input.
    return condition == LOW_RES or condition in inner_unet(model, plan.stop_at).input_names


def comparable(model: Any) -> dict[str, Any]:
    """What two models must share for their outputs to be compared, as plain values."""
    spec, process = model.unet.spec, model.process
    return {
        "levels": model.unet.levels,
        "conditions": (spec.num_classes, spec.text_width, spec.pooled_width),
        "micro_conditions": spec.micro_conditions,
        "channels": (spec.in_channels, spec.out_channels),
        "schedules": {k: v.get_config() for k, v in process.schedules.items()},
        "prediction": process.prediction,
        "signal_scale": dict(process.signal_scale),
        "residual_std": {k: round(float(v), 4) for k, v in model.residual_std.items()},
    }

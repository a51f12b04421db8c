"""The network as a sampler sees it, and its traced steps: one graph per plan."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_mdm.conditioning.conditions import cast_conditions, unconditional
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.diffusion import samplers, thresholding
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.models import cut
from keras_mdm.models.recompute import no_recompute
from keras_mdm.sampling import outer_steps
from keras_mdm.sampling.denoiser import Denoiser, make_denoiser
from keras_mdm.sampling.low_res_noise import add_noise
from keras_mdm.sampling.narrow import Narrow, by_kernel, narrow_weights
from keras_mdm.sampling.plan import Amounts, SamplingPlan
from keras_mdm.sampling.stepping import noisy_start, run_steps, start_noise

if TYPE_CHECKING:
    from keras_mdm.sampling.request import Request

# Number of stretches of steps, or slightly more, each of which updates the progress bar.
STRETCHES = 25


def network(
    model: Any,
    weights: str = "ema",
    stop_at: str | None = None,
    narrow: Mapping[str, tf.Tensor] | None = None,
) -> Callable[[Mapping[str, Any]], dict]:
    """Return the network as a function, with averaged or raw weights.

    No weights are swapped: the averages are used for the duration of the call.

    Args:
        weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`.
        stop_at: the highest level to compute; all levels unless given.
        narrow: kernels to compute with, from `narrow_weights`.

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

    if weights == "raw" and not narrow:
        return infer

    def averaged(inputs):
        with model.averages.substituted(weights, by_kernel(model.unet, narrow or {})):
            return infer(inputs)

    return averaged


def inner_unet(model: Any, stop_at: str | None) -> Any:
    """The network without the levels above `stop_at`; cached, not tracked by Keras."""
    if stop_at is None or stop_at == model.unet.levels[-1]:
        return model.unet
    known = model._inner_unets
    if stop_at not in known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `generate` has its own warning
            known[stop_at] = cut(model.unet, stop_at)
    return known[stop_at]


def bounded(model: Any, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Smoothly bound the network's outputs to +-`output_limit`, if there is one."""
    limit = model.output_limit
    if not limit:
        return outputs
    return {
        name: limit * tf.tanh(tf.cast(value, tf.float32) / limit) for name, value in outputs.items()
    }


def process_of(model: Any, plan: SamplingPlan) -> LevelProcess:
    """The process of the levels that a plan draws."""
    return model.process.up_to(plan.stop_at) if plan.stop_at else model.process


def begin(model: Any, asked: "Request", rows: Mapping[str, Any]) -> samplers.State:
    """The state of some rows before the first step."""
    time = asked.plan.times(asked.process, asked.steps)[asked.first]
    given = {name: rows[name] for name in ("seeds", "samples", "noise", "init")}
    start = functools.partial(_start, model)
    return model._graphs.call("start", asked.plan.start(), start, given, time)


def stretches(
    model: Any,
    asked: "Request",
    rows: Mapping[str, Any],
    state: samplers.State,
    narrow: Narrow,
) -> Iterator[tuple[int, int, samplers.State]]:
    """Take the steps of some rows, with kernels from `narrow_weights`; yield (first step, step
    after the last, state)."""
    plan, steps, first = asked.plan, asked.steps, asked.first
    stretch = 1 if asked.options.callback else max(1, steps // STRETCHES)
    guided = asked.guidance.steps(plan.times(asked.process, steps).numpy())
    ends = {*range(first + stretch, steps, stretch), *asked.marks.tolist(), *guided, steps}
    names = ("conditions", "away", "known", "seeds", "samples")
    given = {name: rows[name] for name in names}
    run = functools.partial(sample_stretch, model)
    begin = first
    for end in sorted(mark for mark in ends if first < mark <= steps):
        # Steps outside the interval run in a graph without the other half of guidance.
        inside = guided[0] <= begin < guided[1]
        active = plan if inside else plan.unguided()
        # A weaker model to guide away from may change as well.
        version = active.autoguidance[0].network_version if active.autoguidance else ""
        state = model._graphs.call(
            f"run{version}",
            active,
            run,
            state,
            given if inside else {**given, "away": {}},
            asked.amounts,
            *(tf.constant(value, tf.int32) for value in (steps, begin, end)),
            fixed=narrow if inside else {**narrow, "weaker": {}},
            jit_compile=asked.options.jit_compile,
        )
        yield begin, end, state
        begin = end


def _start(
    model: Any, plan: SamplingPlan, rows: Mapping[str, Any], time: tf.Tensor
) -> samplers.State:
    process, channels = process_of(model, plan), model.unet.spec.out_channels
    x = dict(rows["noise"]) or start_noise(process, channels, rows["seeds"], rows["samples"])
    x = noisy_start(process, rows["init"], x, time) if rows["init"] else x
    return samplers.begin(samplers.get(plan.sampler), x)


def sample_stretch(
    model: Any,
    plan: SamplingPlan,
    state: samplers.State,
    rows: Mapping[str, Any],
    amounts: Amounts,
    steps: tf.Tensor,
    start: tf.Tensor,
    stop: tf.Tensor,
    narrow: Narrow | None = None,
) -> samplers.State:
    """Trace steps `start` to `stop`; the body of `generate` and of the exported model.

    Args:
        model: a `MatryoshkaDiffusion`.
        plan: the static choices.
        state: from `samplers.begin`, or from the steps before.
        rows: `conditions` of every row, `seeds` and `samples` `(B,)` int64; optionally `away`,
            conditions to guide away from (the dropped condition unless given), and `known`, see
            `make_denoiser`.
        amounts: the continuous choices, see `amounts_of`.
        steps: scalar int32, of the whole grid.
        start: first step.
        stop: the step to stop before.
        narrow: kernels from `narrow_weights`; cast here, before the steps, unless given.

    Returns:
        The state at the end.
    """
    process = process_of(model, plan)
    narrow = narrow_weights(model, plan) if narrow is None else narrow
    take = functools.partial(
        run_steps,
        plan,
        process,
        seeds=rows["seeds"],
        samples=rows["samples"],
        steps=steps,
        eta=amounts["eta"],
    )
    if not plan.tops:
        denoise = _denoiser(model, plan, rows, amounts, narrow)
        return take(denoise, state, start=start, stop=stop)
    known, limit = rows.get("known") or {}, thresholding.get(plan.threshold)

    def up_to(top: str) -> Callable[[samplers.State, tf.Tensor], samplers.State]:
        part = dataclasses.replace(plan, tops=(), stop_at=top)
        computed = process_of(model, part).levels
        denoise = _denoiser(model, part, rows, amounts, narrow)

        def take_one(state: samplers.State, i: tf.Tensor) -> samplers.State:
            whole = denoise
            if computed != process.levels:
                whole = outer_steps.holding(denoise, process, computed, state["x0"], limit, known)
            return take(whole, state, start=i, stop=i + 1)

        return take_one

    return outer_steps.run(
        [up_to(top) for top in plan.tops],
        [amounts["outer_steps"][top] for top in plan.tops[1:]],
        state,
        start,
        stop,
    )


def _denoiser(
    model: Any,
    plan: SamplingPlan,
    rows: Mapping[str, Any],
    amounts: Amounts,
    narrow: Narrow,
) -> Denoiser:
    """The denoiser of the levels that a plan computes."""
    spec, process = model.unet.spec, process_of(model, plan)
    given = (amounts["low_res_noise"], rows["seeds"], rows["samples"])
    conditions = add_noise(model, cast_conditions(rows["conditions"], spec), *given)
    weaker, away = None, None
    if plan.autoguidance is not None:
        other, weights = plan.autoguidance
        weaker = other.network(weights, plan.stop_at, narrow["weaker"])
    elif plan.guidance is not None:
        away = (
            add_noise(model, cast_conditions(rows["away"], spec), *given)
            if rows.get("away")
            else unconditional(conditions, model.null_condition)
        )
    inner = {k: v for k, v in conditions.items() if _takes(model, plan, k)}
    known = rows.get("known") or {}
    return make_denoiser(
        model.network(plan.weights, plan.stop_at, narrow["network"]),
        process,
        plan,
        amounts,
        inner,
        away=None if away is None else {k: v for k, v in away.items() if k in inner},
        weaker=weaker,
        residual_std=model.residual_std,
        known={name: value for name, value in known.items() if name in process.levels},
    )


def _takes(model: Any, plan: SamplingPlan, condition: str) -> bool:
    """Whether the network of a plan has an input of that name, as micro-conditions vary by
    level."""
    # The low-resolution picture is part of every level's input.
    return condition == LOW_RES or condition in inner_unet(model, plan.stop_at).input_names


def comparable(model: Any) -> dict[str, Any]:
    """What must be equal in two models for their outputs to be comparable, as plain values."""
    spec, process = model.unet.spec, model.process
    return {
        "levels": model.unet.levels,
        "conditions": (spec.num_classes, spec.text_width, spec.pooled_width),
        "micro_conditions": spec.micro_conditions,
        "channels": (spec.in_channels, spec.out_channels),
        "learned_deviation": tuple(
            getattr(level, "learned_deviation", False) for level in spec.levels
        ),
        "schedules": {k: v.get_config() for k, v in process.schedules.items()},
        "prediction": process.prediction,
        "signal_scale": dict(process.signal_scale),
        "residual_std": {k: round(float(v), 4) for k, v in model.residual_std.items()},
    }

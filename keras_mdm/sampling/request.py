"""From the options of `generate` to a request, checked before any work starts."""

import dataclasses
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning import nulls
from keras_mdm.diffusion import samplers, thresholding
from keras_mdm.diffusion.joint_process import MOST_LEFT, LevelProcess
from keras_mdm.finite import check_weights
from keras_mdm.models.nested_unet import check_nested
from keras_mdm.sampling import defaults, graph, guiding, outer_steps, starting
from keras_mdm.sampling.low_res_noise import check_noise_level
from keras_mdm.sampling.options import Options
from keras_mdm.sampling.plan import Amounts, SamplingPlan, amounts_of
from keras_mdm.sampling.stepping import level_shapes

OUTPUTS = ("uint8", "float32")


@dataclasses.dataclass(frozen=True)
class Request:
    """Pictures to draw.

    Args:
        options: the options of `generate`.
        plan: the static choices.
        amounts: the continuous choices.
        guidance: how strongly and when sampling is guided.
        process: the process of the levels to draw.
        steps: number of steps of the whole grid.
        first: the first step to take.
        marks: steps after which estimates are kept.
        count: number of pictures.
        rows: data of every picture, by name: `conditions`, conditions to guide `away` from,
            `seeds`, `samples`, `noise`, `init` and `known`; nested dicts of arrays.
    """

    options: Options
    plan: SamplingPlan
    amounts: Amounts
    guidance: guiding.Guidance
    process: LevelProcess
    steps: int
    first: int
    marks: np.ndarray
    count: int
    rows: dict[str, Any]


def resolve(model: Any, options: Options) -> Request:
    """Check the options of `generate`, and translate them for the sampler.

    Raises:
        ValueError: as `generate`.
    """
    options = defaults.filled(model, options)
    named = defaults.PRESETS[checks.one_of("sampling", options.sampling, tuple(defaults.PRESETS))]
    steps = _check_steps(model, named["steps"] if options.steps is None else options.steps)
    copies = checks.integer("num_images_per_prompt", options.num_images_per_prompt, minimum=1)
    _check_output(options)
    guidance = guiding.resolve(model, options)
    sampler = options.sampler or named["sampler"]
    plan = _plan(model, options, guidance, sampler)
    counts = outer_steps.resolve(model, options.outer_steps, steps, plan.stop_at)
    amounts = amounts_of(
        model.unet.levels,
        guidance_scale=guidance.scale,
        shares=guidance.shares,
        rescale=guidance.rescale,
        reconstruction=guidance.reconstruction,
        eta=options.eta,
        low_res_noise=check_noise_level(model, options.low_res_noise),
    )
    process = graph.process_of(model, plan)
    plan = dataclasses.replace(plan, tops=outer_steps.tops_of(process.levels, counts))
    if not options.dry_run:
        model.check_ready()
        _refresh(model, options.weights)
        if plan.autoguidance is not None:
            _refresh(*plan.autoguidance)
    count, conditions = model.conditions_for(
        options.prompts, options.labels, options.num_images, options.micro, options.low_res
    )
    away = _away(model, options, guidance, count, conditions)
    nulls.warn_of_untrained(
        model, guidance.scale, conditions, None if guidance.autoguidance else away
    )
    if copies > 1:
        conditions, away = tf.nest.map_structure(
            lambda value: np.repeat(np.asarray(value), copies, axis=0), (conditions, away)
        )
        count *= copies
    seeds, samples = starting.seeds_of(options.seed, count)
    first, rows = _start_rows(model, process, options, count, steps)
    if first == 0:
        _check_start(process, plan, steps)
    # The detail of a picture to change would be lost before the first step that computes its level.
    full = first if rows["init"] else None
    amounts["outer_steps"] = outer_steps.due(counts, steps, full)
    marks = np.round(np.linspace(first, steps, options.return_steps + 1)).astype(int)[1:]
    rows |= {"conditions": conditions, "away": away, "seeds": seeds, "samples": samples}
    return Request(options, plan, amounts, guidance, process, steps, first, marks, count, rows)


def _check_output(options: Options) -> None:
    checks.integer("batch_size", options.batch_size, minimum=1)
    checks.integer("return_steps", options.return_steps, minimum=0)
    checks.one_of("jit_compile", options.jit_compile, (False, True))
    checks.one_of("output", options.output, OUTPUTS)
    if options.callback is not None and not callable(options.callback):
        raise checks.error(
            "`callback` must be a function of (steps done, steps, estimates)",
            fix="pass one, or leave it out",
            callback=options.callback,
        )


def _plan(model: Any, options: Options, guidance: guiding.Guidance, sampler: Any) -> SamplingPlan:
    samplers.get(sampler, eta=options.eta)  # raises if out of range
    plan = SamplingPlan(
        sampler=sampler,
        renewed=options.eta > 0.0,
        grid=options.grid,
        threshold=_threshold_of(model, options.sampling)
        if options.threshold is None
        else options.threshold,
        guidance=options.guidance,
        rescaled=guidance.rescale > 0.0,
        split=guidance.split,
        autoguidance=guidance.autoguidance,
        weights=model.averages.check(options.weights),
        stop_at=_check_stop_at(model, options.stop_at),
        reconstruction=guidance.reconstruction > 0.0,
    ).check()
    thresholding.check_censored(model.censored, plan.threshold)
    return plan if guidance.scale != 1.0 else plan.unguided()


def _refresh(model: Any, weights: str) -> None:
    known = model._held_still
    if known is not None and weights in known:
        return
    model.refresh(contents=weights != "raw")
    check_weights(model, weights)
    if known is not None:
        known.add(weights)


def _check_steps(model: Any, steps: Any) -> int:
    limit = model.process.schedules[model.unet.levels[0]].num_steps
    if checks.integer("steps", steps, minimum=1) > limit:
        raise checks.error(
            f"`steps` must be at most {limit}, the steps of the training schedule",
            fix=f"pass steps={limit} or fewer",
            steps=steps,
        )
    return int(steps)


def _threshold_of(model: Any, sampling: str) -> Any:
    """The threshold if none is given: the model's, unless `sampling` names a different one."""
    named = defaults.PRESETS[sampling].get("threshold", model.threshold)
    if named != model.threshold:
        raise checks.error(
            f"sampling={sampling!r} has the {named} threshold, but the model has its own: "
            "choose one",
            fix=f"pass threshold={named!r} or threshold={model.threshold!r}",
            sampling=sampling,
            model_threshold=model.threshold,
        )
    return named


def _check_stop_at(model: Any, stop_at: str | None) -> str | None:
    if stop_at is None:
        return None
    checks.one_of("stop_at", stop_at, model.unet.levels)
    if stop_at != model.unet.levels[-1]:
        check_nested(model.unet, "stop_at")
    if not model.unet.runs_alone(stop_at):
        warnings.warn(
            f"the model was trained without mixed resolutions: its level {stop_at!r} never ran "
            "without the features of the levels above, and is likely to be worse without them. "
            "Train with `mixed` for previews",
            stacklevel=4,
        )
    return None if stop_at == model.unet.levels[-1] else stop_at


def _away(
    model: Any, options: Options, guidance: guiding.Guidance, count: int, conditions: dict
) -> dict[str, np.ndarray]:
    """Conditions to guide away from; empty for "no prompt"."""
    if options.negative_prompts is None:
        return {}
    if guidance.autoguidance or guidance.scale == 1.0:
        raise checks.error(
            "negative prompts replace the dropped condition in classifier-free guidance",
            fix="leave them out, or pass a guidance_scale other than 1 and no autoguidance",
            guidance_scale=guidance.scale,
            autoguidance=bool(guidance.autoguidance),
        )
    return model.negative_conditions(options.negative_prompts, count, conditions)


def _start_rows(
    model: Any, process: LevelProcess, options: Options, count: int, steps: int
) -> tuple[int, dict[str, Any]]:
    """The first step to take, what the rows start from, and their known pixels."""
    channels, noise, hold = model.unet.spec.out_channels, options.noise, options.hold
    init_image, strength, mask = options.init_image, options.strength, options.mask
    rows: dict[str, Any] = {"noise": {}, "init": {}, "known": {}}
    if noise is not None:
        starting.check_by_level("noise", noise, model.unet.levels)
        noise = {name: value for name, value in noise.items() if name in process.levels}
        rows["noise"] = starting.check_noise(noise, level_shapes(process, channels), count)
    if (init_image is None) and (strength is not None or mask is not None):
        raise checks.error(
            "`strength` and `mask` need an `init_image` to change",
            fix="pass init_image",
            init_image=None,
        )
    if init_image is not None and hold is not None:
        raise checks.error(
            "`init_image` and `hold` exclude each other",
            fix="leave init_image or hold out",
            hold=sorted(hold),
        )
    if hold is not None:
        rows["known"] = starting.held_levels(
            hold, process, channels, count, model.process, ranged=starting.has_range(model)
        )
    if init_image is None:
        return 0, rows
    if strength is None:
        strength = starting.STRENGTH if mask is None else 1.0
    strength = checks.real("strength", strength, minimum=0.0, maximum=1.0)
    rows["init"] = starting.init_levels(
        "init_image",
        init_image,
        process,
        channels,
        count,
        model.process,
        ranged=starting.has_range(model),
    )
    if mask is not None:
        masks = starting.mask_levels(mask, process, count)
        rows["known"] = {name: (rows["init"][name], masks[name]) for name in masks}
    return steps - round(strength * steps), rows


def _check_start(process: LevelProcess, plan: SamplingPlan, steps: int) -> None:
    """Warn of grids that start from pure noise at a time when some signal should remain."""
    start = float(plan.times(process, steps)[0])
    level, left = process.signal_left(start)
    # When the model was made, it already warned of the signal left at the schedule's end.
    if left > max(MOST_LEFT, 1.01 * process.signal_left()[1]):
        warnings.warn(
            f"{steps} steps of the grid {plan.grid!r} start at time {start:.3f}, where "
            f"level {level} should hold {left:.3f} of the pictures' amplitude, but the "
            'noise holds none. Pass grid="uniform", or more steps',
            stacklevel=4,
        )

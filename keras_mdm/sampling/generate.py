"""`generate`: from prompts, labels or tensors to pictures at every level."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_mdm import checks
from keras_mdm.conditioning import nulls
from keras_mdm.conditioning.conditions import condition_names
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.diffusion import samplers
from keras_mdm.diffusion.joint_process import MOST_LEFT, LevelProcess
from keras_mdm.finite import check_weights
from keras_mdm.sampling import graph, guiding, starting
from keras_mdm.sampling.denoiser import (
    SamplingPlan,
    amounts_of,
    level_shapes,
    start_noise,
    to_uint8,
)

# Keyword defaults by name of a way of sampling.
SAMPLING = {
    "default": {"steps": 50, "sampler": "ddim"},
    # Appendix C: 250 steps of standard DDPM sampling, dynamic thresholding.
    "paper": {"steps": 250, "sampler": "ddpm", "threshold": "dynamic"},
}
OUTPUTS = ("uint8", "float32")


def generate(
    model: Any,
    prompts: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    labels: Sequence[int] | None = None,
    num_images: int | None = None,
    num_images_per_prompt: int = 1,
    micro: Mapping[str, Any] | None = None,
    low_res: Any = None,
    sampling: str = "default",
    steps: int | None = None,
    sampler: str | None = None,
    eta: float = 0.0,
    grid: str = "uniform",
    threshold: str | None = None,
    guidance_scale: float | Mapping[str, float] | None = None,
    negative_prompts: str | Sequence[str] | Mapping[str, Any] | None = None,
    guidance_interval: Sequence[float] | None = None,
    guidance_rescale: float = 0.0,
    autoguidance: Any = None,
    split_guidance: bool = False,
    reconstruction: float = 0.0,
    seed: int | Sequence[int] = 0,
    noise: Mapping[str, Any] | None = None,
    init_image: Any = None,
    strength: float | None = None,
    mask: Any = None,
    hold: Mapping[str, Any] | None = None,
    stop_at: str | None = None,
    weights: str = "ema",
    batch_size: int = 32,
    jit_compile: bool = False,
    output: str = "uint8",
    return_steps: int = 0,
    callback: Callable[[int, int, dict], None] | None = None,
    progress: bool = True,
    dry_run: bool = False,
) -> Any:
    """Draw pictures or clips at all levels together.

    Args:
        prompts: texts, one picture each; or a dict of tensors with the conditions of the
            network (`text`, `text_mask`, `pooled`, `label`, micro-conditions), where `prompts`
            stands for texts to encode.
        labels: classes, one picture each; -1 for none. May go with prompts.
        num_images: how many pictures to draw without any condition.
        num_images_per_prompt: pictures drawn of every prompt, label or row, one after the other
            in the result.
        micro: micro-conditions by name, a number or one per prompt; the network's default
            unless given.
        low_res: pictures that a network with more in_channels than out_channels sees beside
            what it draws, one each: an upsampler those that it enlarges. `(B, h, w, C)`, or
            `(B, t, h, w, C)` for clips; uint8 or float in [-1, 1], of any size.
        sampling: `"default"` (DDIM, 50 steps) or `"paper"` (DDPM, 250 steps, dynamic
            threshold): what holds for `steps`, `sampler` and `threshold` unless given.
        steps: number of steps, at most that of the training schedule.
        sampler: `"ddim"`, `"ddpm"`, `"euler"`, `"euler_ancestral"`, `"heun"`, `"dpmpp_2m"`,
            `"dpmpp_2m_sde"` or `"unipc"`; Heun evaluates the network twice per step.
        eta: share of fresh noise of DDIM.
        grid: `"uniform"`, `"release"`, `"logsnr"` or `"karras"`, see `time_grid`.
        threshold: `"dynamic"`, `"dynamic_if"`, `"static"` or `"none"`; the model's own unless
            given. To be given where `sampling` names another one than the model's.
        guidance_scale: w of classifier-free guidance; 1 is the conditional model, 0 the
            unconditional one. 4 unless given (2 with `autoguidance`, and 1 for a model that was
            trained without dropping its conditions, for which more is warned of). A dict gives
            every level its own, 1 for levels that are missing; a number is spread by the
            model's `guidance_shares`.
        negative_prompts: what to guide away from instead of "no prompt": one text for all
            pictures, one per prompt, or a dict as for `prompts`.
        guidance_interval: (lowest, highest) time, 0 clean and 1 noise: only steps that begin
            inside are guided; the others cost half.
        guidance_rescale: share in [0, 1] of the conditional output's standard deviation that
            the guided one gets back.
        autoguidance: guide away from a weaker network under the same conditions: other weights
            of this model, such as `"raw"` or `"ema_0.05"`, a weaker `MatryoshkaDiffusion`, or a
            pair of it and the name of its weights.
        split_guidance: compute the two halves of guidance one after the other, in half the
            memory.
        reconstruction: weight of reconstruction guidance, with a mask or `hold`: moves what is
            drawn to where the network itself finds what is known, so that it follows from it.
            0 is off. It takes a gradient through the network at every step.
        seed: a number: equal seeds give equal pictures, and picture i does not depend on the
            others. Or one per picture: each gives the first picture of that seed.
        noise: what to start from instead of the seed's noise, `(B, [T,] H, W, C)` by level
            name, see `noise_for` and `noise_between`.
        init_image: pictures of the highest level to be changed, one or one per picture; uint8
            or float in [-1, 1], resized to the level (by D^r from the size of one above).
        strength: how far back to noise an `init_image` is taken, in [0, 1]: share of the steps
            that is done. 0.7 unless given, 1 with a mask.
        mask: where `init_image` is drawn anew (not 0) and kept (0), in the size of the highest
            level. Put the picture on a larger canvas to draw what is around it.
        hold: pictures by level name that lower levels are held to, while the higher ones are
            drawn: super-resolution.
        stop_at: the highest level that is drawn; those above are not computed. Only for models
            trained with mixed resolutions, see `cut`.
        weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`.
        batch_size: pictures drawn at a time. Fewer are filled up to one of a few sizes, at
            least two, so that a picture comes from the same kernels in any batch.
        jit_compile: compile the steps with XLA, anew for every number of rows, of text tokens
            and of steps.
        output: `"uint8"`, or `"float32"` as the sampler left them, not clipped.
        return_steps: this many estimates on the way are returned as well.
        callback: function (steps done, steps, estimates) called after every step of every
            batch; the estimates are uint8 `(B, [T,] H, W, C)` by level name.
        progress: show a progress bar.
        dry_run: check all arguments and draw nothing. The weights need no values: what a
            training draws on its way can be checked before it begins.

    Returns:
        dict by level name of uint8 `(B, H, W, C)`, or `(B, T, H, W, C)` for clips; empty with
        `dry_run`. With `return_steps` S a pair of it and the estimates,
        `(S, B, [T,] H, W, C)` by level name, the last one being the picture.

    Raises:
        ValueError: if an argument is out of range, a condition is missing or does not fit, or
            conditions, noise or weights are not finite.

    Example:

    >>> images = model.generate(["a red apple"], steps=50, guidance_scale=4.0, seed=0)
    >>> images["64"].shape
    (1, 64, 64, 3)

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix C; Ho and Salimans 2022 (arXiv
    2207.12598); Kynkaanniemi et al. 2024 (arXiv 2404.07724) for the interval.
    """
    defaults = SAMPLING[checks.one_of("sampling", sampling, tuple(SAMPLING))]
    steps = _check_steps(model, defaults["steps"] if steps is None else steps)
    copies = checks.integer("num_images_per_prompt", num_images_per_prompt, minimum=1)
    batch_size = checks.integer("batch_size", batch_size, minimum=1)
    return_steps = checks.integer("return_steps", return_steps, minimum=0)
    checks.one_of("jit_compile", jit_compile, (False, True))
    checks.one_of("output", output, OUTPUTS)
    if callback is not None and not callable(callback):
        raise checks.error(
            "`callback` must be a function of (steps done, steps, estimates)",
            fix="pass one, or leave it out",
            callback=callback,
        )
    guidance = guiding.resolve(
        model,
        guidance_scale,
        interval=guidance_interval,
        rescale=guidance_rescale,
        autoguidance=autoguidance,
        split=split_guidance,
        conditional=any(name != LOW_RES for name in condition_names(model.unet.spec)),
        negative=negative_prompts is not None,
        reconstruction=reconstruction,
        anything_known=mask is not None or hold is not None,
    )
    sampler = sampler or defaults["sampler"]
    samplers.get(sampler, eta=eta)  # raises for what is out of range
    plan = SamplingPlan(
        sampler=sampler,
        renewed=eta > 0.0,
        grid=grid,
        threshold=_threshold_of(model, sampling) if threshold is None else threshold,
        guided=guidance.scale != 1.0,
        weights=model.averages.check(weights),
        rescaled=guidance.rescale > 0.0,
        split=guidance.split,
        weak=guidance.weak,
        stop_at=_check_stop_at(model, stop_at),
        reconstructed=guidance.reconstruction > 0.0,
    ).check()
    plan = plan if plan.guided else plan.unguided()
    amounts = amounts_of(
        model.unet.levels,
        guidance_scale=guidance.scale,
        shares=guidance.shares,
        rescale=guidance.rescale,
        reconstruction=guidance.reconstruction,
        eta=eta,
    )
    process = graph.process_of(model, plan)
    if not dry_run:
        model.check_ready()
        model.refresh(contents=weights != "raw")
        check_weights(model, weights)
        if plan.weak is not None:
            weaker, name = plan.weak
            weaker.refresh(contents=name != "raw")
            check_weights(weaker, name)
    count, conditions = model.conditions_for(prompts, labels, num_images, micro, low_res)
    without = _negative(model, negative_prompts, guidance, count, conditions)
    away = None if guidance.weak else without
    nulls.warn_of_untrained(model, guidance.scale, conditions, away)
    if copies > 1:
        repeat = lambda value: np.repeat(np.asarray(value), copies, axis=0)  # noqa: E731
        conditions, without = tf.nest.map_structure(repeat, (conditions, without))
        count *= copies
    seeds, samples = starting.seeds_of(seed, count)
    first, rows = _start_rows(model, process, count, steps, noise, init_image, strength, mask, hold)
    if first == 0:
        _check_start(process, plan, steps)
    if dry_run:
        return {}
    rows |= {"conditions": conditions, "without": without, "seeds": seeds, "samples": samples}
    marks = np.round(np.linspace(first, steps, return_steps + 1)).astype(int)[1:]
    pieces, kept = [], []
    batches = list(_batches(count, batch_size))
    with tqdm(
        total=(steps - first) * len(batches),
        desc="sampling",
        unit="step",
        disable=None if progress else True,  # None: only on a terminal
    ) as bar:
        for begin, end, size in batches:
            chosen = np.minimum(np.arange(begin, begin + size), end - 1)
            part = tf.nest.map_structure(
                lambda value, chosen=chosen: tf.convert_to_tensor(np.asarray(value)[chosen]),
                rows,
            )
            state, estimates = graph.begin(model, plan, process, part, steps, first), []
            stretches = graph.stretches(
                model,
                plan,
                guidance,
                amounts,
                part,
                state,
                steps,
                first,
                marks,
                each=bool(callback),
                jit_compile=jit_compile,
            )
            for begun, done, state in stretches:  # noqa: B020
                bar.update(done - begun)
                if callback is None and done not in marks:
                    continue
                found = state["x"] if done == steps else state["x0"]
                seen = _rows(to_uint8(process.multiplied(found)), end - begin)
                estimates += [seen] * int(np.sum(marks == done))
                if callback:
                    callback(done, steps, seen)
            x = process.multiplied(state["x"])
            if return_steps and not estimates:  # strength 0: there was no step
                estimates = [_rows(to_uint8(x), end - begin)] * return_steps
            pieces.append(_rows(to_uint8(x) if output == "uint8" else x, end - begin))
            kept.append(_stacked(estimates))
    images = _joined(pieces, axis=0)
    return (images, _joined(kept, axis=1)) if return_steps else images


def noise_for(model: Any, seed: int | Sequence[int], num_images: int) -> dict[str, np.ndarray]:
    """The noise that `generate` starts from, to be changed and passed as `noise`.

    Args:
        seed: as in `generate`.
        num_images: number of pictures.

    Returns:
        dict by level name of `(B, [T,] H, W, C)` float32.
    """
    count = checks.integer("num_images", num_images, minimum=1)
    rows = starting.seeds_of(seed, count)
    found = start_noise(model.process, model.unet.spec.out_channels, *map(tf.constant, rows))
    return {name: value.numpy() for name, value in found.items()}


def noise_between(
    model: Any, first_seed: int, second_seed: int, num_images: int
) -> dict[str, np.ndarray]:
    """Noise on the way from one seed to another, ends included: pictures that blend.

    Args:
        first_seed: seed of the first picture.
        second_seed: seed of the last picture.
        num_images: number of pictures, at least two.

    Returns:
        dict by level name of `(B, [T,] H, W, C)` float32, to be passed as `noise`.

    Example:

    >>> noise = model.noise_between(0, 1, num_images=8)
    >>> images = model.generate(["a red apple"] * 8, noise=noise)
    """
    count = checks.integer("num_images", num_images, minimum=2)
    ends = model.noise_for([first_seed, second_seed], 2)
    weight = tf.linspace(0.0, 1.0, count)
    return {
        name: starting.spherical(tf.constant(a), tf.constant(b), weight).numpy()
        for name, (a, b) in ends.items()
    }


# Arguments


def _check_steps(model: Any, steps: Any) -> int:
    limit = model.process.schedules[model.unet.levels[0]].num_steps
    if checks.integer("steps", steps, minimum=1) > limit:
        raise checks.error(
            f"`steps` must be at most {limit}, the steps of the training schedule",
            fix=f"pass steps={limit} or fewer",
            steps=steps,
        )
    return int(steps)


def _threshold_of(model: Any, sampling: str) -> str:
    """The threshold where none is given: the model's, which a way of sampling may name too."""
    named = SAMPLING[sampling].get("threshold", model.threshold)
    if named != model.threshold:
        raise checks.error(
            f"sampling={sampling!r} has the {named} threshold, and the model its own: which of "
            "the two must be said",
            fix=f"pass threshold={named!r} or threshold={model.threshold!r}",
            sampling=sampling,
            model_threshold=model.threshold,
        )
    return named


def _check_stop_at(model: Any, stop_at: str | None) -> str | None:
    if stop_at is None:
        return None
    checks.one_of("stop_at", stop_at, model.unet.levels)
    if not model.unet.runs_alone(stop_at):
        warnings.warn(
            f"the model was trained without mixed resolutions: its level {stop_at!r} never ran "
            "without the features of the levels above, and is likely to be worse without them. "
            "Train with `mixed` for previews",
            stacklevel=3,
        )
    return None if stop_at == model.unet.levels[-1] else stop_at


def _negative(
    model: Any, negative: Any, guidance: guiding.Guidance, count: int, conditions: dict
) -> dict[str, np.ndarray]:
    if negative is None:
        return {}
    if guidance.weak or guidance.scale == 1.0:
        raise checks.error(
            "negative prompts take the place of the dropped condition in classifier-free guidance",
            fix="leave them out, or pass a guidance_scale other than 1 and no autoguidance",
            guidance_scale=guidance.scale,
            autoguidance=bool(guidance.weak),
        )
    return model.negative_conditions(negative, count, conditions)


def _start_rows(
    model: Any,
    process: LevelProcess,
    count: int,
    steps: int,
    noise: Any,
    init_image: Any,
    strength: float | None,
    mask: Any,
    hold: Any,
) -> tuple[int, dict[str, Any]]:
    """First step to take, and what the rows start from and are held to."""
    channels = model.unet.spec.out_channels
    rows: dict[str, Any] = {"noise": {}, "init": {}, "known": {}}
    if noise is not None:
        starting.check_by_level("noise", noise, model.unet.levels)
        noise = {name: value for name, value in noise.items() if name in process.levels}
        rows["noise"] = starting.check_noise(noise, level_shapes(process, channels), count)
    if (init_image is None) and (strength is not None or mask is not None):
        raise checks.error(
            "`strength` and `mask` need a picture to change",
            fix="pass init_image",
            init_image=None,
        )
    if init_image is not None and hold is not None:
        raise checks.error(
            "a picture is either changed or lower levels are held",
            fix="leave init_image or hold out",
            hold=sorted(hold),
        )
    if hold is not None:
        rows["known"] = starting.held_levels(hold, process, channels, count, model.process)
    if init_image is None:
        return 0, rows
    if strength is None:
        strength = starting.STRENGTH if mask is None else 1.0
    strength = checks.real("strength", strength, minimum=0.0, maximum=1.0)
    rows["init"] = starting.init_levels(
        "init_image", init_image, process, channels, count, model.process
    )
    if mask is not None:
        masks = starting.mask_levels(mask, process, count)
        rows["known"] = {name: (rows["init"][name], masks[name]) for name in masks}
    return steps - round(strength * steps), rows


def _check_start(process: LevelProcess, plan: SamplingPlan, steps: int) -> None:
    """Warn of grids that start from pure noise where it should not be pure."""
    start = float(plan.times(process, steps)[0])
    level, left = process.signal_left(start)
    # What the schedule leaves at its end was said when the model was made.
    if left > max(MOST_LEFT, 1.01 * process.signal_left()[1]):
        warnings.warn(
            f"{steps} steps of the grid {plan.grid!r} start at the time {start:.3f}, where level "
            f"{level} should hold {left:.3f} of the pictures' amplitude and the noise holds none. "
            'Pass grid="uniform", or more steps',
            stacklevel=3,
        )


def _batches(count: int, batch_size: int) -> Iterator[tuple[int, int, int]]:
    """(first row, row after the last, rows computed) of every batch."""
    for begin in range(0, count, batch_size):
        end = min(begin + batch_size, count)
        yield begin, end, min(_bucket(end - begin), max(batch_size, 2))


def _bucket(rows: int) -> int:
    """The next of 2, 3, 4, 6, 8, 12, 16, 24, ... Never one: a single row takes other kernels."""
    size = 2
    while size < rows:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _rows(values: Mapping[str, tf.Tensor], count: int) -> dict[str, np.ndarray]:
    return {name: value.numpy()[:count] for name, value in values.items()}


def _stacked(estimates: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([one[name] for one in estimates]) for name in (estimates or [{}])[0]}


def _joined(pieces: Sequence[Mapping[str, np.ndarray]], axis: int) -> dict[str, np.ndarray]:
    return {name: np.concatenate([one[name] for one in pieces], axis) for name in pieces[0]}

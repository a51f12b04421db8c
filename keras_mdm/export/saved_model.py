"""A SavedModel with the sampler inside, which runs with TensorFlow alone."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.cascade import Cascade
from keras_mdm.conditioning import nulls
from keras_mdm.conditioning.low_res import (
    LOW_RES,
    LOW_RES_NOISE,
    low_res_channels,
    micro_conditions,
    sees_noise,
)
from keras_mdm.diffusion import samplers, thresholding
from keras_mdm.diffusion.samplers import Sampler
from keras_mdm.files import temporary_directory
from keras_mdm.finite import check_weights
from keras_mdm.latents import Codec, LatentDiffusion
from keras_mdm.latents.codecs import decoded
from keras_mdm.sampling import guidances
from keras_mdm.sampling.low_res_noise import LEAST
from keras_mdm.sampling.outer_steps import Counts, due, tops_of
from keras_mdm.sampling.outer_steps import resolve as resolve_outer_steps
from keras_mdm.sampling.plan import SamplingPlan, amounts_of
from keras_mdm.sampling.stepping import start_noise, to_uint8
from keras_mdm.stages import levels_of, seed_of_stage, stages_of
from keras_mdm.training.assertions import (
    noise_requirement,
    outer_steps_requirement,
    sampling_requirements,
)
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion

# Inputs that are not conditions, one number for all pictures.
SCALARS = ("steps", "guidance_scale", "seed", LOW_RES_NOISE)


def export_saved_model(
    model: MatryoshkaDiffusion | Cascade | LatentDiffusion,
    directory: str | os.PathLike,
    *,
    sampler: str | Sampler = "ddim",
    eta: float = 0.0,
    threshold: str | Callable[[Any], Any] | None = None,
    guidance: str | guidances.Guidance = "classifier_free",
    grid: str = "uniform",
    weights: str = "ema",
    outer_steps: int | Mapping[str, int] | None = None,
) -> Path:
    """Write a model, sampling loop included, as a SavedModel.

    The signature `serving_default` takes the conditions of the network: `text` `(B, L, D)` float32
    with `text_mask` `(B, L)` float32, `pooled` `(B, P)`, or `label` `(B,)` int32, or `num_images`
    for a network without conditions; `low_res` `(B, h, w, C)` uint8 of any size if it sees a
    picture; micro-conditions `(B,)`; and the scalars `steps` int32, `guidance_scale` float32,
    `seed` int64, and `low_res_noise` int32 if the network is told how noisy that picture is. It
    returns uint8 pictures `(B, H, W, C)`, or clips, by level name. Both models of a cascade are in
    it, and take the same steps under the same conditions; of a `LatentDiffusion`, the decoder is in
    it as well. Both halves of the guidance are always computed. Inputs that `generate` would refuse
    fail with `tf.errors.InvalidArgumentError`, also in TensorFlow Serving: steps outside the
    training schedule, a guidance scale, text or pooled vector that is not finite, classes that do
    not exist, different numbers of rows.

    Args:
        model: the model, or a cascade, or a model of codes with its codec.
        directory: where to write; must be empty or not exist.
        sampler: as in `generate`, fixed in the export.
        eta: share of fresh noise in DDIM.
        threshold: threshold of the estimates, as in `generate`; the model's own unless given.
        guidance: as in `generate`.
        grid: kind of the time grid.
        weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`; only these are
            written.
        outer_steps: as in `generate`, fixed in the export, which then needs at least as many
            `steps`. Not for a cascade.

    Returns:
        The directory.

    Raises:
        ValueError: if the directory is not empty, an option is unknown, or the weights are not
            finite.

    Example:

    >>> export_saved_model(model, "export")
    >>> served = tf.saved_model.load("export").signatures["serving_default"]
    >>> served(text=text, text_mask=mask, steps=tf.constant(50),
    ...     guidance_scale=tf.constant(4.0), seed=tf.constant(0, tf.int64))["64"]

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix C.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise checks.error(
            "`directory` must be empty or not exist",
            fix="choose another one, or remove it",
            directory=str(directory),
        )
    samplers.get(sampler, eta=eta)  # raises for values out of range
    counts = _outer_steps(model, outer_steps)
    plans = []
    for stage in stages_of(model):
        conditional = _check(stage, weights)
        plan = SamplingPlan(
            sampler=sampler,
            renewed=eta > 0.0,
            grid=grid,
            threshold=threshold or stage.threshold,
            guidance=guidance,
            weights=weights,
            tops=tops_of(stage.unet.levels, counts),
        ).check()
        thresholding.check_censored(stage.censored, plan.threshold)
        plans.append(plan if conditional else plan.unguided())
    codec = getattr(model, "codec", None)
    getattr(codec, "check_scale", lambda: None)()
    module = _Sampler(stages_of(model), plans, levels_of(model), eta, codec, counts)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Complete or absent: written beside its place, then moved there.
    with temporary_directory(directory) as scratch:
        target = scratch / "model"
        tf.saved_model.save(module, str(target), signatures={"serving_default": module.serve})
        if directory.exists():
            directory.rmdir()
        target.rename(directory)
    return directory


def _check(model: MatryoshkaDiffusion, weights: str) -> bool:
    """Raise unless a model can draw with these weights; return whether it can be guided."""
    model.averages.check(weights)
    model.check_ready()
    model.refresh(contents=weights != "raw")
    check_weights(model, weights)
    conditional = any(name != LOW_RES for name in _condition_specs(model))
    if conditional and not nulls.trained_null(model):
        warnings.warn(
            "the model was trained without dropping its conditions "
            f"(cond_dropout={model.cond_dropout}): call the export with guidance_scale=1",
            stacklevel=3,
        )
    return conditional


def _outer_steps(model: Any, given: Any) -> Counts:
    """Check `outer_steps` for the most steps that the export can take."""
    if given is None:
        return {}
    if isinstance(model, Cascade):
        raise checks.error(
            "`outer_steps` is an option of a single model",
            fix="leave it out, or export both models of the cascade one by one",
            outer_steps=given,
        )
    (stage,) = stages_of(model)
    if isinstance(given, Mapping):  # a model of codes names its levels by the pictures
        checks.known_keys("outer_steps", given, levels_of(model))
        names = dict(zip(levels_of(model), stage.unet.levels, strict=True))
        given = {names[level]: count for level, count in given.items()}
    return resolve_outer_steps(stage, given, _num_steps(stage))


def _condition_specs(model: MatryoshkaDiffusion) -> dict[str, tf.TensorSpec]:
    spec = model.unet.spec
    found = {}
    if spec.text_width:
        found["text"] = tf.TensorSpec((None, None, spec.text_width), tf.float32, name="text")
        found["text_mask"] = tf.TensorSpec((None, None), tf.float32, name="text_mask")
    if spec.pooled_width:
        found["pooled"] = tf.TensorSpec((None, spec.pooled_width), tf.float32, name="pooled")
    if spec.num_classes:
        found["label"] = tf.TensorSpec((None,), tf.int32, name="label")
    channels = low_res_channels(spec)
    if channels:
        # Of any size; for clips one picture, which is held.
        found[LOW_RES] = tf.TensorSpec((None, None, None, channels), tf.uint8, name=LOW_RES)
    for name in micro_conditions(spec):
        found[name] = tf.TensorSpec((None,), tf.float32, name=name)
    return found


class _Sampler(tf.Module):
    """Holds the variables that the traced sampler reads, and the traced sampler."""

    def __init__(
        self,
        stages: Sequence[MatryoshkaDiffusion],
        plans: Sequence[SamplingPlan],
        levels: Sequence[str],
        eta: float,
        codec: Codec | None,
        counts: Counts,
    ):
        super().__init__()
        first, last = stages[0], stages[-1]
        held = []
        for model, plan in zip(stages, plans, strict=True):
            held += model.averages.held(plan.weights)
            held += [*model.residual_std.values(), *model.null_condition.values()]
        held += getattr(codec, "weights", [])
        # Variables that the graph reads must be tracked, or they would not be written.
        self.held = [variable.value for variable in held]
        specs = _condition_specs(first)
        if not specs:
            specs = {"num_images": tf.TensorSpec((), tf.int32, name="num_images")}
        least = min(_num_steps(model) for model in stages)

        def serve(**inputs: Any) -> dict[str, tf.Tensor]:
            needed = list(sampling_requirements(inputs, first.unet.spec, least))
            if counts:
                most = max(count for count in counts.values() if count is not None)
                needed.append(outer_steps_requirement(inputs["steps"], most))
            if LOW_RES_NOISE in inputs:
                needed.append(noise_requirement(inputs[LOW_RES_NOISE], _num_steps(last)))
            with tf.control_dependencies(needed):
                inputs = {name: tf.identity(value) for name, value in inputs.items()}
            scalars = {name: inputs.pop(name) for name in SCALARS if name in inputs}
            count = inputs.pop("num_images", None)
            if count is None:
                count = tf.shape(next(iter(inputs.values())))[0]
            found: dict[str, tf.Tensor] = {}
            for number, (model, plan) in enumerate(zip(stages, plans, strict=True)):
                scalars["seed"] = seed_of_stage(scalars["seed"], number)
                drawn = _drawn(model, plan, eta, inputs, count, scalars, counts)
                if codec is not None:
                    pairs = zip(levels, model.unet.levels, strict=True)
                    return to_uint8({level: decoded(codec, drawn[name]) for level, name in pairs})
                drawn = to_uint8(drawn)
                # The next one enlarges the highest level.
                inputs[LOW_RES] = drawn[model.unet.levels[-1]]
                found = drawn | found
            return {level: found[level] for level in levels}

        scalars = {
            "steps": tf.TensorSpec((), tf.int32, name="steps"),
            "guidance_scale": tf.TensorSpec((), tf.float32, name="guidance_scale"),
            "seed": tf.TensorSpec((), tf.int64, name="seed"),
        }
        if sees_noise(last.unet.spec):
            scalars[LOW_RES_NOISE] = tf.TensorSpec((), tf.int32, name=LOW_RES_NOISE)
        self.serve = tf.function(serve, autograph=False).get_concrete_function(**specs, **scalars)


def _num_steps(model: MatryoshkaDiffusion) -> int:
    return model.process.schedules[model.unet.levels[0]].num_steps


def _drawn(
    model: MatryoshkaDiffusion,
    plan: SamplingPlan,
    eta: float,
    conditions: Mapping[str, tf.Tensor],
    count: tf.Tensor,
    scalars: Mapping[str, tf.Tensor],
    counts: Counts,
) -> dict[str, tf.Tensor]:
    """Trace the sampling of one model; what it draws by level name."""
    steps, samples = scalars["steps"], tf.range(tf.cast(count, tf.int64))
    seeds = tf.fill([count], scalars["seed"])
    x = start_noise(model.process, model.unet.spec.out_channels, seeds, samples)
    state = samplers.begin(samplers.get(plan.sampler), x)
    amounts = amounts_of(
        model.unet.levels,
        guidance_scale=scalars["guidance_scale"],
        shares=model.guidance_shares,
        eta=eta,
        low_res_noise=scalars.get(LOW_RES_NOISE, LEAST),
        outer_steps=due(counts, steps),
    )
    rows = {"conditions": conditions, "seeds": seeds, "samples": samples}
    state = model.sample_stretch(plan, state, rows, amounts, steps, tf.constant(0), steps)
    return dict(model.process.multiplied(state["x"]))

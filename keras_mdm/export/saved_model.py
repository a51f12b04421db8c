"""A SavedModel with the sampler inside, which runs with TensorFlow alone."""

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.cascade import Cascade
from keras_mdm.conditioning import nulls
from keras_mdm.conditioning.conditions import condition_names
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.diffusion import samplers, thresholding
from keras_mdm.diffusion.samplers import Sampler
from keras_mdm.export import described, page, versions, warmup
from keras_mdm.export.drawing import Drawing
from keras_mdm.export.inputs import steps_limit
from keras_mdm.export.module import DEFAULT, SIMPLE, Exported
from keras_mdm.finite import check_weights
from keras_mdm.latents import LatentDiffusion
from keras_mdm.sampling import defaults, guidances, guiding, prompts
from keras_mdm.sampling.outer_steps import Counts, tops_of
from keras_mdm.sampling.outer_steps import resolve as resolve_outer_steps
from keras_mdm.sampling.plan import SamplingPlan
from keras_mdm.stages import levels_of, stages_of
from keras_mdm.training.derived import with_dtype
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion

# What an export may compute in, and the policy of the network.
DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# Options that an export has once for both models of a cascade.
ALIKE = ("eta", "guidance_rescale", "guidance_interval")


def export_saved_model(
    model: MatryoshkaDiffusion | Cascade | LatentDiffusion,
    directory: str | os.PathLike,
    *,
    sampler: str | Sampler | None = None,
    eta: float | None = None,
    threshold: str | Callable[[Any], Any] | None = None,
    guidance: str | guidances.Guidance = "classifier_free",
    grid: str | None = None,
    weights: str = "ema",
    outer_steps: int | Mapping[str, int] | None = None,
    prompt_input: bool | None = None,
    dtype: str | None = None,
    denoiser: bool = False,
) -> Path:
    """Write a model, sampling loop included, as a SavedModel.

    It becomes the next version in the directory, `DIRECTORY/1` at first, as TensorFlow Serving
    wants it; `DIRECTORY/README.md` describes its signatures. The default one takes `prompt` and
    `negative_prompt` as strings if the model's text encoder can be inside (MiniLM, FLAN-T5; loading
    then needs `import tensorflow_text`), else the conditions of the network: `text` `(B, L, D)`
    with `text_mask` `(B, L)`, `pooled` `(B, P)`, `label` `(B,)`; `low_res` `(B, h, w, C)` uint8 of
    any size if it sees a picture; micro-conditions `(B,)`, NaN for the level's default. `steps`,
    `guidance_scale` and `seed` have one value for each picture, which is the first picture of that
    seed. All return uint8 pictures `(B, H, W, C)`, or clips, by level name. See `docs/export.md`
    for the other signatures.

    Inputs that `generate` would refuse fail with `tf.errors.InvalidArgumentError`, also in Serving.
    What is not given here is as in the model's own `sampling`.

    Args:
        model: the model, or a cascade, or a model of codes with its codec.
        directory: where to write; may hold earlier versions, and nothing else.
        sampler: as in `generate`, fixed in the export.
        eta: share of fresh noise in DDIM.
        threshold: threshold of the estimates, as in `generate`; the model's own unless given.
        guidance: as in `generate`.
        grid: kind of the time grid.
        weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`; only these are
            written.
        outer_steps: as in `generate`, fixed in the export, which then needs at least as many
            `steps`. Not for a cascade.
        prompt_input: whether the text encoder is inside. Unless given, it is if it can be, with a
            warning if its files are missing.
        dtype: `"float32"` or `"bfloat16"`, what the network computes in; as it does now unless
            given.
        denoiser: add the signature `denoise`, the network alone. It is a second copy of the
            network's graph, and takes time to load. Not for a cascade.

    Returns:
        The directory of the version.

    Raises:
        ValueError: if the directory holds anything else, an option is unknown, the text encoder
            cannot be inside, or the weights are not finite.

    Example:

    >>> export_saved_model(model, "served")  # "served/1"
    >>> import tensorflow_text
    >>> served = tf.saved_model.load("served/1").signatures["simple"]
    >>> served(prompt=tf.constant(["a red apple"]))["64"]

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix C.
    """
    place = versions.next_of(directory)
    stages = _in_dtype(stages_of(model), dtype)
    options = _filled(
        stages, sampler=sampler, eta=eta, threshold=threshold, grid=grid, outer_steps=outer_steps
    )
    drawing = _drawing(model, stages, options, guidance, weights)
    if denoiser and len(stages) > 1:
        raise checks.error(
            "`denoiser` is an option of a single model",
            fix="leave it out, or export both models of the cascade one by one",
            denoiser=denoiser,
        )
    getattr(drawing.codec, "check_scale", lambda: None)()
    encoder = _encoder(stages[0], prompt_input)
    module = Exported(
        drawing,
        previews=_previews(stages[0], drawing),
        denoiser=checks.one_of("denoiser", denoiser, (False, True)),
        encoder=encoder,
        defaults=_defaults(stages[0], drawing),
    )
    with versions.written(place) as target:
        tf.saved_model.save(module, str(target), signatures=module.graphs)
        asked = {
            k: warmup.example(module.graphs[k], drawing.least_steps) for k in (DEFAULT, SIMPLE)
        }
        warmup.write(target, asked, versions.name_of(directory))
        described.write(target, model, module)
    page.write(directory, model, module, place)
    return place


def _in_dtype(
    stages: tuple[MatryoshkaDiffusion, ...], dtype: str | None
) -> tuple[MatryoshkaDiffusion, ...]:
    if dtype is None:
        return stages
    policy = DTYPES[checks.one_of("dtype", dtype, tuple(DTYPES))]
    return tuple(with_dtype(stage, policy) for stage in stages)


def _filled(stages: tuple[MatryoshkaDiffusion, ...], **given: Any) -> list[dict[str, Any]]:
    """The options of every stage, with its defaults where none are given."""
    found = []
    for stage in stages:
        own = dict(stage.sampling)
        named = defaults.PRESETS[own.get("sampling", "default")]
        if given["sampler"] is not None:
            own.pop("eta", None)
        plain = {"sampler": named["sampler"], "eta": 0.0, "grid": "uniform"}
        plain["threshold"] = stage.threshold
        asked = {name: value for name, value in given.items() if value is not None}
        found.append({"outer_steps": None, **plain, **own, **asked})
    return found


def _drawing(
    model: Any,
    stages: tuple[MatryoshkaDiffusion, ...],
    options: list[dict[str, Any]],
    guidance: Any,
    weights: str,
) -> Drawing:
    """Check all options, and put what is fixed into one record."""
    counts = _outer_steps(model, stages, options)
    plans, shares = [], []
    for stage, own in zip(stages, options, strict=True):
        samplers.get(own["sampler"], eta=own["eta"])  # raises for values out of range
        conditional = _check(stage, weights)
        plan = SamplingPlan(
            sampler=own["sampler"],
            renewed=own["eta"] > 0.0,
            grid=own["grid"],
            threshold=own["threshold"],
            guidance=guidance,
            rescaled=own.get("guidance_rescale", 0.0) > 0.0,
            weights=weights,
            tops=tops_of(stage.unet.levels, counts),
        ).check()
        thresholding.check_censored(stage.censored, plan.threshold)
        plans.append(plan if conditional else plan.unguided())
        scale = own.get("guidance_scale")
        own_shares = stage.guidance_shares
        if isinstance(scale, Mapping):
            _, own_shares = guiding.spread(scale, stage.unet.levels)
        shares.append(own_shares)
    first = options[0]
    _check_alike(stages, options)
    levels = levels_of(model)
    names = [{level: level for level in stage.unet.levels if level in levels} for stage in stages]
    codec = getattr(model, "codec", None)
    if codec is not None:
        names = [dict(zip(stages[0].unet.levels, levels, strict=True))]
    return Drawing(
        stages=stages,
        plans=plans,
        names=names,
        eta=first["eta"],
        rescale=first.get("guidance_rescale", 0.0),
        interval=tuple(first.get("guidance_interval", (0.0, 1.0))),
        shares=shares,
        codec=codec,
        counts=counts,
    )


def _check_alike(stages: tuple[MatryoshkaDiffusion, ...], options: list[dict[str, Any]]) -> None:
    """Raise unless the models of a cascade draw alike in what an export has once for both."""
    own = {name: [each.get(name) for each in options] for name in ALIKE}
    own["steps"] = [defaults.steps_of(stage) for stage in stages]
    own["guidance_scale"] = [_scale(stage) for stage in stages]
    for name, values in own.items():
        if len({str(value) for value in values}) > 1:
            raise checks.error(
                f"both models of a cascade must have the same default of {name!r} to be exported",
                fix="assign the same to `sampling` of both; guidance of 1 if one of them was "
                "trained without dropping its conditions",
                **{f"model_{number}": value for number, value in enumerate(values, start=1)},
            )


def _check(model: MatryoshkaDiffusion, weights: str) -> bool:
    """Raise unless a model can draw with these weights; return whether it can be guided."""
    model.averages.check(weights)
    model.check_ready()
    model.refresh(contents=weights != "raw")
    check_weights(model, weights)
    conditional = any(name != LOW_RES for name in condition_names(model.unet.spec))
    if conditional and not nulls.trained_null(model):
        warnings.warn(
            "the model was trained without dropping its conditions "
            f"(cond_dropout={model.cond_dropout}): call the export with guidance_scale=1",
            stacklevel=4,
        )
    return conditional


def _outer_steps(
    model: Any, stages: tuple[MatryoshkaDiffusion, ...], options: list[dict[str, Any]]
) -> Counts:
    """Check `outer_steps` for the most steps that the export can take."""
    given = [own["outer_steps"] for own in options]
    if all(each is None for each in given):
        return {}
    if len(stages) > 1:
        raise checks.error(
            "`outer_steps` is an option of a single model",
            fix="leave it out, or export both models of the cascade one by one",
            outer_steps=given,
        )
    (stage,), (counts,) = stages, given
    if isinstance(counts, Mapping) and not set(counts) <= set(stage.unet.levels):
        # A model of codes names its levels by the pictures.
        checks.known_keys("outer_steps", counts, levels_of(model))
        names = dict(zip(levels_of(model), stage.unet.levels, strict=True))
        counts = {names[level]: count for level, count in counts.items()}
    return resolve_outer_steps(stage, counts, steps_limit(stage))


def _encoder(model: MatryoshkaDiffusion, wanted: bool | None) -> tf.Module | None:
    """The text encoder as a graph, if it is wanted and can be one."""
    spec = model.unet.spec
    if wanted is False or not spec.text_width or spec.pooled_width:
        if wanted:
            raise checks.error(
                "an export with prompts needs a network with text and without a pooled text",
                fix="leave prompt_input out",
                text_width=spec.text_width,
                pooled_width=spec.pooled_width,
            )
        return None
    from keras_mdm.text import in_graph  # with tensorflow_text

    identity = model.text_encoder_identity or {}
    if identity.get("name") not in in_graph.KINDS:
        if wanted:
            raise checks.error(
                f"the text encoder inside an export must be one of {', '.join(in_graph.KINDS)}",
                fix="leave prompt_input out, and send embeddings",
                text_encoder=identity or None,
            )
        return None
    try:
        return in_graph.in_graph(prompts.encoder_of(model))
    except ValueError as problem:
        if wanted:
            raise
        warnings.warn(
            f"the text encoder is not in the export, which takes embeddings only: {problem}",
            stacklevel=3,
        )
        return None


def _previews(model: MatryoshkaDiffusion, drawing: Drawing) -> tuple[str, ...]:
    """Levels of the first stage that can be drawn without those above; the highest one included if
    it is not all that is drawn."""
    names, levels = drawing.names[0], model.unet.levels
    found = [level for level in levels[:-1] if model.unet.runs_alone(level)]
    top = [levels[-1]] if len(drawing.stages) == 1 else []
    return tuple(names[level] for level in (*found, *top) if level in names)


def _defaults(model: MatryoshkaDiffusion, drawing: Drawing) -> dict[str, Any]:
    """What the simple signature draws with."""
    steps = max(drawing.least_steps, defaults.steps_of(model))
    return {"steps": steps, "guidance_scale": _scale(model)}


def _scale(model: MatryoshkaDiffusion) -> float:
    """The guidance that a model draws with; of several by level, that of which they are shares."""
    scale = guiding.own_scale(model)
    if isinstance(scale, Mapping):
        scale, _ = guiding.spread(scale, model.unet.levels)
    return float(scale)

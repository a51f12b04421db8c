"""What the words of `keras-mdm evaluate` ask for: features, levels, options of `generate`."""

import argparse
from collections.abc import Mapping
from typing import Any

from keras_mdm import checks
from keras_mdm.cli import models
from keras_mdm.stages import levels_of, stages_of


def features_of(name: str) -> Any:
    """The feature network of `--features`."""
    from keras_mdm.evaluation.named import named

    return named(name)


def chosen_levels(wanted: list[str] | None, levels: tuple[str, ...]) -> list[str]:
    """The levels of `--levels`, in the model's order."""
    if wanted is not None:
        for level in wanted:
            checks.one_of("--levels", level, tuple(levels))
    return [level for level in levels if wanted is None or level in wanted]


def samplings(args: argparse.Namespace, model: Any) -> dict[str, dict[str, Any]]:
    """Options of `generate` by the folder of their pictures: one, or one for each scale. What is
    not given is as the model draws by itself."""
    levels = levels_of(model)
    given = sampling_options(args, levels)
    options = {**_own(model, levels, given), **given}
    models.say_sampling(model)
    if not args.sweep:
        return {"": options}
    if args.guidance:
        raise checks.error(
            "--guidance and --sweep exclude each other",
            fix="leave one of them out",
            guidance=args.guidance,
            sweep=args.sweep,
        )
    for scale in args.sweep:
        checks.real("--sweep", scale, minimum=0.0)
    return {f"guidance-{scale:g}": {**options, "guidance_scale": scale} for scale in args.sweep}


def _own(model: Any, levels: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a model of one stage that hold beside what is given, under the names of its
    pictures' levels; those of a cascade stay with its models."""
    if len(stages_of(model)) > 1:
        return {}
    from keras_mdm.sampling import defaults  # with TensorFlow

    (stage,) = stages_of(model)
    names = dict(zip(stage.unet.levels, levels, strict=True))
    found = defaults.beside(stage, sampler=given.get("sampler"), steps=given.get("steps"))
    for option, value in found.items():
        if isinstance(value, dict):
            found[option] = {names[level]: each for level, each in value.items()}
    scale = found.get("guidance_scale")
    if isinstance(scale, dict):
        found["guidance_scale"] = {level: scale.get(level, 1.0) for level in levels}
    return found


def sampling_options(args: argparse.Namespace, levels: tuple[str, ...]) -> dict[str, Any]:
    """Options of `generate` from the command line; those not given are left to it."""
    given = {
        "steps": args.steps,
        "outer_steps": args.outer_steps,
        "sampler": args.sampler,
        "guidance_scale": guidance_of(args.guidance, levels),
        "weights": args.weights,
        "low_res_noise": args.low_res_noise,
    }
    return {key: value for key, value in given.items() if value is not None}


def guidance_of(words: list[str] | None, levels: tuple[str, ...]) -> Any:
    """The guidance of `--guidance`: one scale, or one per level, 1 where none is given; `None`
    without the option.

    Example:

    >>> guidance_of(["16=3"], ("16", "64"))
    {'16': 3.0, '64': 1.0}
    """
    if not words:
        return None
    pairs = [word.rpartition("=") for word in words]
    try:
        scales = {level: float(scale) for level, _, scale in pairs}
    except ValueError as problem:
        raise checks.error(
            "--guidance must be a number, or LEVEL=NUMBER for every level",
            fix=f"pass for example --guidance 3, or --guidance {levels[0]}=3",
            guidance=words,
        ) from problem
    if "" in scales and len(pairs) == 1:
        return scales[""]
    checks.known_keys("--guidance", scales, levels)
    return {level: scales.get(level, 1.0) for level in levels}

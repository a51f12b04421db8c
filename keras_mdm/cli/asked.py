"""What the words of `keras-mdm evaluate` ask for: features, levels, options of `generate`."""

import argparse
import sys
from typing import Any

from keras_mdm import checks


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


def samplings(args: argparse.Namespace, levels: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Options of `generate` by the folder of their pictures: one, or one for each scale. What is
    not given is as the run draws by itself."""
    options = {**_of_run(args.target, levels), **sampling_options(args, levels)}
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


def _of_run(target: str, levels: tuple[str, ...]) -> dict[str, Any]:
    """How a run draws; of options by level those of the levels that the model has."""
    from keras_mdm.runs.loading import recorded_sampling

    found = recorded_sampling(target)
    scale = found.get("guidance_scale")
    if isinstance(scale, dict):
        found["guidance_scale"] = {level: scale.get(level, 1.0) for level in levels}
    outer = found.get("outer_steps")
    if isinstance(outer, dict):
        found["outer_steps"] = {level: outer[level] for level in levels if level in outer}
    if len(levels) == 1:  # of the first phase
        found.pop("outer_steps", None)
    if found:
        said = ", ".join(f"{key} {value}" for key, value in found.items())
        print(f"drawn as the run draws, unless options say otherwise: {said}", file=sys.stderr)
    return found


def sampling_options(args: argparse.Namespace, levels: tuple[str, ...]) -> dict[str, Any]:
    """Options of `generate` from the command line; those not given are left to it."""
    guidance: Any = None
    if args.guidance:
        pairs = [word.rpartition("=") for word in args.guidance]
        try:
            scales = {level: float(scale) for level, _, scale in pairs}
        except ValueError as problem:
            raise checks.error(
                "--guidance must be a number, or LEVEL=NUMBER for every level",
                fix=f"pass for example --guidance 3, or --guidance {levels[0]}=3",
                guidance=args.guidance,
            ) from problem
        if "" in scales and len(pairs) == 1:
            guidance = scales[""]
        else:
            checks.known_keys("--guidance", scales, levels)
            guidance = {level: scales.get(level, 1.0) for level in levels}
    given = {
        "steps": args.steps,
        "outer_steps": args.outer_steps,
        "sampler": args.sampler,
        "guidance_scale": guidance,
        "weights": args.weights,
        "low_res_noise": args.low_res_noise,
    }
    return {key: value for key, value in given.items() if value is not None}

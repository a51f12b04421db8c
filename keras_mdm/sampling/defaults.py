"""How a model draws unless told otherwise: its own defaults of `generate`."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from keras_mdm import checks
from keras_mdm.conditioning.conditions import condition_names
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.diffusion import samplers, thresholding, time_grid
from keras_mdm.sampling import guiding, outer_steps
from keras_mdm.sampling.options import Options

# Keyword defaults by value of `sampling`.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {"steps": 50, "sampler": "ddim"},
    # Appendix C: 250 steps of standard DDPM sampling, dynamic thresholding.
    "paper": {"steps": 250, "sampler": "ddpm", "threshold": "dynamic"},
}
# What holds where neither the caller nor the model says anything.
PLAIN = {"sampling": "default", "eta": 0.0, "grid": "uniform", "guidance_rescale": 0.0}
# Options of `generate` that a model may have defaults of. Those by level are dicts.
BY_LEVEL = ("outer_steps", "guidance_scale")
NAMES: tuple[str, ...] = ("sampling", "steps", "outer_steps", "sampler", "eta", "grid", "threshold")
NAMES += ("guidance_scale", "guidance_interval", "guidance_rescale")


def check(given: Mapping[str, Any] | None, model: Any) -> dict[str, Any]:
    """Return a model's own defaults, checked and copied.

    Args:
        given: options of `generate` by name, out of `NAMES`; plain values that JSON can hold.
        model: the model that is to draw with them.

    Raises:
        ValueError: if an option is unknown, of a wrong type or out of range.
    """
    if given is not None and not isinstance(given, Mapping):
        raise checks.error(
            "`sampling` of a model must be a mapping of options of `generate`",
            fix='pass for example {"steps": 25, "guidance_scale": 3.0}',
            sampling=given,
        )
    found = {name: value for name, value in dict(given or {}).items() if value is not None}
    checks.known_keys("sampling", found, NAMES)
    for name in ("sampling", "sampler", "grid", "threshold"):
        if name in found and not isinstance(found[name], str):
            raise checks.error(
                f"a model's default of {name!r} must be a name, since files hold it",
                fix="pass a name here, and functions to `generate`",
                **{name: found[name]},
            )
    if "sampling" in found:
        checks.one_of("sampling", found["sampling"], tuple(PRESETS))
    steps = checks.integer("steps", _steps(found), minimum=1)
    limit = model.process.schedules[model.unet.levels[0]].num_steps
    if "steps" in found and steps > limit:
        raise checks.error(
            f"`steps` must be at most {limit}, the steps of the training schedule",
            fix=f"pass steps={limit} or fewer",
            steps=steps,
        )
    if "eta" in found:
        found["eta"] = checks.real("eta", found["eta"], minimum=0.0, maximum=1.0)
    if "sampler" in found or "eta" in found:
        samplers.get(found.get("sampler", PRESETS["default"]["sampler"]), eta=found.get("eta", 0.0))
    if "grid" in found:
        time_grid(found["grid"], 1)
    threshold = found.get("threshold", PRESETS[found.get("sampling", "default")].get("threshold"))
    if threshold is not None:
        thresholding.get(threshold)
        thresholding.check_censored(model.censored, threshold)
    if "guidance_interval" in found:
        found["guidance_interval"] = list(guiding.check_interval(found["guidance_interval"]))
    if "guidance_rescale" in found:
        found["guidance_rescale"] = checks.real(
            "guidance_rescale", found["guidance_rescale"], minimum=0.0, maximum=1.0
        )
    _check_scale(found, model)
    if "outer_steps" in found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether levels ran alone is known after training
            outer_steps.resolve(model, found["outer_steps"], steps)
    return {name: _copied(found[name]) for name in NAMES if name in found}


def _check_scale(found: Mapping[str, Any], model: Any) -> None:
    scale = found.get("guidance_scale", 1.0)
    if isinstance(scale, Mapping):
        scale, _ = guiding.spread(scale, model.unet.levels)
    scale = checks.real("guidance_scale", scale, minimum=0.0)
    if scale != 1.0 and set(condition_names(model.unet.spec)) <= {LOW_RES}:
        raise checks.error(
            "a default of guidance needs a conditional network",
            fix="leave guidance_scale out",
            guidance_scale=scale,
        )


def _steps(own: Mapping[str, Any]) -> Any:
    return own.get("steps", PRESETS[own.get("sampling", "default")]["steps"])


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def of_levels(own: Mapping[str, Any], levels: Mapping[str, str]) -> dict[str, Any]:
    """The defaults that are left of a model's in one of some of its levels.

    Args:
        own: the defaults.
        levels: new name of every level that stays, ascending.

    Example:

    >>> of_levels({"steps": 9, "outer_steps": 3}, {"16": "16"})
    {'steps': 9}
    """
    found = dict(own)
    for name in BY_LEVEL:
        if isinstance(found.get(name), Mapping):
            found[name] = {levels[k]: v for k, v in found[name].items() if k in levels}
    if len(levels) == 1 or found.get("outer_steps") == {}:
        found.pop("outer_steps", None)
    return found


def filled(model: Any, options: Options) -> Options:
    """The options with the model's own defaults, then the package's, where none were given.

    A `sampling` that the caller names replaces all defaults of the model.
    """
    own: dict[str, Any] = {}
    if options.sampling is None:
        own = beside(model, sampler=options.sampler, steps=options.steps)
    if options.autoguidance is not None:  # its scale was chosen for another way to guide
        own.pop("guidance_scale", None)
    if options.stop_at == model.unet.levels[0]:
        own.pop("outer_steps", None)
    found = {**PLAIN, **{name: value for name, value in own.items() if value is not None}}
    changes = {
        name: found[name] for name in NAMES if getattr(options, name) is None and name in found
    }
    return dataclasses.replace(options, **changes)


def beside(model: Any, *, sampler: Any = None, steps: Any = None) -> dict[str, Any]:
    """A model's own defaults that fit what is asked for.

    Args:
        model: the model.
        sampler: the sampler that is asked for, `None` for the model's.
        steps: likewise the number of steps.
    """
    own = dict(model.sampling)
    if sampler is not None:  # a share of noise was chosen for one sampler
        own.pop("eta", None)
    if "outer_steps" in own and checks.is_int(steps):  # else the default, or an error later
        counts = own["outer_steps"]
        if isinstance(counts, Mapping):
            own["outer_steps"] = {level: min(count, steps) for level, count in counts.items()}
        else:
            own["outer_steps"] = min(counts, steps)
    return own


def steps_of(model: Any) -> int:
    """The number of steps that a model takes unless told otherwise."""
    return int(_steps(model.sampling))

"""The options of a `MatryoshkaDiffusion`: checked here, written to files and read back.

Files hold the options, not the process that they make, so options must be able to make every
process of a model.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mdm import checks
from keras_mdm.diffusion import losses, schedules, thresholding
from keras_mdm.diffusion.joint_process import MOST_LEFT, LevelProcess
from keras_mdm.diffusion.parameterization import KINDS
from keras_mdm.levels import Size, as_size, sides_of
from keras_mdm.training import functions, usage

# Options that may be functions.
FUNCTIONS = ("level_weights", "loss_weighting", "downsample", "threshold")


def by_level(
    name: str, values: Mapping[str, float] | None, levels: tuple[str, ...], *, minimum: float
) -> dict[str, float]:
    """Return numbers by level name, checked; levels may be missing."""
    checks.known_keys(name, values or {}, levels)
    return {
        level: checks.real(f"{name}[{level!r}]", value, minimum=minimum)
        for level, value in (values or {}).items()
    }


def make_process(
    levels: tuple[str, ...],
    schedule: Any,
    *,
    num_steps: int | None,
    shift_power: float,
    prediction: str,
    residual: Any,
    signal_scale: Mapping[str, float] | None,
    downsample: Any,
    frame: str,
    buckets: Sequence[Size],
) -> LevelProcess:
    """Make the joint process from the options of a model, see `MatryoshkaDiffusion`.

    Raises:
        ValueError: if an option is out of range or two of them contradict each other.
    """
    shift_power = checks.real("shift_power", shift_power, minimum=0.0)
    if isinstance(schedule, Mapping) and shift_power != schedules.SHIFT_POWER:
        raise checks.error(
            "`shift_power` applies to a single schedule; those by level are not shifted further",
            fix='leave shift_power out, and write the shift into a name, as in "cosine-shift4", '
            "or into a record by Schedule.shifted(scale, power)",
            shift_power=shift_power,
            schedule=dict(schedule),
        )
    scale = by_level("signal_scale", signal_scale, levels, minimum=1e-3)
    if scale and residual:
        raise checks.error(
            "the residual output is defined for data that is not divided",
            fix="leave signal_scale or residual out",
            signal_scale=scale,
        )
    process = LevelProcess.create(
        levels,
        schedule,
        num_steps=num_steps,
        shift_power=shift_power,
        prediction=checks.one_of("prediction", prediction, KINDS),
        use_residual=bool(residual),
        signal_scale=scale,
        downsample=downsample,
        frame=frame,
        sizes=tuple(as_size("buckets[]", size) for size in buckets),
    )
    level, left = process.signal_left()
    if left > MOST_LEFT:
        made = process.schedules[level]
        warnings.warn(
            f"the schedule {made.name!r} of {made.num_steps} steps leaves {left:.3f} "
            f"of the pictures' amplitude at its end (level {level}), and sampling starts from "
            "noise without any: brightness and colours are likely to be wrong. Use more steps, "
            "larger ones, or a table whose last entry is below 0.01",
            stacklevel=3,
        )
    return process


def check_process(model: Any, process: LevelProcess) -> None:
    """Raise unless options can make this process, and all else in the model fits it.

    Raises:
        ValueError: naming what differs.
    """
    levels = model.unet.levels
    wrong = {
        "levels": tuple(process.levels) != tuple(levels),
        "schedules": set(process.schedules) != set(levels),
        "signal_scale": not set(process.signal_scale) <= set(levels),
        "prediction": process.prediction not in KINDS,
        # A single level has no deviations.
        "use_residual": (len(levels) > 1 and process.use_residual != bool(model.residual_std))
        or (process.use_residual and bool(process.signal_scale)),
    }
    if any(wrong.values()):
        raise checks.error(
            "the process of a model must be one that options can make for the levels and outputs "
            "of its network",
            fix="make a new model around the network, as in "
            "MatryoshkaDiffusion(model.unet, schedule=...), and give it the averages with "
            "start_from(model)",
            **{name: getattr(process, name) for name, differs in wrong.items() if differs},
        )
    # A mapping that is changed in place escapes the check of the process itself.
    check_weighting(model.loss_weighting, dataclasses.replace(process))


def check_weighting(weighting: Any, process: LevelProcess) -> Any:
    """Return `loss_weighting`, checked; dicts are copied."""
    name, _ = losses.check_weighting(weighting)
    if name == "vdm" and not process.is_shifted:
        raise checks.error(
            'the weights "vdm" are the same at all levels, so schedules must be '
            "shifts of one another",
            fix="choose another loss_weighting, or pass a function (schedule, t, target) -> "
            "weights, which is called with the schedule of every level",
            loss_weighting=weighting,
            schedule={name: made.name for name, made in process.schedules.items()},
        )
    return dict(weighting) if isinstance(weighting, Mapping) else weighting


def check_threshold(threshold: Any) -> Any:
    """Return `threshold`, checked: a name or a function of x0."""
    thresholding.get(threshold)
    return threshold


def get_config(model: Any) -> dict[str, Any]:
    """Everything but the weights; the text encoder is represented by its identity.

    Raises:
        ValueError: if an option is a function that cannot be saved, see the class.
    """
    process, null = model.process, model.null_condition
    return {
        "unet": keras.saving.serialize_keras_object(model.unet),
        **_schedule_config(model),
        "ema_decay": model.ema.decay,
        "ema_warmup": model.ema.warmup,
        "prediction": process.prediction,
        "loss_target": model.loss_target,
        **saved_functions(model),
        "censored": model.censored,
        "times": model.times,
        "frame": process.frame,
        "residual": process.use_residual,
        "guidance_shares": model.guidance_shares,
        "signal_scale": dict(process.signal_scale),
        "output_limit": model.output_limit,
        "null_length": null["text"].shape[0] if "text" in null else None,
        "cond_dropout": model.cond_dropout,
        "null_in_data": model.null_in_data,
        "seed": model.seed,
        "text_encoder": model.text_encoder_identity,
        "divide_targets": process.divide_targets,
        "buckets": [list(sides_of(size)) for size in model.buckets],
        "power_emas": [ema.width for ema in model.power_emas.values()],
        **usage.config(model),
        "name": model.name,
    }


def saved_functions(model: Any) -> dict[str, Any]:
    """Return the options that may be functions, as files hold them.

    Raises:
        ValueError: if one of them is a function that cannot be saved.
    """
    values = {option: getattr(model, option) for option in FUNCTIONS}
    if callable(model.level_weights) and model.level_weights is model.phase_weights:
        values["level_weights"] = {}  # a phase of a run set it, and only the phase keeps it
    return {option: functions.saved(option, value) for option, value in values.items()}


def _schedule_config(model: Any) -> dict[str, Any]:
    """The options that make the current schedules of the process: a single schedule and its shift
    if that is enough, unless the model was made with one for every level."""
    process, power = model.process, model._shift_power
    single = process.schedules[process.levels[0]]
    if power is not None and process.schedules == schedules.of_levels(
        single, process.shapes, power=power
    ):
        return {"schedule": single.get_config(), "shift_power": power}
    config = {level: process.schedules[level].get_config() for level in process.levels}
    return {"schedule": config, "shift_power": schedules.SHIFT_POWER}


def from_config(cls: Any, config: Mapping[str, Any], custom_objects: Any = None) -> Any:
    """Rebuild the model; the weights come from the file."""
    config = dict(config)
    unet = keras.saving.deserialize_keras_object(config.pop("unet"), custom_objects)
    return cls._around(unet, config)


def around(cls: Any, unet: Any, config: Mapping[str, Any]) -> Any:
    """The model of a configuration, around a network."""
    config = dict(config)
    identity = config.pop("text_encoder")
    length = config.pop("null_length")
    starts = config.pop("ema_starts", None)  # of files of earlier versions
    divide_targets = config.pop("divide_targets", True)
    config["schedule"] = schedules.from_config(config["schedule"])
    # Files of earlier versions: only imported models have the table in float32.
    if not isinstance(config["schedule"], Mapping):
        config.setdefault("null_in_data", config["schedule"].single)
    for option in FUNCTIONS:
        if option in config:
            config[option] = functions.restored(option, config[option])
    if length is not None:  # a place for the saved null condition
        config["null_text"] = np.zeros((length, unet.spec.text_width))
    model = cls(unet, **config)
    model._encoder_identity = identity
    if not divide_targets:
        model.process = dataclasses.replace(model.process, divide_targets=False)
    if starts is not None:  # weights that joined in a later phase count their own steps
        model._earlier_starts = [int(start) for start in starts]
    return model

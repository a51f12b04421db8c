"""From the official configuration of a diffusion process to a `MatryoshkaDiffusion`."""

import dataclasses
import os
import warnings
from collections.abc import Mapping
from typing import Any

from keras_mdm import checks
from keras_mdm.diffusion import LevelShape, level_shift, schedules
from keras_mdm.interop.mdm_config import with_text_width
from keras_mdm.interop.mdm_files import DIFFUSION, read_config, read_weights
from keras_mdm.interop.mdm_weights import load_ml_mdm
from keras_mdm.training import MatryoshkaDiffusion

PREDICTIONS = {"DDPM": "eps", "DDIM": "eps", "V_PREDICTION": "v"}
THRESHOLDS = {"CLIP": "static", "DYNAMIC": "dynamic", "DYNAMIC_IF": "dynamic_if", "NONE": "none"}
SCHEDULES = {"DEEPFLOYD": "cosine", "COSINE": "logsnr_cosine", "DDPM": "linear"}

# The official defaults.
SAMPLER_DEFAULTS = {
    "num_diffusion_steps": 32,
    "schedule_type": "DDPM",
    "prediction_type": "DDPM",
    "loss_target_type": None,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "threshold_function": "CLIP",
    "rescale_schedule": 1.0,
    "rescale_signal": None,
    "schedule_shifted": False,
    "schedule_shifted_power": 1,
}
DIFFUSION_DEFAULTS = {
    "model_output_scale": 0,
    "use_vdm_loss_weights": True,
    "use_double_loss": False,
    "multi_res_weights": None,
    "no_use_residual": False,
    "mixed_ratio": None,
}


def load_ml_mdm_diffusion(
    weights: str | os.PathLike | Mapping[str, Any],
    *,
    config: str | os.PathLike | Mapping[str, Any],
    size: int,
    in_channels: int = 3,
    out_channels: int = 3,
    dtype: Any = None,
    text_encoder: Any = None,
    **options: Any,
) -> MatryoshkaDiffusion:
    """Build the diffusion model of an official configuration, ready to sample and fine-tune.

    Schedule, shift, prediction, loss target, level weights and threshold come from the
    configuration's section `diffusion_config`; the averaged weights are the given weights. Other
    arguments are those of `load_ml_mdm`.

    Args:
        config: as in `load_ml_mdm`, with a section `diffusion_config`.
        text_encoder: encodes prompts; its empty prompt becomes the null condition.
        **options: keywords of `MatryoshkaDiffusion` that override the configuration.

    Returns:
        A `MatryoshkaDiffusion`. Compile it to fine-tune it.

    Raises:
        ValueError: if a file cannot be read, the weights do not fit, or the official code could not
            run this configuration.

    Example:

    >>> model = load_ml_mdm_diffusion("vis_model_64x64.pth", config="cc12m_64x64.yaml", size=64)
    >>> model.loss_target
    'eps'
    """
    whole = read_config(config)
    if DIFFUSION not in whole:
        raise checks.error(
            f"the configuration must have a section `{DIFFUSION}`: the network does not determine "
            "schedule and prediction",
            fix="pass the model's YAML file, or load the network with load_ml_mdm",
            sections=sorted(whole),
        )
    nested = isinstance(whole["unet_config"].get("inner_config"), Mapping)
    settings = diffusion_settings(whole[DIFFUSION] or {}, nested=nested)  # before the weights
    if text_encoder is not None:
        _check_width(text_encoder, with_text_width(whole, read_weights(weights)[0]))
    unet = load_ml_mdm(
        weights,
        config=whole,
        size=size,
        in_channels=in_channels,
        out_channels=out_channels,
        dtype=dtype,
    )
    keywords = {**keywords_for(settings, unet.levels), "text_encoder": text_encoder, **options}
    if isinstance(keywords["schedule"], Mapping) and "shift_power" not in options:
        del keywords["shift_power"]  # it belongs to the configuration's schedule
    model = MatryoshkaDiffusion(unet, **keywords)
    if not nested and model.process.signal_scale:
        # As in the official loss of a network without inner levels.
        model.process = dataclasses.replace(model.process, divide_targets=False)
    return model


def _check_width(text_encoder: Any, network: Mapping[str, Any]) -> None:
    width = network.get("conditioning_feature_dim", -1)
    if text_encoder.width != width:
        raise checks.error(
            f"the text encoder must have the width {width}"
            if width > 0
            else "a network without text takes no text encoder",
            fix="use the encoder that the checkpoint was trained with; for the released ones it "
            "is flan-t5-xl, width 2048",
            width=text_encoder.width,
        )


def diffusion_settings(config: Mapping[str, Any], *, nested: bool) -> dict[str, Any]:
    """Check a `diffusion_config` and fill in the official defaults, including the sampler's.

    Args:
        config: the section.
        nested: whether the network has more than one level.

    Returns:
        dict with the keys of `DIFFUSION_DEFAULTS` and `SAMPLER_DEFAULTS`.

    Raises:
        ValueError: if the official code cannot run the configuration.
    """
    sampler = config.get("sampler_config") or {}
    found = {name: config.get(name, default) for name, default in DIFFUSION_DEFAULTS.items()}
    found |= {name: sampler.get(name, default) for name, default in SAMPLER_DEFAULTS.items()}
    found = {
        name: None if value == "None" and name != "threshold_function" else value
        for name, value in found.items()
    }
    kinds = {
        "schedule_type": SCHEDULES,
        "prediction_type": PREDICTIONS,
        "loss_target_type": PREDICTIONS,
        "threshold_function": THRESHOLDS,
    }
    if found["loss_target_type"] is None:
        found["loss_target_type"] = found["prediction_type"]
    for name, kind in kinds.items():
        value = found[name]
        if name == "threshold_function" and value is None:
            value = "NONE"
        value = value.upper() if isinstance(value, str) else value
        found[name] = kind[checks.one_of(name, value, tuple(kind))]
    if (found["rescale_schedule"] or 0) > 1:
        raise checks.error(
            "`rescale_schedule` must be 1: the official code cannot run with more",
            fix="remove the field",
            rescale_schedule=found["rescale_schedule"],
        )
    if nested and not found["no_use_residual"]:
        raise checks.error(
            "a nested model needs `no_use_residual`: the official code cannot run without it",
            fix="add no_use_residual: true to diffusion_config, as in every released file",
            no_use_residual=found["no_use_residual"],
        )
    if nested and found["multi_res_weights"] and not found["use_double_loss"]:
        raise checks.error(
            "`multi_res_weights` needs `use_double_loss`",
            fix="add use_double_loss: true",
            multi_res_weights=found["multi_res_weights"],
        )
    return found


def keywords_for(settings: Mapping[str, Any], levels: tuple[str, ...]) -> dict[str, Any]:
    """Turn the result of `diffusion_settings` into keywords of `MatryoshkaDiffusion`.

    Args:
        settings: from `diffusion_settings`.
        levels: level names, ascending.
    """
    nested = len(levels) > 1
    steps, kind = settings["num_diffusion_steps"], settings["schedule_type"]
    betas = {name: settings[name] for name in ("beta_start", "beta_end")}
    shifted = nested and settings["schedule_shifted"]
    weights = {}
    if nested and settings["multi_res_weights"]:
        given = [float(weight) for weight in str(settings["multi_res_weights"]).split(":")]
        if len(given) != len(levels):
            raise checks.error(
                f"`multi_res_weights` must have one weight per level, {len(levels)}",
                fix="write them highest level first, for example 16:4:1",
                multi_res_weights=settings["multi_res_weights"],
            )
        weights = dict(zip(reversed(levels), given, strict=True))
    elif nested and not settings["use_double_loss"]:
        weights = dict.fromkeys(levels[:-1], 0.0)
    scale = {}
    if nested and not shifted:  # the official code then divides the pictures
        innermost = LevelShape.parse(levels[0])
        scale = {
            level: level_shift(LevelShape.parse(level), innermost)
            for level in levels
            if level != levels[0]
        }
    elif not nested and (settings["rescale_signal"] or 1) != 1:
        scale = {levels[0]: float(settings["rescale_signal"])}
    if nested and settings["mixed_ratio"]:
        warnings.warn(
            f"mixed_ratio={settings['mixed_ratio']!r} is ignored, as it concerns the batches; "
            "mix them with Phase(mixed=...)",
            stacklevel=3,
        )
    return {
        "schedule": schedules.get(kind, steps, **(betas if kind == "linear" else {})).rounded(),
        "shift_power": float(settings["schedule_shifted_power"]) if shifted else 0.0,
        "prediction": settings["prediction_type"],
        "loss_target": settings["loss_target_type"],
        "level_weights": weights,
        "loss_weighting": "vdm" if settings["use_vdm_loss_weights"] else "none",
        "downsample": "area",
        "threshold": settings["threshold_function"],
        "signal_scale": scale,
        "output_limit": 0.0 if nested else abs(float(settings["model_output_scale"] or 0.0)),
        "ema_warmup": False,
        "cond_dropout": 0.0,
        "null_in_data": True,  # captions were dropped when the data was read
    }

"""From the official configuration of a network to a `NestedUNetSpec`."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.models.resolve import resolve
from keras_mdm.models.specs import LevelSpec, NestedUNetSpec

# The official defaults, for fields that are absent from a configuration.
DEFAULTS = {
    "resolution_channels": (128, 256, 256, 512, 1024),
    "num_resnets_per_resolution": 2,
    "attention_levels": (2, 3),
    "num_attention_layers": 1,
    "num_temporal_attention_layers": None,
    "temporal_dim": None,
    "conditioning_feature_dim": -1,
    "conditioning_feature_proj_dim": -1,
    "num_lm_head_layers": 0,
    "masked_cross_attention": 1,
    "micro_conditioning": None,
    "temporal_mode": False,
    "temporal_spatial_ds": False,
    "temporal_positional_encoding": False,
    "skip_mid_blocks": None,  # true around an inner network, false in the innermost one
    "skip_normalization": False,
    "skip_inner_unet_input": False,
    "freeze_inner_unet": False,
}
# The official architectures have up to five.
_MAX_NESTS = 16
BLOCK_DEFAULTS = {"num_groups_norm": 32, "dropout": 0.0, "use_attention_ffn": False}


def spec_from_config(
    config: Mapping[str, Any], *, size: int, in_channels: int = 3, out_channels: int = 3
) -> NestedUNetSpec:
    """Translate the official configuration of a network.

    Args:
        config: mapping with the official field names; `inner_config` holds the next level.
        size: height of one frame at the highest level.
        in_channels: channels of the inputs.
        out_channels: channels of the predictions.

    Returns:
        The network as a `NestedUNetSpec`, levels ascending.

    Raises:
        ValueError: if the official code could not run such a network.

    Example:

    >>> spec = spec_from_config({"resolution_channels": [32, 64], "attention_levels": []}, size=8)
    >>> spec.levels[0].channels
    (32, 64)
    """
    checks.integer("size", size, minimum=2)
    if not isinstance(config, Mapping):
        raise checks.error(
            "`config` must be a mapping with the official field names",
            fix="pass the network's section of the configuration",
            type=type(config).__name__,
        )
    require_nests(config)
    nets = _nets(config)
    text_width = _text_width(nets)
    levels, frames = [], _frames(nets)
    for depth, net in enumerate(nets):
        innermost = depth == len(nets) - 1
        level, size, frames = _level(net, size=size, frames=frames, innermost=innermost)
        levels.append(level)
    inner = nets[-1]
    projection = inner["conditioning_feature_proj_dim"]
    widths = [
        net["temporal_dim"] or 4 * _numbers(net["resolution_channels"])[0] for net in nets[::-1]
    ]
    if len(set(widths)) > 1 and text_width is not None:
        raise checks.error(
            "all levels of a network with text must have the same `temporal_dim`",
            fix="set temporal_dim to the same value in every nested configuration",
            temporal_dim=sorted(set(widths)),
        )
    levels = [
        dataclasses.replace(level, time_width=None if width == widths[0] else width)
        for level, width in zip(levels[::-1], widths, strict=True)
    ]
    return resolve(
        levels,
        text_width=text_width,
        text_projection=projection if projection > 0 else None,
        text_blocks=inner["num_lm_head_layers"],
        time_width=widths[0],
        in_channels=in_channels,
        out_channels=out_channels,
    )


def require_nests(network: Any) -> None:
    """Raise unless the nesting of networks ends.

    Args:
        network: the network's section.

    Raises:
        ValueError: if there are more networks than any model has; YAML references may be endless.
    """
    depth = 0
    while isinstance(network, Mapping):
        depth += 1
        if depth > _MAX_NESTS:
            raise checks.error(
                f"at most {_MAX_NESTS} networks may be nested",
                fix="remove an `inner_config`; it must not contain itself",
                networks=f"{depth} or more",
            )
        network = network.get("inner_config")


def with_text_width(whole: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's section with the width of the text states filled in.

    The official programs overwrite the field with the width of the text encoder that the file
    names; the weights show which width that was.

    Args:
        whole: from `read_config`.
        weights: `{official key: array}`.
    """
    network = dict(whole["unet_config"])
    if len(whole) == 1 or network.get("conditioning_feature_dim", -1) > 0:
        return network
    nests = max((key.count("inner_unet.") for key in weights), default=0)
    for key in ("lm_proj.weight", "cond_emb.weight"):
        shape = np.shape(weights.get("inner_unet." * nests + key, ()))
        if len(shape) == 2:
            network["conditioning_feature_dim"] = shape[1]
            break
    return network


def idle_prefixes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Prefixes of the keys that the official code makes and never uses.

    Args:
        config: the network's section.
    """
    prefixes, prefix = [], ""
    text = config.get("conditioning_feature_dim", -1) > 0
    while isinstance(config.get("inner_config"), Mapping):
        if config.get("interp_conditioning"):
            prefixes += [f"{prefix}interp_layer1.", f"{prefix}interp_layer2."]
        if config.get("skip_mid_blocks") is False:
            prefixes.append(f"{prefix}mid_blocks.")
        if text and config.get("skip_cond_emb") is False:
            prefixes += [f"{prefix}{name}." for name in ("cond_emb", "lm_proj", "lm_head")]
        config = config["inner_config"]
        prefix += "inner_unet."
    return tuple(prefixes)


def _nets(config: Mapping[str, Any]) -> list[dict]:
    """The nested configurations, outermost first, with defaults filled in."""
    nets = []
    while config is not None:
        net = {name: config.get(name, default) for name, default in DEFAULTS.items()}
        # The released files write null as the string "None".
        net = {name: None if value == "None" else value for name, value in net.items()}
        blocks = {**BLOCK_DEFAULTS, **(config.get("resnet_config") or {})}
        net.update({name: blocks[name] for name in BLOCK_DEFAULTS})
        if net["dropout"]:
            warnings.warn(
                f"the configuration has dropout={net['dropout']}; it is ignored, which only "
                "matters in training",
                stacklevel=4,
            )
        if net["freeze_inner_unet"]:
            warnings.warn(
                "freeze_inner_unet is ignored, which only matters in training; freeze levels with "
                "Phase(freeze=[...])",
                stacklevel=4,
            )
        if net["skip_inner_unet_input"]:
            raise checks.error(
                "`skip_inner_unet_input` must be false: the official network cannot run with it",
                fix="remove the field",
                skip_inner_unet_input=True,
            )
        config = config.get("inner_config")
        nets.append(net)
    _check_temporal(nets)
    return nets


def _text_width(nets: list[dict]) -> int | None:
    """Width of the text states; every outer level passes on its own (projected) width."""
    width = nets[0]["conditioning_feature_dim"]
    if width <= 0:
        return None
    for net in nets[:-1]:
        if net["conditioning_feature_proj_dim"] > 0:
            width = net["conditioning_feature_proj_dim"]
    return width


def _check_temporal(nets: list[dict]) -> None:
    """Raise unless the official network's grid of frames matches our frame axis."""
    if nets[-1]["temporal_mode"]:
        raise checks.error(
            "the innermost network must not be temporal: the official code cannot run this",
            fix="set temporal_mode on outer networks only",
            temporal_mode=True,
        )
    side, counts = 1, []
    for net in reversed(nets[:-1]):  # the official code counts sides of its grid of frames
        ratio = 2 ** (len(_numbers(net["resolution_channels"])) - 1)
        along_time = net["temporal_mode"] and not net["temporal_spatial_ds"]
        inside = side
        side *= math.isqrt(ratio) if along_time else ratio
        if net["temporal_mode"]:
            counts.append((side if along_time else inside) ** 2)
        layers = _numbers(net["num_temporal_attention_layers"])
        if net["temporal_spatial_ds"] and any(layers):
            raise checks.error(
                "a level that steps through space cannot have temporal attention: the official "
                "code cannot run this",
                fix="leave num_temporal_attention_layers out",
                num_temporal_attention_layers=layers,
            )
    expected = [
        _frames(nets[index:]) or 1
        for index in reversed(range(len(nets) - 1))
        if nets[index]["temporal_mode"]
    ]
    if counts != expected:
        raise checks.error(
            "temporal levels must have an odd number of resolutions and surround the innermost "
            "network without an image level between: others mix frames with pixels, or cannot run",
            fix="order the levels image, clip, larger clip",
            frames=expected,
            frames_of_the_official_grid=counts,
        )


def _frames(nets: list[dict]) -> int | None:
    """Frames of a clip at the highest level: every temporal transition doubles them."""
    frames = 1
    for net in nets:
        if net["temporal_mode"] and not net["temporal_spatial_ds"]:
            frames *= 2 ** (len(_numbers(net["resolution_channels"])) - 1)
    return frames if frames > 1 else None


def _level(net: dict, *, size: int, frames: int | None, innermost: bool):
    """One level, and the size and number of frames of the level inside it."""
    channels = _numbers(net["resolution_channels"])
    count = len(channels)
    temporal = bool(net["temporal_mode"]) and frames is not None
    along_time = temporal and not net["temporal_spatial_ds"]
    attention = _per_resolution(net["num_attention_layers"], count)
    with_attention = set(_numbers(net["attention_levels"]))
    top = frames if along_time else size
    if top % 2 ** (count - 1):
        raise checks.error(
            f"the level must be divisible by {2 ** (count - 1)}",
            fix="pass the size of one frame at the highest level",
            size=size,
            frames=frames,
        )
    resolutions = tuple(top >> index for index in range(count))
    level = LevelSpec(
        size,
        frames if temporal else None,
        channels=channels,
        blocks=_per_resolution(net["num_resnets_per_resolution"], count),
        attention=tuple(
            layers if index in with_attention else 0 for index, layers in enumerate(attention)
        ),
        temporal_attention=_per_resolution(net["num_temporal_attention_layers"] or 0, count),
        rotary=bool(net["temporal_positional_encoding"]),
        attention_ffn=bool(net["use_attention_ffn"]),
        use_mid_block=innermost and not net["skip_mid_blocks"],
        resolutions=resolutions,
        groups=net["num_groups_norm"],
        normalize_input=not innermost and not net["skip_normalization"],
        tiled_adapters=temporal and (resolutions[-1] if along_time else frames) > 1,
        micro_conditions=_micro_conditions(net["micro_conditioning"]),
        mask_text=bool(net["masked_cross_attention"]),
    )
    if along_time:
        frames = resolutions[-1] if resolutions[-1] > 1 else None
    elif not innermost:
        size = resolutions[-1]
    return level, size, frames


def _numbers(value: Any) -> tuple[int, ...]:
    """Parse a sequence of integers, which may be written as "2,3" or as one number."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = [int(item) for item in value.split(",")]
    return (value,) if checks.is_int(value) else tuple(value)


def _per_resolution(value: Any, count: int) -> tuple[int, ...]:
    numbers = _numbers(value)
    return numbers * count if len(numbers) == 1 else numbers


def _micro_conditions(text: str | None) -> dict[str, float]:
    """Parse "scale:64,watermark_score:0.5"."""
    pairs = [item.split(":") for item in (text or "").split(",") if item]
    return {name: float(default) for name, default in pairs}

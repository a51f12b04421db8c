"""From the official configuration of a network to a `NestedUNetSpec`."""

import warnings
from collections.abc import Mapping
from typing import Any

from keras_mdm import checks
from keras_mdm.models.resolve import resolve
from keras_mdm.models.specs import LevelSpec, NestedUNetSpec

# The official defaults; a field that is absent from a configuration has this value.
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
}
BLOCK_DEFAULTS = {"num_groups_norm": 32, "dropout": 0.0, "use_attention_ffn": False}


def spec_from_config(
    config: Mapping[str, Any], *, size: int, in_channels: int = 3, out_channels: int = 3
) -> NestedUNetSpec:
    """Translate an official network configuration.

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
    nets = _nets(config)
    text_width = _text_width(nets)
    levels, frames = [], _frames(nets)
    for depth, net in enumerate(nets):
        innermost = depth == len(nets) - 1
        level, size, frames = _level(net, size=size, frames=frames, innermost=innermost)
        levels.append(level)
    inner = nets[-1]
    projection = inner["conditioning_feature_proj_dim"]
    widths = {net["temporal_dim"] or 4 * net["resolution_channels"][0] for net in nets}
    if len(widths) > 1:
        raise checks.error(
            "all levels must have the same `temporal_dim`",
            fix="set temporal_dim alike in every nested configuration",
            temporal_dim=sorted(widths),
        )
    return resolve(
        levels[::-1],
        text_width=text_width,
        text_projection=projection if projection > 0 else None,
        text_blocks=inner["num_lm_head_layers"],
        time_width=widths.pop(),
        in_channels=in_channels,
        out_channels=out_channels,
    )


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
                f"the configuration asks for dropout={net['dropout']}; it is left out, which only "
                "matters when training",
                stacklevel=4,
            )
        if net["skip_inner_unet_input"]:
            raise checks.error(
                "`skip_inner_unet_input` must be false: the official network cannot run with it",
                fix="remove the field",
                skip_inner_unet_input=True,
            )
        config = config.get("inner_config")
        if config is not None and net["skip_mid_blocks"] is False:
            raise checks.error(
                "only the innermost network may have middle blocks",
                fix="set skip_mid_blocks to true on outer networks, as every released one has it",
                skip_mid_blocks=False,
            )
        nets.append(net)
    return nets


def _text_width(nets: list[dict]) -> int | None:
    """Width of the text states: every outer level hands its own (projected) width on."""
    width = nets[0]["conditioning_feature_dim"]
    for net in nets[:-1]:
        if net["conditioning_feature_proj_dim"] > 0:
            width = net["conditioning_feature_proj_dim"]
    return width if width > 0 else None


def _frames(nets: list[dict]) -> int | None:
    """Frames of a clip at the highest level: every temporal transition doubles them."""
    if not any(net["temporal_mode"] for net in nets):
        return None
    frames = 1
    for net in nets:
        if net["temporal_mode"] and not net["temporal_spatial_ds"]:
            frames *= 2 ** (len(net["resolution_channels"]) - 1)
    return frames


def _level(net: dict, *, size: int, frames: int | None, innermost: bool):
    """One level, and the size and the frames of the level inside it."""
    channels = tuple(net["resolution_channels"])
    count = len(channels)
    temporal = bool(net["temporal_mode"])
    along_time = temporal and not net["temporal_spatial_ds"]
    if temporal and innermost:
        raise checks.error(
            "the innermost network must not be temporal: the official one cannot run so",
            fix="set temporal_mode on outer networks only",
            temporal_mode=True,
        )
    attention = _per_resolution(net["num_attention_layers"], count)
    with_attention = set(net["attention_levels"] or ())
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
        temporal_attention=_per_resolution(net["num_temporal_attention_layers"] or 0, count)
        if temporal
        else (0,) * count,
        rotary=bool(net["temporal_positional_encoding"]),
        attention_ffn=bool(net["use_attention_ffn"]),
        use_mid_block=innermost and not net["skip_mid_blocks"],
        resolutions=resolutions,
        groups=net["num_groups_norm"],
        normalize_input=not innermost and not net["skip_normalization"],
        micro_conditions=_micro_conditions(net["micro_conditioning"]),
        mask_text=bool(net["masked_cross_attention"]),
    )
    if along_time:
        frames = resolutions[-1] if resolutions[-1] > 1 else None
    elif not innermost:
        size = resolutions[-1]
    return level, size, frames


def _per_resolution(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if checks.is_int(value) else tuple(value)


def _micro_conditions(text: str | None) -> dict[str, float]:
    """Parse "scale:64,watermark_score:0.5"."""
    pairs = [item.split(":") for item in (text or "").split(",") if item]
    return {name: float(default) for name, default in pairs}

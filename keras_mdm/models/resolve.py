"""The paper's architecture as a rule, which fills in what a level leaves open."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.models.specs import (
    LevelSpec,
    NestedUNetSpec,
    channels_at,
    log2_ratio,
    parse_level,
)

# The paper's innermost size, and the highest resolution at which it has attention.
INNERMOST, ATTENDED = 64, 32


def resolve(
    levels: Sequence[Any],
    *,
    num_classes: int | None = None,
    text_width: int | None = None,
    text_projection: int | str | None = "time_width",
    text_blocks: int = 2,
    pooled_width: int | None = None,
    time_width: int | None = None,
    width: float = 1.0,
    in_channels: int = 3,
    out_channels: int = 3,
    seed: int = 0,
) -> NestedUNetSpec:
    """Check the levels and fill in the defaults of the paper's appendix A.

    Arguments as in `build_nested_unet`.

    Returns:
        A `NestedUNetSpec` in which nothing is left open.

    Raises:
        ValueError: if the levels do not ascend by powers of two in either space or time, or if a
            size, a number of channels or an option does not fit.
    """
    if isinstance(levels, str) or not isinstance(levels, Sequence) or not levels:
        raise checks.error(
            "`levels` must be a non-empty sequence in ascending order",
            fix="write for example [64, 256]",
            levels=levels,
        )
    real_width = checks.real("width", width, minimum=1 / 64)
    widths = {"num_classes": num_classes, "text_width": text_width, "pooled_width": pooled_width}
    for name, value in widths.items():
        if value is not None:
            checks.integer(name, value, minimum=1)
    checks.integer("in_channels", in_channels, minimum=1)
    checks.integer("out_channels", out_channels, minimum=1)
    checks.integer("text_blocks", text_blocks, minimum=0)
    specs = [parse_level(level) for level in levels]
    resolved = [_innermost(specs[0], real_width)]
    # Outer channels follow the innermost ones, which already include the width unless given.
    outer_width = 1.0 if specs[0].channels is None else real_width
    for spec in specs[1:]:
        resolved.append(_outer(spec, resolved, outer_width))
    if time_width is None:
        alone = _halvings_above(specs[0]) if specs[0].channels is None else 0
        time_width = 4 * resolved[0].channels[alone]
    checks.integer("time_width", time_width, minimum=8)
    own = {level.name: level.time_width for level in resolved if level.time_width is not None}
    if own and any(value is not None for value in widths.values()):
        raise checks.error(
            "levels of a conditional network must share one width of the time embedding",
            fix="pass time_width to the builder instead of the levels",
            time_width=own,
        )
    if text_width is None:
        text_projection, text_blocks = None, 0
    elif text_projection == "time_width":
        text_projection = time_width
    elif text_projection is not None:
        checks.integer("text_projection", text_projection, minimum=1)
    tokens = text_projection or text_width
    if text_blocks and tokens % resolved[0].heads:
        raise checks.error(
            "the width of the text tokens must be a multiple of the attention heads",
            fix="change text_projection, or pass text_blocks=0",
            width=tokens,
            heads=resolved[0].heads,
        )
    return NestedUNetSpec(
        levels=tuple(resolved),
        num_classes=num_classes,
        text_width=text_width,
        text_projection=text_projection,
        text_blocks=text_blocks,
        pooled_width=pooled_width,
        time_width=time_width,
        outer_width=outer_width,
        in_channels=in_channels,
        out_channels=out_channels,
        seed=checks.seed(seed),
    )


def extend(spec: NestedUNetSpec, levels: Sequence[Any]) -> NestedUNetSpec:
    """Add outer levels to a resolved network by the same rule."""
    resolved = list(spec.levels)
    for level in levels:
        resolved.append(_outer(parse_level(level), resolved, spec.outer_width))
    return dataclasses.replace(spec, levels=tuple(resolved))


def _innermost(spec: LevelSpec, width: float) -> LevelSpec:
    for name, must in (
        ("learned_deviation", "there is no level below the innermost one to add detail to"),
        ("sees_below", "there is no level below the innermost one"),
        ("normalize_input", "the innermost level never normalises its input"),
        ("tiled_adapters", "the innermost level has no adapters"),
    ):
        if getattr(spec, name):
            raise checks.error(
                must, fix=f"set {name} on outer levels only", level=spec.name, **{name: True}
            )
    above = _halvings_above(spec)
    count = spec.num_resolutions or 3 + above
    first = max(32, 32 * round(256 * width / 32))
    resolutions = spec.resolutions or _halvings(spec.grid_height, count, spec)
    channels = [first * max(1, index + 1 - above) for index in range(count)]
    for index, side in enumerate(resolutions[:above]):
        channels[index] = channels_at(
            side, width=1.0, first_channels=first, innermost=spec.grid_height >> above
        )
    filled = dataclasses.replace(
        spec,
        channels=spec.channels or tuple(channels),
        blocks=spec.blocks or (2,) * count,
        attention=spec.attention or _attention(resolutions, above),
        temporal_attention=spec.temporal_attention or (0,) * count,
        resolutions=resolutions,
        axis="space",
        attention_ffn=True if spec.attention_ffn is None else spec.attention_ffn,
        use_mid_block=True if spec.use_mid_block is None else spec.use_mid_block,
    )
    _check(filled, top=spec.grid_height)
    return filled


def _halvings_above(spec: LevelSpec) -> int:
    """How often the innermost level is halved before it has the size of the paper's, 64.

    A single level of a higher resolution is the plain UNet of the paper's nest (section 4.1): its
    resolutions above 64 are those of outer levels, and attention stays at 32 and 16, where it is
    affordable.
    """
    return max(0, math.ceil(math.log2(spec.grid_height / INNERMOST)))


def _attention(resolutions: Sequence[int], above: int) -> tuple[int, ...]:
    """Attention layers per resolution of the innermost level."""
    count = len(resolutions)
    if not above:
        return (0, 1, 5) if count == 3 else (0,) + (1,) * (count - 1)
    if count == 3 + above:
        return (0,) * (count - 2) + (1, 5)
    # Own channels: where it is affordable, and at least where it is cheapest.
    return tuple(int(side <= ATTENDED or side == resolutions[-1]) for side in resolutions)


def _outer(spec: LevelSpec, inside: Sequence[LevelSpec], width: float) -> LevelSpec:
    inner, innermost = inside[-1], inside[0]
    if spec.innermost_level is not None:
        raise checks.error(
            "only the innermost level can be replaced as a whole by a class of your own",
            fix="remove innermost_level from the outer level",
            level=spec.name,
            innermost_level=spec.innermost_level["layer"],
        )
    if spec.use_mid_block:
        raise checks.error(
            "only the innermost level has a middle block",
            fix="remove use_mid_block from the outer level",
            level=spec.name,
            use_mid_block=True,
        )
    space = _size_ratio(spec, inner)
    time = log2_ratio(spec.frames or 1, inner.frames or 1)
    becomes_image = spec.frames is None and inner.frames is not None
    same = spec.size == inner.size and spec.frames == inner.frames
    if space is None or time is None or becomes_image or same:
        raise checks.error(
            "levels must ascend by a power of two from one to the next, height and width alike",
            fix="order them from low to high, for example [64, 256, 1024], [64, (16, 64)] or "
            "[LevelSpec((24, 40)), LevelSpec((48, 80))]",
            inner_level=inner.name,
            level=spec.name,
        )
    if space and time:
        raise checks.error(
            "a level must change space or time, not both",
            fix=f"put ({spec.frames}, {inner.size}) between the two",
            inner_level=inner.name,
            level=spec.name,
        )
    changes_time = space == 0
    if changes_time and spec.patch != inner.patch:
        raise checks.error(
            "a level that changes time must have the patch of the level inside",
            fix=f"pass patch={inner.patch}",
            level=spec.name,
            patch=spec.patch,
        )
    top, ratio = (
        (spec.frames, time) if changes_time else (spec.grid_height, _grid_ratio(spec, inner))
    )
    count = spec.num_resolutions or ratio + 1
    first = innermost.channels[0]
    resolutions = spec.resolutions or _halvings(top, count, spec)
    if changes_time:
        channels = (first,) * count
        temporal = (1,) * (count - 1) + (0,)
    else:
        channels = tuple(
            channels_at(side, width=width, first_channels=first, innermost=innermost.shape.height)
            for side in resolutions
        )
        temporal = (0,) * count
    filled = dataclasses.replace(
        spec,
        channels=spec.channels or channels,
        blocks=spec.blocks or (2,) * (count - 1) + (1,),
        attention=spec.attention or (0,) * count,
        temporal_attention=spec.temporal_attention or temporal,
        resolutions=resolutions,
        axis="time" if changes_time else "space",
        attention_ffn=bool(spec.attention_ffn),
        use_mid_block=False,
    )
    frames = inner.frames or 1
    if spec.tiled_adapters and math.isqrt(frames) ** 2 != frames:
        raise checks.error(
            "only a square number of frames can be laid out as a square picture",
            fix="leave tiled_adapters out",
            level=filled.name,
            frames=frames,
        )
    bottom = frames if changes_time else inner.grid_height
    _check(filled, top=top)
    if filled.resolutions[-1] != bottom:
        raise checks.error(
            "the lowest resolution of an outer level must equal that of the level inside",
            fix=f"use {ratio + 1} resolutions, from {top} down to {bottom}",
            level=filled.name,
            resolutions=filled.resolutions,
            inner_level=inner.name,
        )
    return filled


def _size_ratio(outer: LevelSpec, inner: LevelSpec) -> int | None:
    """k if both sides of the outer level are those of the inner one times 2**k, else `None`."""
    height = log2_ratio(outer.shape.height, inner.shape.height)
    return height if height == log2_ratio(outer.shape.width, inner.shape.width) else None


def _grid_ratio(outer: LevelSpec, inner: LevelSpec) -> int:
    """Number of halvings from the first resolution of the outer level to that of the inner one."""
    ratio = log2_ratio(outer.grid_height, inner.grid_height)
    if ratio is None:
        raise checks.error(
            "a level must not have fewer patches than the level inside has",
            fix="choose a smaller patch that is a power of two times the patch inside",
            level=outer.name,
            patch=outer.patch,
            inner_level=inner.name,
            inner_patch=inner.patch,
        )
    return ratio


def _halvings(top: int, count: int, spec: LevelSpec) -> tuple[int, ...]:
    if top % 2 ** (count - 1):
        raise checks.error(
            f"{count} resolutions need a size that can be halved {count - 1} times",
            fix="choose a multiple of that power of two, or fewer channels",
            level=spec.name,
            size=top,
        )
    return tuple(top >> index for index in range(count))


def _check(spec: LevelSpec, *, top: int) -> None:
    """Raise unless the resolved numbers of one level fit together."""
    steps = list(zip(spec.resolutions, spec.resolutions[1:], strict=False))
    if spec.resolutions[0] != top or any(high not in (low, 2 * low) for high, low in steps):
        raise checks.error(
            f"`resolutions` must start at {top} and halve or repeat from one to the next",
            fix="write for example (32, 16) or (32, 32, 16)",
            level=spec.name,
            resolutions=spec.resolutions,
        )
    stride = spec.patch * (spec.resolutions[0] // spec.resolutions[-1])
    if not spec.changes_time and spec.shape.width % stride:
        raise checks.error(
            f"{len(spec.resolutions)} resolutions need a width that is divisible by {stride}",
            fix="choose a multiple of it, or fewer channels",
            level=spec.name,
            width=spec.shape.width,
        )
    if spec.innermost_level is not None:
        return  # a user's level has its own layers
    for channels, attention in zip(spec.channels, spec.attention, strict=True):
        if channels % spec.groups:
            raise checks.error(
                "channels must be a multiple of the normalisation groups",
                fix="change channels or groups",
                level=spec.name,
                channels=spec.channels,
                groups=spec.groups,
            )
        attends = attention or (spec.use_mid_block and channels == spec.channels[-1])
        if attends and spec.spatial_attention is None and (channels % spec.heads or channels % 32):
            raise checks.error(
                "channels with attention must be a multiple of the heads and of 32",
                fix="change channels or heads",
                level=spec.name,
                channels=spec.channels,
                heads=spec.heads,
            )
    for channels, layers in zip(spec.channels, spec.temporal_attention, strict=True):
        if layers and channels % 32:
            raise checks.error(
                "temporal attention needs channels that are a multiple of 32",
                fix="change the channels, or remove temporal_attention",
                level=spec.name,
                channels=spec.channels,
                temporal_attention=spec.temporal_attention,
            )

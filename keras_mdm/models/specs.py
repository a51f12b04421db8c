"""Architecture as data: one record per level, one for the whole network."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.layers.own_layers import described
from keras_mdm.levels import LevelShape, Size, as_size, sides_of

BOOLEANS = (
    *("rotary", "attention_ffn", "use_mid_block", "normalize_input", "mask_text"),
    *("tiled_adapters", "learned_deviation", "sees_below"),
)
OWN_LAYERS = ("resblock", "spatial_attention", "innermost_level")
# Options that came after files had been written, with what they are where a file lacks them.
LATER = {**dict.fromkeys(OWN_LAYERS), "patch": 1, "learned_deviation": False, "sees_below": False}
PER_RESOLUTION = ("channels", "blocks", "attention", "temporal_attention", "resolutions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelSpec:
    """One level of a NestedUNet. Fields left `None` follow the paper's rule.

    Args:
        size: size of the pictures, a number for squares or `(height, width)`; positional.
        frames: frames of a clip, or `None` for an image level; positional.
        channels: channels per resolution, highest resolution first.
        blocks: ResBlocks per resolution.
        attention: spatial attention layers after each ResBlock, per resolution.
        temporal_attention: temporal attention layers after each ResBlock, per resolution.
        rotary: rotary positions in the temporal attention.
        heads: heads of the spatial attention.
        attention_ffn: feed-forward part in the spatial attention.
        use_mid_block: middle block at the lowest resolution; innermost level only.
        resolutions: heights (or frame counts, on a level that changes time) per resolution, halving
            or repeating, for example `(32, 32, 16)`; the widths follow them.
        groups: groups of the normalisations in ResBlocks and before the output.
        normalize_input: divide the input by its standard deviation; outer levels only.
        tiled_adapters: the adapters between this clip level and a clip level inside it see the
            frames side by side as one square picture, as in the official network; ours keep the
            frames apart.
        micro_conditions: default per extra number that conditions this level, such as
            `{"scale": 64.0}`.
        patch: the level works on squares of patch x patch pixels: their values are the channels of
            one position on the way in and out, so its first resolution is the size divided by
            `patch`. With a patch of 2, four times the channels take the same memory.
        learned_deviation: the level also predicts, per pixel, how large the detail is that it adds
            to the level below, for the residual output; outer levels only.
        sees_below: on its way up the level sees the noisy picture and the prediction of the level
            below, enlarged, beside its own noisy picture; outer levels only.
        mask_text: leave padding out of the text's attention; innermost level only.
        time_width: width of this level's time embedding, if it differs from the network's; only
            without text and classes, which are added to the embedding of every level.
        axis: what the resolutions reduce, `"space"` or `"time"`; follows from the levels.
        resblock: class of your own in place of every `ResBlock` of the level.
        spatial_attention: class of your own in place of every `SpatialAttention`.
        innermost_level: class of your own in place of the whole `InnermostLevel`; innermost level
            only.

    A class of your own is a Keras layer registered with `keras.saving.register_keras_serializable`,
    or a `functools.partial` of one that sets its options. Its constructor gets `name`, `dtype`, and
    those arguments of the replaced class that it names; initial values should follow from `seed`.
    The calls, with R rows that are pictures or single frames:

    - `resblock(channels, groups, seed)`: x `(R, H, W, C)`, time_embedding `(R, E)` and, on the way
      up, skip `(R, H, W, S)`, to `(R, H, W, channels)`.
    - `spatial_attention(heads, feed_forward, seed)`: x `(R, H, W, C)` and, with text, text
      `(R, L, D)` and text_mask `(R, L)`, to `(R, H, W, C)`.
    - `innermost_level`: constructor, call and result of `InnermostLevel`. Its `features` have the
      level's `channels[0]`, and `output` is float32. To be recomputed piece by piece, it may have
      a method `recomputed` that returns a list of the inner layers to recompute.

    Layers inside your class need no names: they are numbered separately.

    Raises:
        ValueError: if a field has the wrong type or range, or lengths per resolution differ.

    Example:

    >>> LevelSpec(16, channels=(64, 128), blocks=(2, 2), attention=(0, 1)).name
    '16'
    >>> LevelSpec((48, 80)).name
    'h48w80'

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A.
    """

    size: Size = dataclasses.field(kw_only=False)
    frames: int | None = dataclasses.field(default=None, kw_only=False)
    channels: Sequence[int] | None = None
    blocks: Sequence[int] | None = None
    attention: Sequence[int] | None = None
    temporal_attention: Sequence[int] | None = None
    rotary: bool = False
    heads: int = 8
    attention_ffn: bool | None = None
    use_mid_block: bool | None = None
    resolutions: Sequence[int] | None = None
    groups: int = 32
    normalize_input: bool = False
    patch: int = 1
    learned_deviation: bool = False
    sees_below: bool = False
    tiled_adapters: bool = False
    micro_conditions: Mapping[str, float] | None = None
    mask_text: bool = True
    time_width: int | None = None
    axis: str | None = None
    resblock: Any = None
    spatial_attention: Any = None
    innermost_level: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size("size", self.size, minimum=2))
        if self.frames is not None:
            checks.integer("frames", self.frames, minimum=1)
        checks.integer("heads", self.heads, minimum=1)
        checks.integer("groups", self.groups, minimum=1)
        checks.integer("patch", self.patch, minimum=1)
        if any(side % self.patch for side in sides_of(self.size)):
            raise checks.error(
                "a level's height and width must be multiples of its patch",
                fix="choose another patch",
                size=self.size,
                patch=self.patch,
            )
        if self.time_width is not None:
            checks.integer("time_width", self.time_width, minimum=8)
        checks.one_of("axis", self.axis, (None, "space", "time"))
        for name in BOOLEANS:
            if getattr(self, name) not in (None, True, False):
                raise checks.error(
                    f"`{name}` must be True or False",
                    fix="pass a boolean",
                    **{name: getattr(self, name)},
                )
        if not isinstance(self.micro_conditions, Mapping | None):
            raise checks.error(
                "`micro_conditions` must map names to default values",
                fix='pass for example {"scale": 64.0}',
                micro_conditions=self.micro_conditions,
            )
        lengths = {}
        for name in PER_RESOLUTION:
            value = getattr(self, name)
            if value is None:
                continue
            minimum = 0 if "attention" in name else 1
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise checks.error(
                    f"`{name}` must be a sequence with one integer per resolution",
                    fix=f"pass for example {name}=(1, 1)",
                    **{name: value},
                )
            cleaned = tuple(checks.integer(f"{name}[]", item, minimum=minimum) for item in value)
            object.__setattr__(self, name, cleaned)
            lengths[name] = len(cleaned)
        if len(set(lengths.values())) > 1:
            raise checks.error(
                "the sequences of a level must have one entry per resolution, all of one length",
                fix="make the lengths equal",
                **lengths,
            )
        object.__setattr__(self, "micro_conditions", dict(self.micro_conditions or {}))
        for name in OWN_LAYERS:
            object.__setattr__(self, name, described(name, getattr(self, name)))

    @property
    def shape(self) -> LevelShape:
        """Frames and size alone."""
        return LevelShape(self.frames, self.size)

    @property
    def name(self) -> str:
        """`"64"` for an image level, `"16x64"` for a clip level of 16 frames; if not square,
        `"h48w80"` or `"16xh48w80"`."""
        return self.shape.name

    @property
    def grid_height(self) -> int:
        """Height of the level's first resolution, in patches."""
        return self.shape.height // self.patch

    @property
    def num_resolutions(self) -> int | None:
        """Number of resolutions of the given sequences, or `None` without any."""
        given = [getattr(self, name) for name in PER_RESOLUTION]
        return next((len(value) for value in given if value is not None), None)

    @property
    def changes_time(self) -> bool:
        """Whether this resolved level reduces time instead of space."""
        return self.axis == "time"

    def input_shape(self, channels: int) -> tuple:
        """Shape of the level's input without the batch axis."""
        return self.shape.of_sample(channels)


def parse_level(level: Any) -> LevelSpec:
    """Return a `LevelSpec`, given one or anything that `LevelShape.parse` reads.

    Raises:
        ValueError: if `level` is none of these.
    """
    if isinstance(level, LevelSpec):
        return level
    shape = LevelShape.parse(level)
    return LevelSpec(shape.size, shape.frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NestedUNetSpec:
    """A whole network: resolved levels, ascending, and what they share.

    Made by `resolve`. All fields are plain values, so that the record goes to JSON and back.
    """

    levels: tuple[LevelSpec, ...]
    num_classes: int | None = None
    text_width: int | None = None
    text_projection: int | None = None
    text_blocks: int = 2
    pooled_width: int | None = None
    time_width: int = 1024
    outer_width: float = 1.0  # factor on the default channels of outer levels
    in_channels: int = 3
    out_channels: int = 3
    seed: int = 0

    @property
    def micro_conditions(self) -> tuple[str, ...]:
        """Names of all micro-conditions as they first appear, outermost level first."""
        names = [name for level in reversed(self.levels) for name in level.micro_conditions]
        return tuple(dict.fromkeys(names))

    def get_config(self) -> dict:
        """Return the record as JSON-ready values."""
        config = dataclasses.asdict(self)
        for level in config["levels"]:
            for name, default in LATER.items():
                if level[name] == default:
                    del level[name]  # files of earlier versions lack it, too
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NestedUNetSpec":
        """Rebuild the record from `get_config`."""
        levels = tuple(LevelSpec(**level) for level in config["levels"])
        return cls(**{**config, "levels": levels})


def channels_at(resolution: int, *, width: float, first_channels: int, innermost: int) -> int:
    """Channels of an outer level at a resolution: a multiple of 32, halved as the resolution
    doubles."""
    return max(32, 32 * round(width * first_channels * innermost / (32 * resolution)))


def log2_ratio(outer: int, inner: int) -> int | None:
    """k if outer == inner * 2**k with k >= 0, else `None`."""
    if outer < inner or outer % inner or (outer // inner) & (outer // inner - 1):
        return None
    return int(math.log2(outer // inner))

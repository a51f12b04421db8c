"""NestedUNet: the levels connected into one Keras model."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_mdm import checks
from keras_mdm.models.connect import connect, make_inputs
from keras_mdm.models.flags import freeze, frozen_in, remember_flags
from keras_mdm.models.network import LevelNetwork
from keras_mdm.models.policies import network_policy
from keras_mdm.models.resolve import extend, resolve
from keras_mdm.models.specs import LevelSpec, NestedUNetSpec

# Parts that belong to the whole network, not to a level.
SHARED_PARTS = ("text_conditioning", "pooled_embedding", "class_embedding")


@keras.saving.register_keras_serializable("keras_mdm")
class NestedUNet(LevelNetwork):
    """UNets nested in UNets, one per level. Made by `build_nested_unet`.

    It is called like every `LevelNetwork`; its `spec` is a `NestedUNetSpec`.

    Args:
        spec: from `resolve`.
        parts: existing layers by name.
        dtype: dtype policy, as in `build_nested_unet`.
        name: name of the model.

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.2, figure 3.
    """

    spec: NestedUNetSpec

    def __init__(
        self,
        spec: NestedUNetSpec,
        *,
        parts: Mapping[str, keras.layers.Layer] | None = None,
        dtype: Any = None,
        name: str = "nested_unet",
    ):
        policy = network_policy(dtype)
        parts = dict(parts or {})
        inputs = make_inputs(spec)
        outputs = connect(spec, inputs, parts, policy)
        super().__init__(inputs, outputs, spec=spec, policy=policy, name=name)
        self.parts = parts

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Every level's whole specification, and what all levels share except the seed."""
        network = self.spec.get_config()
        levels = {f"level {n}": c for n, c in zip(self.levels, network.pop("levels"), strict=True)}
        del network["seed"]  # of the initial values
        if network["pooled_width"] is None:
            del network["pooled_width"]  # runs of earlier versions do not have it
        return {**levels, "conditions": network}

    def get_config(self) -> dict:
        return {
            "spec": self.spec.get_config(),
            "dtype": keras.dtype_policies.serialize(self.policy),
            "name": self.name,
            "trained_alone": None if self.trained_alone is None else list(self.trained_alone),
            "frozen": frozen_in(self),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> "NestedUNet":
        policy = keras.dtype_policies.deserialize(config["dtype"])
        spec = NestedUNetSpec.from_config(config["spec"])
        unet = cls(spec, dtype=policy, name=config["name"])
        unet.trained_alone = config.get("trained_alone")
        freeze(unet, config.get("frozen"))  # files of earlier versions lack it
        return unet


def build_nested_unet(
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
    dtype: Any = None,
    name: str = "nested_unet",
) -> NestedUNet:
    """Build a NestedUNet by the paper's rule, or from your own levels.

    Args:
        levels: ascending; an int is an image size, `(frames, size)` a clip, a `LevelSpec` anything.
            From one level to the next either the size or the number of frames grows by a power of
            two. Pictures that are not square are written `LevelSpec((48, 80))` (height, width) or
            "h48w80", clips of that size `(16, (48, 80))` or "16xh48w80". All levels share the
            aspect.
        num_classes: classes of a class-conditional model; the label is added to the time embedding.
        text_width: width of the text encoder's states; adds cross-attention.
        text_projection: width of the tokens after a linear projection; the time width unless given,
            `None` for no projection.
        text_blocks: self-attention blocks over the tokens.
        pooled_width: width of one vector per prompt, which is embedded and added to the time
            embedding, in addition to the text's tokens or instead of them.
        time_width: width of the time embedding; four times the first channels unless given.
        width: factor on the default channels.
        in_channels: channels of every input.
        out_channels: channels of every prediction.
        seed: seed of the initial values, which depend only on it and on the layer's path.
        dtype: dtype policy: `"float32"`, `"mixed_bfloat16"`, `"mixed_float16"`, or `"bfloat16"`,
            whose weights cannot be trained; the global policy unless given.
        name: name of the model.

    Returns:
        A `NestedUNet`.

    Raises:
        ValueError: if levels do not ascend by powers of two, an option does not fit, or the dtype
            policy is not one of these.

    Example:

    >>> unet = build_nested_unet([LevelSpec(8, channels=(32, 64)), 16], num_classes=10)
    >>> unet.levels
    ('8', '16')

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.2 and appendix A.
    """
    spec = resolve(
        levels,
        num_classes=num_classes,
        text_width=text_width,
        text_projection=text_projection,
        text_blocks=text_blocks,
        pooled_width=pooled_width,
        time_width=time_width,
        width=width,
        in_channels=in_channels,
        out_channels=out_channels,
        seed=seed,
    )
    return NestedUNet(spec, dtype=dtype, name=name)


def grow(unet: NestedUNet, levels: Any) -> NestedUNet:
    """Add outer levels around a network, sharing its layers.

    The adapters of the new levels start at zero, so the inner predictions do not change.

    Args:
        unet: the network to grow; it stays usable, and training one trains the other.
        levels: a level or a list of levels, as in `build_nested_unet`.

    Returns:
        A `NestedUNet` whose inner layers are those of `unet`.

    Raises:
        ValueError: if the new levels do not ascend from the outermost level of `unet`.

    Example:

    >>> big = grow(build_nested_unet([LevelSpec(8, channels=(32, 64))]), 16)
    >>> big.levels
    ('8', '16')

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.3 (progressive training).
    """
    check_nested(unet, "grow")
    added = levels if isinstance(levels, list) else [levels]
    spec = extend(unet.spec, added)
    grown = NestedUNet(spec, parts=unet.parts, dtype=unet.policy, name=unet.name)
    remember_flags(grown, unet)
    return grown


def cut(unet: NestedUNet, level: str) -> NestedUNet:
    """Take the inner levels of a network up to `level`, sharing its layers.

    The rest is a model of its own if the training mixed resolutions: then the inner levels have
    also run without the features of the levels above. Without mixed resolutions they never have,
    and a warning says so.

    Args:
        unet: the network to cut; it stays usable.
        level: name of the level that becomes the outermost one.

    Returns:
        A `NestedUNet` without the levels above `level`.

    Raises:
        ValueError: if `unet` has no such level.

    Example:

    >>> cut(build_nested_unet([LevelSpec(8, channels=(32, 64)), 16]), "8").levels
    ('8',)
    """
    check_nested(unet, "cut")
    checks.one_of("level", level, unet.levels)
    if not unet.runs_alone(level):
        warnings.warn(
            f"the network was trained without mixed resolutions: its level {level!r} never ran "
            "without the features of the levels above, and is likely to be worse without them. "
            "Train with `mixed`, or train the smaller network for some more steps",
            stacklevel=2,
        )
    spec = unet.spec
    kept = spec.levels[: unet.levels.index(level) + 1]
    spec = NestedUNetSpec.from_config({**spec.get_config(), "levels": _configs(kept)})
    names = {part for kept_level in kept for part in part_names(kept_level)}
    parts = {
        part: layer for part, layer in unet.parts.items() if part in names or part in SHARED_PARTS
    }
    smaller = NestedUNet(spec, parts=parts, dtype=unet.policy, name=unet.name)
    smaller.trained_alone = unet.trained_alone
    remember_flags(smaller, unet)
    return smaller


def check_nested(unet: Any, operation: str) -> None:
    """Raise if a network's levels cannot be taken apart and reconnected.

    Args:
        unet: the network.
        operation: name of the operation, for the error.
    """
    if not isinstance(unet, NestedUNet):
        raise checks.error(
            f"`{operation}` needs a network of build_nested_unet, whose levels it can reconnect",
            fix="compose the new network by hand, and copy the weights with start_from",
            unet=type(unet).__name__,
        )


def _configs(levels: Sequence[LevelSpec]) -> list[dict]:
    return NestedUNetSpec(levels=tuple(levels)).get_config()["levels"]


def part_names(level: LevelSpec) -> dict[str, str]:
    """Names of a level's layers: its embedding, and its halves or the whole innermost UNet."""
    stem = f"level_{level.name}"
    return {f"{stem}_embedding": stem, f"{stem}_down": stem, f"{stem}_up": stem, stem: stem}

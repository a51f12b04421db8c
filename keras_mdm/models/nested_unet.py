"""NestedUNet: the levels connected into one Keras model."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.layers import (
    ClassEmbedding,
    InnermostLevel,
    LevelEmbedding,
    NestedDown,
    NestedUp,
    PooledTextEmbedding,
    TextConditioning,
)
from keras_mdm.layers.initializers import derive_seed
from keras_mdm.models.flags import freeze, frozen_in, policies_of, quantization
from keras_mdm.models.policies import network_policy
from keras_mdm.models.resolve import extend, resolve
from keras_mdm.models.specs import LevelSpec, NestedUNetSpec

# Parts that belong to the whole network and not to a level.
SHARED_PARTS = ("text_conditioning", "pooled_embedding", "class_embedding")


@keras.saving.register_keras_serializable("keras_mdm")
class NestedUNet(keras.Model):
    """One network that denoises all levels at once. Made by `build_nested_unet`.

    A functional Keras model. Its attributes `levels` (names, ascending), `input_names`,
    `output_names` and `spec` describe it; `parts` holds its layers by name.

    Call arguments:
        inputs: dict with `z_<level>` `(B, [T,] H, W, C)` float32 per level, `time` `(B,)` float32
            (the timestep 0..N-1), and, as built, `text` `(B, L, D)` with `text_mask` `(B, L)` of
            0/1 (all ones if left out), `pooled` `(B, P)`, `label` `(B,)` int32 (-1 = no class), and
            micro-conditions `(B,)` float32 (the level's default if left out). Outer levels may have
            fewer rows: they belong to the first samples.

    Returns:
        dict of float32 predictions by level name, each of the shape of its `z` (with
        `out_channels`).

    Raises:
        ValueError: if a key is missing or unknown.

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.2, figure 3.
    """

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
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.spec = spec
        self.policy = policy
        self.parts = parts
        self.levels = tuple(level.name for level in spec.levels)
        self.input_names = tuple(inputs)
        self.output_names = tuple(outputs)
        self.trained_alone = None
        # Past Keras' tracking, as all that is no part of the network.
        self.__dict__["_policies"] = policies_of(self)

    @property
    def trained_alone(self) -> tuple[str, ...] | None:
        """Levels that were the highest one of some samples when the network was last trained; the
        training sets it, and it is saved. `None` if it is not known."""
        return self.__dict__.get("_trained_alone")

    @trained_alone.setter
    def trained_alone(self, levels: Sequence[str] | None) -> None:
        # Past Keras' tracking, which would wrap it.
        known = None if levels is None else tuple(name for name in self.levels if name in levels)
        self.__dict__["_trained_alone"] = known

    def runs_alone(self, level: str) -> bool:
        """Whether a level may be used without those above it, as far as is known.

        Args:
            level: name of a level.
        """
        known = self.trained_alone
        return known is None or level == self.levels[-1] or level in known

    def level_of(self, part: str) -> str:
        """Level that a part of the network belongs to; text and class belong to the innermost.

        Args:
            part: a key of `parts`.
        """
        level = part.removeprefix("level_").partition("_")[0]
        return level if level in self.levels else self.levels[0]

    def __call__(self, inputs, **kwargs):
        # Before Keras sees the dict: it would reject absent keys and read unknown ones wrongly.
        return super().__call__(self._complete(inputs), **kwargs)

    def _complete(self, inputs: Mapping[str, Any]) -> dict:
        """Check the keys and fill in what may be left out."""
        if not isinstance(inputs, Mapping):
            raise checks.error(
                "the input must be a dict of tensors",
                fix=f"pass a dict with the keys {list(self.input_names)}",
                type=type(inputs).__name__,
            )
        checks.known_keys("inputs", inputs, self.input_names)
        optional = {"text_mask", *self.spec.micro_conditions}
        checks.required_keys(
            "inputs", inputs, [name for name in self.input_names if name not in optional]
        )
        full = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
        for level in self.spec.levels:
            self._check_shape(full[f"z_{level.name}"], level)
        if "text" in full:
            text = full["text"]
            if text.shape[-1] != self.spec.text_width:
                raise checks.error(
                    f"`text` must have the width {self.spec.text_width}",
                    fix="use the text encoder the network was built for",
                    text_shape=tuple(text.shape),
                )
            if "text_mask" not in full:
                full["text_mask"] = ops.ones(ops.shape(text)[:2], "float32")
            full["text_mask"] = ops.cast(full["text_mask"], "float32")  # any dtype is welcome
        for name in self.spec.micro_conditions:
            if name not in full:
                full[name] = ops.full(ops.shape(full["time"]), float("nan"), "float32")
        return {name: full[name] for name in self.input_names}

    def _check_shape(self, z, level: LevelSpec) -> None:
        expected = level.input_shape(self.spec.in_channels)
        if tuple(z.shape[1:]) != expected:
            raise checks.error(
                f"`z_{level.name}` must have the shape (B, {', '.join(map(str, expected))})",
                fix="resize the input, or build the network for this size",
                shape=tuple(z.shape),
            )

    def get_config(self) -> dict:
        return {
            "spec": self.spec.get_config(),
            "dtype": keras.dtype_policies.serialize(self.policy),
            "name": self.name,
            "trained_alone": None if self.trained_alone is None else list(self.trained_alone),
            "frozen": frozen_in(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None) -> "NestedUNet":
        policy = keras.dtype_policies.deserialize(config["dtype"])
        spec = NestedUNetSpec.from_config(config["spec"])
        unet = cls(spec, dtype=policy, name=config["name"])
        unet.trained_alone = config.get("trained_alone")
        freeze(unet, config.get("frozen"))  # which files of earlier versions do not know
        return unet

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "trainable":
            # TensorFlow drops an assignment of what is there already, and with it the flags of the
            # layers inside: `unet.trainable = True` would leave a frozen level frozen.
            keras.Model.trainable.fset(self, value)
        else:
            super().__setattr__(name, value)

    def enable_lora(
        self, rank: int, *, levels: Sequence[str] | None = None, alpha: float | None = None
    ) -> list[str]:
        """Have only low-rank additions to the kernels be trained; of a network alone, as for
        `estimate_training`. Around a model call `MatryoshkaDiffusion.enable_lora`.

        Args:
            rank: as in `lora.enable_lora`, like all others.
            levels: likewise.
            alpha: likewise.

        Returns:
            Paths of the new weights.
        """
        from keras_mdm.models.lora import enable_lora

        return enable_lora(self, rank, levels=levels, alpha=alpha)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """As in Keras; averages of a model around this network begin anew."""
        super().set_weights(weights)
        self.__dict__["_replaced"] = True

    def load_weights(self, filepath: Any, **kwargs: Any) -> None:
        """As in Keras; averages of a model around this network begin anew."""
        super().load_weights(filepath, **kwargs)
        self.__dict__["_replaced"] = True

    def quantize(self, mode=None, config=None, **kwargs) -> None:
        """Refused: averages, training and files are about floating-point weights."""
        raise quantization(mode=mode)


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
            two. Pictures that are not square are `LevelSpec((48, 80))` (height, width), or by name
            "h48w80"; clips of them `(16, (48, 80))` or "16xh48w80". All levels share the aspect.
        num_classes: classes of a class-conditional model; the label is added to the time embedding.
        text_width: width of the text encoder's states; adds cross-attention.
        text_projection: width of the tokens after a linear projection; the time width unless given,
            `None` for no projection.
        text_blocks: self-attention blocks over the tokens.
        pooled_width: width of one vector per prompt, which is embedded and added to the time
            embedding, beside the text's tokens or instead of them.
        time_width: width of the time embedding; four times the first channels unless given.
        width: factor on the default channels.
        in_channels: channels of every input.
        out_channels: channels of every prediction.
        seed: seed of the initial values; they depend on it and on the layer's path only.
        dtype: dtype policy: `"float32"`, `"mixed_bfloat16"`, `"mixed_float16"`, or `"bfloat16"`,
            whose weights cannot be trained; the global policy unless given.
        name: name of the model.

    Returns:
        A `NestedUNet`.

    Raises:
        ValueError: if levels do not ascend by powers of two, an option does not fit, or the dtype
            policy is another one.

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
    added = levels if isinstance(levels, list) else [levels]
    spec = extend(unet.spec, added)
    return NestedUNet(spec, parts=unet.parts, dtype=unet.policy, name=unet.name)


def cut(unet: NestedUNet, level: str) -> NestedUNet:
    """Take the inner levels of a network up to `level`, sharing its layers.

    What is left is a model of its own if the training mixed resolutions: then the inner levels have
    also run without the features of the levels above. After a training without, they never have,
    and a warning says so.

    Args:
        unet: the network to cut; it stays usable.
        level: name of the level that becomes the outermost one.

    Returns:
        A `NestedUNet` without the levels outside of `level`.

    Raises:
        ValueError: if `unet` has no such level.

    Example:

    >>> cut(build_nested_unet([LevelSpec(8, channels=(32, 64)), 16]), "8").levels
    ('8',)
    """
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
    return smaller


def _configs(levels: Sequence[LevelSpec]) -> list[dict]:
    return NestedUNetSpec(levels=tuple(levels)).get_config()["levels"]


def part_names(level: LevelSpec) -> dict[str, str]:
    """Names of a level's layers: its embedding, and its halves or the whole innermost UNet."""
    stem = f"level_{level.name}"
    return {f"{stem}_embedding": stem, f"{stem}_down": stem, f"{stem}_up": stem, stem: stem}


def make_inputs(spec: NestedUNetSpec) -> dict[str, keras.KerasTensor]:
    """Symbolic inputs of a network, named by their keys."""
    inputs = {
        f"z_{level.name}": keras.Input(
            level.input_shape(spec.in_channels), dtype="float32", name=f"z_{level.name}"
        )
        for level in spec.levels
    }
    inputs["time"] = keras.Input((), dtype="float32", name="time")
    if spec.text_width:
        inputs["text"] = keras.Input((None, spec.text_width), dtype="float32", name="text")
        inputs["text_mask"] = keras.Input((None,), dtype="float32", name="text_mask")
    if spec.pooled_width:
        inputs["pooled"] = keras.Input((spec.pooled_width,), dtype="float32", name="pooled")
    if spec.num_classes:
        inputs["label"] = keras.Input((), dtype="int32", name="label")
    for name in spec.micro_conditions:
        inputs[name] = keras.Input((), dtype="float32", name=name)
    return inputs


def connect(
    spec: NestedUNetSpec,
    inputs: Mapping[str, keras.KerasTensor],
    parts: dict[str, keras.layers.Layer],
    policy: keras.DTypePolicy,
) -> dict[str, keras.KerasTensor]:
    """Connect levels into a graph, making the layers that `parts` does not hold yet.

    Args:
        spec: the network.
        inputs: from `make_inputs`.
        parts: layers by name; new ones are added to it.
        policy: dtype policy of new layers.

    Returns:
        dict of symbolic predictions by level name, ascending.
    """

    def part(cls, name, **config):
        if name not in parts:
            seed = derive_seed(spec.seed, name)
            parts[name] = cls(**config, seed=seed, name=name)
        return parts[name]

    condition, text = None, {}
    innermost = spec.levels[0]
    if spec.text_width:
        layer = part(
            TextConditioning,
            "text_conditioning",
            embedding_width=spec.time_width,
            projection=spec.text_projection,
            blocks=spec.text_blocks,
            heads=innermost.heads,
            use_mask=innermost.mask_text,
            dtype=policy,
        )
        encoded = layer(inputs["text"], inputs["text_mask"])
        condition = encoded["embedding"]
        text["text"] = encoded["tokens"]
        if innermost.mask_text:
            text["text_mask"] = inputs["text_mask"]
    if spec.pooled_width:
        layer = part(PooledTextEmbedding, "pooled_embedding", width=spec.time_width)
        embedded = layer(inputs["pooled"])
        condition = embedded if condition is None else condition + embedded
    if spec.num_classes:
        layer = part(
            ClassEmbedding,
            "class_embedding",
            num_classes=spec.num_classes,
            width=spec.time_width,
        )
        embedded = layer(inputs["label"])
        condition = embedded if condition is None else condition + embedded

    embeddings, downs, features = {}, {}, None
    for level in reversed(spec.levels):
        layer = part(
            LevelEmbedding,
            f"level_{level.name}_embedding",
            width=level.time_width or spec.time_width,
            micro_conditions=level.micro_conditions,
        )
        micro = {name: inputs[name] for name in level.micro_conditions}
        embeddings[level.name] = layer(inputs["time"], condition=condition, micro=micro or None)
    for inner, level in reversed(list(zip(spec.levels, spec.levels[1:], strict=False))):
        layer = part(
            NestedDown,
            f"level_{level.name}_down",
            inner_channels=inner.channels[0],
            normalize_input=level.normalize_input,
            tiled_adapter=level.tiled_adapters,
            dtype=policy,
            **geometry(level),
        )
        z = inputs[f"z_{level.name}"]
        downs[level.name] = layer(z, embeddings[level.name], features=features, **text)
        features = downs[level.name]["features"]

    layer = part(
        InnermostLevel,
        f"level_{innermost.name}",
        out_channels=spec.out_channels,
        use_mid_block=innermost.use_mid_block,
        dtype=policy,
        **geometry(innermost),
    )
    z = inputs[f"z_{innermost.name}"]
    result = layer(z, embeddings[innermost.name], features=features, **text)
    outputs = {innermost.name: result["output"]}
    for inner, level in zip(spec.levels, spec.levels[1:], strict=False):
        layer = part(
            NestedUp,
            f"level_{level.name}_up",
            inner_channels=inner.channels[0],
            out_channels=spec.out_channels,
            tiled_adapter=level.tiled_adapters,
            dtype=policy,
            **geometry(level),
        )
        skips = downs[level.name]["skips"]
        result = layer(skips, result["features"], embeddings[level.name], **text)
        outputs[level.name] = result["output"]
    return outputs


def geometry(level: LevelSpec) -> dict:
    """The arguments of `LevelPart` that follow from a resolved level."""
    pairs = zip(level.resolutions, level.resolutions[1:], strict=False)
    return {
        "channels": level.channels,
        "blocks": level.blocks,
        "attention": level.attention,
        "temporal_attention": level.temporal_attention,
        "strides": tuple(high // low for high, low in pairs),
        "axis": "time" if level.changes_time else "space",
        "frames": level.frames,
        "heads": level.heads,
        "attention_ffn": level.attention_ffn,
        "rotary": level.rotary,
        "groups": level.groups,
    }

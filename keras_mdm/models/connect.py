"""The levels of a NestedUNet, connected into one graph."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_mdm.layers import (
    ClassEmbedding,
    LevelEmbedding,
    NestedDown,
    NestedUp,
    PooledTextEmbedding,
    TextConditioning,
)
from keras_mdm.layers.initializers import derive_seed
from keras_mdm.layers.innermost_level import INNERMOST_LEVEL
from keras_mdm.layers.own_layers import check_level
from keras_mdm.models.specs import LevelSpec, NestedUNetSpec


def make_inputs(spec: NestedUNetSpec) -> dict[str, keras.KerasTensor]:
    """Make the symbolic inputs of a network, named by their keys."""
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
    """Connect levels into a graph, making the layers that `parts` lacks.

    Args:
        spec: the network.
        inputs: from `make_inputs`.
        parts: layers by name; new ones are added to it.
        policy: dtype policy of new layers.

    Returns:
        dict of symbolic predictions by level name, ascending.
    """

    def part(make: Callable[..., Any], name: str, **config: Any) -> Any:
        if name not in parts:
            seed = derive_seed(spec.seed, name)
            parts[name] = make(**config, seed=seed, name=name)
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

    own = innermost.innermost_level
    layer = part(
        functools.partial(INNERMOST_LEVEL.make, own),
        f"level_{innermost.name}",
        out_channels=spec.out_channels,
        use_mid_block=innermost.use_mid_block,
        dtype=policy,
        **geometry(innermost),
    )
    z, embedding = inputs[f"z_{innermost.name}"], embeddings[innermost.name]
    result = INNERMOST_LEVEL.call(layer, own, z, embedding, features=features, **text)
    if own is not None:
        sizes = {"out_channels": spec.out_channels, "channels": innermost.channels[0]}
        check_level(layer, z, result, **sizes)
    outputs = {innermost.name: result["output"]}
    for inner, level in zip(spec.levels, spec.levels[1:], strict=False):
        layer = part(
            NestedUp,
            f"level_{level.name}_up",
            inner_channels=inner.channels[0],
            out_channels=spec.out_channels,
            learned_deviation=level.learned_deviation,
            sees_below=level.sees_below,
            tiled_adapter=level.tiled_adapters,
            dtype=policy,
            **geometry(level),
        )
        skips = downs[level.name]["skips"]
        seen = {}
        if level.sees_below:
            pictures = (inputs[f"z_{inner.name}"], result["output"], inputs[f"z_{level.name}"])
            seen = dict(zip(("z_below", "output_below", "z"), pictures, strict=True))
        result = layer(skips, result["features"], embeddings[level.name], **text, **seen)
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
        "patch": level.patch,
        "resblock": level.resblock,
        "spatial_attention": level.spatial_attention,
    }

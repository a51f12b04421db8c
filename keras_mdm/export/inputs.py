"""The inputs of an exported model: names, shapes, and the checks that the graph makes of them."""

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm.conditioning.low_res import (
    LOW_RES,
    LOW_RES_NOISE,
    low_res_channels,
    micro_conditions,
    sees_noise,
)
from keras_mdm.stages import stages_of
from keras_mdm.training.assertions import (
    noise_requirement,
    outer_steps_requirement,
    require,
    sampling_requirements,
)

Specs = dict[str, tf.TensorSpec]
PROMPT, NEGATIVE = "prompt", "negative_prompt"
TEXT = ("text", "text_mask", "pooled")
# Inputs that say how to draw, one value for each picture.
AMOUNTS = ("steps", "guidance_scale", "seed", LOW_RES_NOISE)
# Longest prompt in bytes; whatever is beyond an encoder's tokens is cut.
MOST_BYTES = 65_536


def conditions_of(model: Any) -> Specs:
    """The conditions of a network.

    Args:
        model: a `MatryoshkaDiffusion`.
    """
    spec, found = model.unet.spec, {}
    if spec.text_width:
        found["text"] = tf.TensorSpec((None, None, spec.text_width), tf.float32, name="text")
        found["text_mask"] = tf.TensorSpec((None, None), tf.float32, name="text_mask")
    if spec.pooled_width:
        found["pooled"] = tf.TensorSpec((None, spec.pooled_width), tf.float32, name="pooled")
    if spec.num_classes:
        found["label"] = tf.TensorSpec((None,), tf.int32, name="label")
    channels = low_res_channels(spec)
    if channels:
        # Of any size; for clips one picture, which is held.
        found[LOW_RES] = tf.TensorSpec((None, None, None, channels), tf.uint8, name=LOW_RES)
    for name in micro_conditions(spec):
        found[name] = tf.TensorSpec((None,), tf.float32, name=name)
    return found


def prompts() -> Specs:
    """What stands for the text where an encoder is inside."""
    return {name: tf.TensorSpec((None,), tf.string, name=name) for name in (PROMPT, NEGATIVE)}


def amounts(model: Any, *, guided: bool, rows: bool) -> Specs:
    """The inputs that say how to draw.

    Args:
        model: the model, a cascade or a model of codes.
        guided: whether there is guidance.
        rows: one value for each picture, not one for all.
    """
    shape = (None,) if rows else ()
    found = {"steps": tf.int32, "guidance_scale": tf.float32, "seed": tf.int64}
    if rows and not guided:
        found.pop("guidance_scale")
    if sees_noise(stages_of(model)[-1].unet.spec):
        found[LOW_RES_NOISE] = tf.int32
    return {name: tf.TensorSpec(shape, dtype, name=name) for name, dtype in found.items()}


def noisy(model: Any) -> Specs:
    """The noisy pictures of every level, and their time."""
    channels = model.unet.spec.out_channels
    found = {
        f"x_{shape.name}": tf.TensorSpec((None, *shape.of_sample(channels)), tf.float32)
        for shape in model.process.shapes
    }
    return {**found, "t": tf.TensorSpec((None,), tf.float32)}


def requirements(
    inputs: Mapping[str, tf.Tensor], model: Any, most_outer: int | None = None
) -> Iterator[tf.Operation]:
    """The checks of the values, each an operation that fails.

    Args:
        inputs: of a signature.
        model: the model, a cascade or a model of codes.
        most_outer: the largest number of steps that compute an outer level.
    """
    stages = stages_of(model)
    least = min(steps_limit(stage) for stage in stages)
    yield from sampling_requirements(inputs, stages[0].unet.spec, least)
    if most_outer is not None and "steps" in inputs:
        yield outer_steps_requirement(inputs["steps"], most_outer)
    if LOW_RES_NOISE in inputs:
        yield noise_requirement(inputs[LOW_RES_NOISE], steps_limit(stages[-1]))
    for name in (PROMPT, NEGATIVE):
        if name in inputs:
            yield from _texts(name, inputs[name])
    if "t" in inputs:
        t = inputs["t"]
        yield require(
            tf.reduce_all((t > 0.0) & (t <= 1.0)),
            "`t` must be in (0, 1]",
            fix="pass the time of the noise, 1 for nothing but noise",
            t=t,
        )


def steps_limit(model: Any) -> int:
    """The most steps that a model can take.

    Args:
        model: a `MatryoshkaDiffusion`.
    """
    return model.process.schedules[model.unet.levels[0]].num_steps


def _texts(name: str, texts: tf.Tensor) -> Iterator[tf.Operation]:
    longest = tf.reduce_max(tf.strings.length(texts))
    yield require(
        longest <= MOST_BYTES,
        f"`{name}` must be texts of at most {MOST_BYTES} bytes",
        fix="pass a shorter prompt",
        bytes=longest,
    )
    again = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    wrong = tf.reduce_sum(tf.cast(again != texts, tf.int32))
    yield require(
        tf.equal(wrong, 0),
        f"`{name}` must be texts in UTF-8",
        fix="encode them as UTF-8",
        **{f"not UTF-8 in {name}": wrong},
    )

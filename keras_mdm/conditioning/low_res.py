"""A picture that a network sees beside the noisy one, such as the one an upsampler enlarges.

With a micro-condition `low_res_noise` noise is added to that picture, and the network is told how
much (noise augmentation).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.diffusion import LevelShape, Schedule
from keras_mdm.diffusion.process import add_noise
from keras_mdm.models.network import NetworkFacts
from keras_mdm.pictures import pixels

# Its key in a batch, and its name in `generate` and in an exported model.
LOW_RES = "low_res"
# The micro-condition that tells a network how noisy that picture is; without it there is no noise.
LOW_RES_NOISE = "low_res_noise"


def low_res_channels(spec: NetworkFacts) -> int:
    """Channels of that picture: the number by which inputs exceed outputs; 0 for none.

    Args:
        spec: the network.
    """
    return spec.in_channels - spec.out_channels


def sees_noise(spec: NetworkFacts) -> bool:
    """Whether noise is added to the picture that a network sees, and the network is told.

    Args:
        spec: the network.
    """
    return LOW_RES_NOISE in spec.micro_conditions


def micro_conditions(spec: NetworkFacts) -> tuple[str, ...]:
    """The micro-conditions that come with the data; the noise of the picture is drawn instead.

    Args:
        spec: the network.
    """
    return tuple(name for name in spec.micro_conditions if name != LOW_RES_NOISE)


def check_channels(spec: NetworkFacts) -> None:
    """Raise unless a network has inputs for all outputs, no micro-condition is called `low_res`,
    and one called `low_res_noise` is of a network that sees a picture.

    Args:
        spec: the network.
    """
    if low_res_channels(spec) < 0:
        raise checks.error(
            "a diffusion network must have at least as many in_channels as out_channels: the noisy "
            f"picture, and after it `{LOW_RES}`",
            fix="build it with in_channels = out_channels + channels of the picture it sees",
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
        )
    if low_res_channels(spec) and LOW_RES in spec.micro_conditions:
        raise checks.error(
            f"`{LOW_RES}` is the name of the picture in the in_channels beyond out_channels",
            fix="give the micro-condition another name",
            micro_conditions=spec.micro_conditions,
        )
    if sees_noise(spec) and not low_res_channels(spec):
        raise checks.error(
            f"the micro-condition `{LOW_RES_NOISE}` tells how noisy the picture is that a network "
            "sees in its in_channels beyond out_channels",
            fix="build the network with in_channels = out_channels + channels of that picture, or "
            "give the micro-condition another name",
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
        )


def as_low_res(value: Any, spec: NetworkFacts, top: LevelShape | None = None) -> tf.Tensor:
    """Return every row's picture at the size of the highest level, resized bilinearly if needed.

    Args:
        value: `(B, h, w, C)` of the network's aspect, or `(B, t, h, w, C)` for clips, with t a
            divisor of their frames: each picture is held for its share of the frames. uint8, or
            floats in [-1, 1].
        spec: the network.
        top: the highest level at the batch's size; at the size it was built for unless given.

    Returns:
        `(B, [T,] H, W, C)` float32.

    Raises:
        ValueError: if `value` has another form.

    Reference: Ho et al. 2021 (arXiv 2106.15282), section 3, where the low-resolution picture is
    enlarged bilinearly and joined with the noisy one.
    """
    value = tf.convert_to_tensor(value)
    top, channels = top or spec.levels[-1].shape, low_res_channels(spec)
    shape = value.shape
    rank_fits = len(shape) == 4 or (len(shape) == 5 and top.frames is not None)
    aspect = rank_fits and (None in shape[-3:-1] or has_aspect(shape[-3:-1], top))
    frames = shape[1] if len(shape) == 5 else 1
    if not aspect or shape[-1] != channels or not frames or (top.frames or 1) % frames:
        square = top.height == top.width
        form = f"h, {'h' if square else 'w'}, {channels}"
        clip = "" if top.frames is None else f", or (B, t, {form}), t of {top.frames}"
        wanted = "" if square else f" with h:w = {top.height}:{top.width}"
        raise checks.error(
            f"`{LOW_RES}` must have the shape (B, {form}){clip}{wanted}",
            fix=f"crop it {'to a square ' if square else ''}as the pictures are cropped"
            if shape[-1:] == (channels,)
            else f"decode it with {channels} channels, or build the network with in_channels = "
            "out_channels + channels of the picture it sees",
            shape=tuple(shape),
        )
    if value.dtype == tf.uint8:
        value = pixels.to_unit(value)
    elif not value.dtype.is_floating:
        raise checks.error(
            f"`{LOW_RES}` must be uint8, or floats in [-1, 1]",
            fix="cast it",
            dtype=value.dtype.name,
        )
    value = tf.cast(value, tf.float32)
    if tuple(shape[-3:-1]) != (top.height, top.width):
        value = _resized(value, top)
    if top.frames is None:
        return value
    value = value if len(shape) == 5 else value[:, None]
    return tf.repeat(value, top.frames // frames, axis=1) if frames < top.frames else value


def has_aspect(sides: Any, top: LevelShape) -> Any:
    """Whether height and width, numbers or tensors, have the aspect of a level."""
    height, width = sides
    return height == width if top.height == top.width else height * top.width == width * top.height


def _resized(value: tf.Tensor, top: LevelShape) -> tf.Tensor:
    clip = value.shape[1:-3]
    flat = tf.reshape(value, tf.concat([[-1], tf.shape(value)[-3:]], axis=0))
    flat.set_shape((None, *value.shape[-3:]))
    # Antialiasing has no effect on enlarging, but XLA cannot compile it.
    enlarged = value.shape[-2] is not None and value.shape[-2] <= top.width
    flat = tf.image.resize(flat, (top.height, top.width), "bilinear", antialias=not enlarged)
    return tf.reshape(flat, (-1, *clip, top.height, top.width, value.shape[-1]))


def with_noise(
    conditions: Mapping[str, tf.Tensor], eps: tf.Tensor, index: tf.Tensor, schedule: Schedule
) -> dict[str, tf.Tensor]:
    """Add noise to the picture, and say how much.

    The picture has the size of the highest level by now; levels below see D^r of the noisy one.

    Args:
        conditions: conditions of every row, with the picture as returned by `as_low_res`.
        eps: standard normal noise of the picture's shape.
        index: table index k, scalar or `(B,)`.
        schedule: of the highest level.

    Returns:
        The conditions with the noisy picture and `low_res_noise` `(B,)`, the time k / N.

    Reference: Saharia et al. 2022 (arXiv 2205.11487), section 2.4; Gu et al. 2023 (arXiv
    2310.15111), appendix D.1: the schedule is that of the diffusion itself.
    """
    picture = conditions[LOW_RES]
    t = tf.cast(index, tf.float32) / schedule.num_steps
    t = tf.broadcast_to(t, tf.shape(picture)[:1])
    noisy = add_noise(picture, eps, *schedule.alpha_sigma(t))
    return {**conditions, LOW_RES: noisy, LOW_RES_NOISE: t}


def network_inputs(
    process: Any,
    x: Mapping[str, tf.Tensor],
    conditions: Mapping[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """The inputs of a network except the time; every level sees D^r of the picture.

    Args:
        process: the joint process of the levels.
        x: noisy pictures `(B', [T,] H, W, C)` by level name; outer levels may hold only the first
            rows.
        conditions: conditions of every row, with the picture as returned by `as_low_res`.

    Returns:
        dict of inputs by name.
    """
    inputs = {k: v for k, v in conditions.items() if k != LOW_RES}
    if LOW_RES not in conditions:
        return inputs | {f"z_{name}": value for name, value in x.items()}
    picture = conditions[LOW_RES]
    if picture.shape[1:-1] != x[process.levels[-1]].shape[1:-1]:  # a level above those drawn
        frames = picture.shape[1] if len(picture.shape) == 5 else None
        top = LevelShape(frames, tuple(picture.shape[-3:-1]))
        process = dataclasses.replace(process, shapes=(*process.shapes, top), sizes=())
    seen = process.pyramid(picture)
    for name, value in x.items():
        inputs[f"z_{name}"] = tf.concat([value, seen[name][: tf.shape(value)[0]]], axis=-1)
    return inputs

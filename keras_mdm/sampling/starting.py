"""What `generate` starts from: seeds, noise, pictures to change, masks, fixed levels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.diffusion import LevelShape
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.finite import check_finite
from keras_mdm.pictures import pixels

# Share of the steps repeated when a picture is changed without a mask.
STRENGTH = 0.7
# Numbers of channels for which the range of floats is checked. Others, even four, may be codes.
RANGED = (1, 3)


def seeds_of(seed: int | Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The seed of every picture, and the picture's index among those of that seed.

    Args:
        seed: one number, under which the pictures are counted; or one per picture, each of which
            gives what that number gives for a single picture. Arrays and tensors are accepted.
        count: number of pictures.

    Returns:
        Two arrays (count,) int64.

    Raises:
        ValueError: if a seed is not an integer >= 0, or there is not one per picture.
    """
    if hasattr(seed, "shape"):  # an array or a tensor, which may hold a single number
        seed = np.asarray(seed).tolist()
    if isinstance(seed, str) or not isinstance(seed, Sequence):
        return np.full(count, checks.seed(seed), "int64"), np.arange(count, dtype="int64")
    seeds = [checks.seed(value) for value in seed]
    if len(seeds) != count:
        raise checks.error(
            f"`seed` must be one number, or one for each of the {count} pictures",
            fix=f"pass {count} seeds",
            seed=seeds,
        )
    return np.asarray(seeds, "int64"), np.zeros(count, "int64")


def check_by_level(name: str, value: Any, levels: Sequence[str]) -> None:
    """Raise unless `value` maps level names to arrays."""
    if not isinstance(value, Mapping):
        raise checks.error(
            f"`{name}` must map level names to arrays",
            fix=f"pass a dict with keys of {list(levels)}",
            **{name: type(value).__name__},
        )
    checks.known_keys(name, value, levels)


def check_noise(
    noise: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], count: int
) -> dict[str, np.ndarray]:
    """Check the initial noise against the levels and the number of pictures, and return it."""
    checks.required_keys("noise", noise, shapes)
    found = {name: np.asarray(noise[name], "float32") for name in shapes}
    for name, value in found.items():
        if value.shape != (count, *shapes[name]):
            raise checks.error(
                f"`noise[{name!r}]` must have the shape {(count, *shapes[name])}",
                fix="use the model's noise_for or noise_between",
                shape=value.shape,
            )
        check_finite({f"noise[{name!r}]": value})
    return found


def spherical(first: tf.Tensor, second: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Points on the arc between two noise tensors, all of which have the length of noise.

    Args:
        first: (...), at weight 0.
        second: (...), at weight 1.
        weight: (B,) in [0, 1].

    Returns:
        (B, ...).

    Reference: Song et al., arXiv 2010.02502, appendix D.5.
    """
    cosine = tf.reduce_sum(first * second) / (tf.norm(first) * tf.norm(second))
    angle = tf.acos(tf.clip_by_value(cosine, -1.0, 1.0))
    weight = tf.reshape(weight, (-1, *(1 for _ in first.shape)))
    # For (anti)parallel tensors, which noise never is, the arc is undefined: use the chord.
    sine = tf.sin(angle)
    near = sine < 1e-6
    safe = tf.where(near, 1.0, sine)
    left = tf.where(near, 1.0 - weight, tf.sin((1.0 - weight) * angle) / safe)
    right = tf.where(near, weight, tf.sin(weight * angle) / safe)
    return left * first + right * second


def has_range(model: Any) -> bool:
    """Whether what a model draws lies in [-1, 1]; codes of an autoencoder do not, and their model
    has no threshold."""
    return model.unet.spec.out_channels in RANGED and model.threshold != "none"


def as_pictures(
    name: str, images: Any, shape: LevelShape, channels: int, count: int, *, ranged: bool
) -> tf.Tensor:
    """Return pictures or clips of one level in [-1, 1], one per row.

    Args:
        name: name of the argument, for errors.
        images: `(B, H, W, C)`, or one `(H, W, C)` for all rows; with a time axis for clips; uint8
            or float in [-1, 1]. Other sizes are resized.
        shape: the level.
        channels: C.
        count: B.
        ranged: whether floats must lie in [-1, 1], see `has_range`.

    Returns:
        `(count, [T,] H, W, C)` float32.

    Raises:
        ValueError: if the pictures do not have the form of the level.
    """
    images = np.asarray(images)
    rank = 4 if shape.frames is None else 5
    single = images.ndim == rank - 1
    whole = images[None] if single else images
    frames = () if shape.frames is None else (shape.frames,)
    fits = whole.ndim == rank and whole.shape[-1] == channels and whole.shape[1:-3] == frames
    if not fits or len(whole) not in (1, count) or not whole.size:
        form = ", ".join(map(str, (*frames, "H", "W", channels)))
        raise checks.error(
            f"`{name}` must have the shape ({form}), or ({count}, {form})",
            fix="pass one for all pictures, or one for each",
            shape=images.shape,
        )
    check_finite({name: images})
    height, width = whole.shape[-3:-1]
    if height * shape.width != width * shape.height:
        square = shape.width == shape.height
        raise checks.error(
            f"`{name}` must have the aspect of the model, "
            + ("1:1" if square else f"{shape.height}:{shape.width} (height:width)"),
            fix="crop it to a square, or put it on a square canvas"
            if square
            else "crop it, or put it on a canvas of that aspect",
            shape=images.shape,
        )
    if whole.dtype == np.uint8:
        whole = pixels.to_unit(whole)
    elif not np.issubdtype(whole.dtype, np.floating) or (
        ranged and not np.all(np.abs(whole) <= 1.0 + 1e-6)
    ):
        raise checks.error(
            f"`{name}` must be uint8, or float in [-1, 1]",
            fix="convert it",
            dtype=str(whole.dtype),
            largest=float(np.max(np.abs(whole))),
        )
    whole = tf.convert_to_tensor(whole, tf.float32)
    if height != shape.height:
        flat = tf.reshape(whole, (-1, height, width, channels))
        flat = tf.image.resize(flat, (shape.height, shape.width), "bicubic", antialias=True)
        flat = tf.clip_by_value(flat, tf.reduce_min(whole), tf.reduce_max(whole))
        whole = tf.reshape(flat, (-1, *shape.of_sample(channels)))
    return tf.repeat(whole, count // len(whole), axis=0)


def init_levels(
    name: str,
    images: Any,
    process: LevelProcess,
    channels: int,
    count: int,
    whole: LevelProcess,
    *,
    ranged: bool,
) -> dict[str, tf.Tensor]:
    """Return pictures of a process's highest level in [-1, 1], and those of all levels below.

    Pictures with the size of a level above it count as that level's, and are reduced from there, as
    in training.

    Args:
        name: name of the argument, for errors.
        images: see `as_pictures`.
        process: the levels wanted.
        channels: C.
        count: B.
        whole: the process of all levels.
        ranged: see `as_pictures`.
    """
    images, shapes = np.asarray(images), process.shapes
    above = {
        (shape.height, shape.width) for shape in whole.shapes if shape.height > shapes[-1].height
    }
    if images.ndim > 2 and images.shape[-3:-1] in above:
        shapes = (*shapes, LevelShape(shapes[-1].frames, images.shape[-3:-1]))
    top = as_pictures(name, images, shapes[-1], channels, count, ranged=ranged)
    found = dataclasses.replace(process, shapes=shapes).pyramid(top)
    return {level: found[level] for level in process.levels}


def mask_levels(mask: Any, process: LevelProcess, count: int) -> dict[str, tf.Tensor]:
    """Return masks of all levels, 1 where a pixel is redrawn.

    A pixel of a lower level is redrawn if D^r makes it from any redrawn pixel; otherwise it is
    known.

    Args:
        mask: `(H, W)`, `(B, H, W)` or `(B, H, W, 1)` of the highest level, with a time axis before
            H for clips; bool, or numbers that are 0 where the picture is kept.
        process: the joint process.
        count: B.

    Returns:
        `(B, [T,] h, w, 1)` of 0/1 float32 by level name.

    Raises:
        ValueError: if the shape does not fit, or nothing or everything is kept.
    """
    top = process.shapes[-1]
    given = np.asarray(mask)
    form = top.of_sample(1)[:-1]
    whole = given[..., 0] if given.ndim == len(form) + 2 and given.shape[-1] == 1 else given
    whole = whole[None] if whole.ndim == len(form) else whole
    if whole.shape[1:] != form or len(whole) not in (1, count):
        raise checks.error(
            f"`mask` must have the shape {form}, or {(count, *form)}",
            fix="give it the size of the highest level that is drawn",
            shape=given.shape,
        )
    check_finite({"mask": whole})
    whole = (whole != 0).astype("float32")
    if whole.all() or not whole.any():
        raise checks.error(
            "`mask` must keep some pixels and redraw others",
            fix="pass 1 where the picture is to be redrawn, 0 where it is kept",
            share=float(whole.mean()),
        )
    levels = process.pyramid(tf.repeat(tf.constant(whole[..., None]), count // len(whole), axis=0))
    # A mean is 0 only where all its parts are; the user's own reduction may be negative.
    return {name: tf.cast(level != 0.0, tf.float32) for name, level in levels.items()}


def held_levels(
    hold: Mapping[str, Any],
    process: LevelProcess,
    channels: int,
    count: int,
    whole: LevelProcess,
    *,
    ranged: bool,
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Return fixed pictures for lower levels, with masks of zeros.

    Args:
        hold: pictures by level name; levels below the highest one given follow from it.
        process: the joint process of the levels to draw.
        channels: C.
        count: number of pictures.
        whole: the process of all levels.
        ranged: see `as_pictures`.

    Raises:
        ValueError: if a level is unknown, or the highest one is held.
    """
    levels = process.levels
    check_by_level("hold", hold, levels)
    if not hold or levels[-1] in hold:
        raise checks.error(
            "`hold` must name levels below the highest one drawn",
            fix=f"pass pictures of one of {list(levels[:-1])}",
            hold=sorted(hold),
        )
    highest = max(hold, key=levels.index)
    below = process.up_to(highest)
    given: dict[str, Any] = {"channels": channels, "count": count, "whole": whole, "ranged": ranged}
    found = init_levels(f"hold[{highest!r}]", hold[highest], below, **given)
    for name in set(hold) - {highest}:
        alone = dataclasses.replace(process, shapes=(process.shapes[levels.index(name)],))
        found |= init_levels(f"hold[{name!r}]", hold[name], alone, **given)
    return {name: (picture, tf.zeros_like(picture[..., :1])) for name, picture in found.items()}

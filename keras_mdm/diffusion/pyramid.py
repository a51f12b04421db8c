"""The resolution pyramid: what each level of the extended space sees of an image or clip.

The downsampling operators D^r of the paper's equation 2, and the corresponding upsampling. Images
are (B, H, W, C), clips are (B, T, H, W, C). Sizes and frame counts are static, so everything runs
inside `tf.function` with an unknown batch size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_mdm import checks
from keras_mdm.levels import LevelShape
from keras_mdm.types import Levels, Tensor

# How a level is reduced: a name or a function (x, from_shape, to_shape) -> x.
Downsampling = str | Callable[[Tensor, LevelShape, LevelShape], Tensor]
DOWNSAMPLING = ("area", "bilinear")
UPSAMPLING = ("nearest", "bilinear")
# Which frame represents a group of frames at a level with fewer frames.
FRAMES = ("first", "middle", "average")


def downsample(
    x: Tensor,
    from_shape: LevelShape,
    to_shape: LevelShape,
    kind: Downsampling = "area",
    frame: str = "first",
) -> Tensor:
    """Reduce an image or a clip to a lower level in one go.

    In space, `"area"` averages blocks of pixels, the only choice for which unit-variance noise
    loses exactly the variance that the schedule's shift assumes. `"bilinear"` interpolates at the
    centres of the low pixels without antialiasing (at an even ratio the mean of a block's four
    central pixels, at an odd ratio its central pixel). In time, T frames become T' by taking one of
    every T / T', the first unless `frame` says otherwise; an image level below a clip is a single
    such frame.

    Args:
        x: (B, H, W, C) or (B, T, H, W, C), floating point.
        from_shape: the level of `x`.
        to_shape: the level to make; its sizes and frames must divide those of `from_shape`.
        kind: `"area"`, `"bilinear"`, or a function (x, from_shape, to_shape) -> x that also reduces
            frames.
        frame: what represents a group of T / T' frames: the `"first"`, the `"middle"` one (the
            later of the two if their number is even), or the `"average"`.

    Returns:
        (B, h, w, C) or (B, T', h, w, C) in the dtype of `x`.

    Raises:
        ValueError: if the levels do not divide, `x` is not of `from_shape`, or a function returns
            something that is not of `to_shape`.

    Example:

    >>> x = np.arange(16.0, dtype="float32").reshape(1, 4, 4, 1)
    >>> y = downsample(x, LevelShape(None, 4), LevelShape(None, 2))
    >>> np.array(y)[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]

    Reference: Gu et al., arXiv 2310.15111, equation 2 and section 4.1 (bilinear in space, first
    frame in time).
    """
    check_downsampling("kind", kind)
    checks.one_of("frame", frame, FRAMES)
    _check_order(to_shape, from_shape)
    x = _as_level(x, from_shape)
    if callable(kind):
        return _reduced(kind, x, from_shape, to_shape)
    # Time first: dropped frames need no spatial work.
    if from_shape.frames is not None:
        x = _fewer_frames(x, from_shape.frames // (to_shape.frames or 1), frame)  # B T' H W C
        x = x[:, 0] if to_shape.frames is None else x
    ratio = from_shape.height // to_shape.height
    if ratio == 1:
        return x
    channels = x.shape[-1]
    x = ops.reshape(x, (-1, from_shape.height, from_shape.width, channels))
    if kind == "area":
        x = ops.average_pool(x, ratio, strides=ratio, padding="valid", data_format="channels_last")
    else:
        x = _central_mean(_central_mean(x, ratio, axis=1), ratio, axis=2)
    return ops.reshape(x, _batched_shape(to_shape, channels))


def build_pyramid(
    x: Tensor, shapes: Sequence[LevelShape], kind: Downsampling = "area", frame: str = "first"
) -> Levels:
    """Downsample to all levels at once.

    `"area"` goes from level to level, which equals one reduction from the top because means of
    means over equal blocks are means. `"bilinear"`, `"middle"` frames and functions start from the
    top for every level, because there the two differ.

    Args:
        x: data of the highest level, (B, H, W, C) or (B, T, H, W, C).
        shapes: the levels, ascending.
        kind: see `downsample`.
        frame: `"first"`, `"middle"` or `"average"`, see `downsample`.

    Returns:
        Level name -> tensor, ascending; the last one is `x`.

    Raises:
        ValueError: if there is no level, or the levels do not ascend and divide.

    Example:

    >>> levels = [LevelShape(None, 8), LevelShape(4, 8), LevelShape(4, 16)]
    >>> pyramid = build_pyramid(np.zeros((2, 4, 16, 16, 3), "float32"), levels)
    >>> {name: tuple(level.shape) for name, level in pyramid.items()}
    {'8': (2, 8, 8, 3), '4x8': (2, 4, 8, 8, 3), '4x16': (2, 4, 16, 16, 3)}

    Reference: Gu et al., arXiv 2310.15111, equation 2 (progressive compression).
    """
    check_downsampling("kind", kind)
    if not shapes:
        raise checks.error("A pyramid needs at least one level", fix="pass shapes", shapes=shapes)
    top = shapes[-1]
    levels = [_as_level(x, top)]
    for lower, upper in zip(reversed(shapes[:-1]), reversed(shapes[1:]), strict=True):
        _check_order(lower, upper)
        stepwise = kind == "area" and frame != "middle"
        source = (levels[0], upper) if stepwise else (levels[-1], top)
        levels.insert(0, downsample(*source, lower, kind, frame))
    return {shape.name: level for shape, level in zip(shapes, levels, strict=True)}


def upsample(
    x: Tensor,
    from_shape: LevelShape,
    to_shape: LevelShape,
    kind: str = "nearest",
    frame: str = "first",
) -> Tensor:
    """Enlarge an image or a clip to a higher level.

    In space, `"nearest"` repeats pixels and `"bilinear"` interpolates between pixel centres
    (half-pixel convention, edges held). In time, `"nearest"` holds each frame for its group and
    `"bilinear"` interpolates linearly between the frames' original positions, holding the ends, so
    that frames that were kept return unchanged. An image is repeated for all frames of a clip.

    Args:
        x: (B, h, w, C) or (B, T', h, w, C), floating point.
        from_shape: the level of `x`.
        to_shape: the level to make; its size and frames must be multiples of those of `from_shape`.
        kind: `"nearest"` or `"bilinear"`.
        frame: how the level below was made, see `downsample`.

    Returns:
        (B, H, W, C) or (B, T, H, W, C) in the dtype of `x`.

    Raises:
        ValueError: if the levels do not divide, or `x` is not of `from_shape`.

    Example:

    >>> x = np.array([[[[0.0], [4.0]], [[0.0], [4.0]]]])
    >>> y = upsample(x, LevelShape(None, 2), LevelShape(None, 4), "bilinear")
    >>> np.array(y)[0, 0, :, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    checks.one_of("kind", kind, UPSAMPLING)
    checks.one_of("frame", frame, FRAMES)
    _check_order(from_shape, to_shape)
    x = _as_level(x, from_shape)
    channels = x.shape[-1]
    # Space first, while there are still few frames.
    ratio = to_shape.height // from_shape.height
    if ratio > 1:
        enlarged = LevelShape(from_shape.frames, to_shape.size)
        x = ops.reshape(x, (-1, from_shape.height, from_shape.width, channels))
        # Phase p of `ratio` is (p + 1/2) / ratio - 1/2 away from its pixel's centre.
        offsets = (np.arange(ratio) + 0.5) / ratio - 0.5 if kind == "bilinear" else np.zeros(ratio)
        x = _interpolate(_interpolate(x, offsets, axis=1), offsets, axis=2)
        x = ops.reshape(x, _batched_shape(enlarged, channels))
    if from_shape.frames is None and to_shape.frames is not None:
        x = ops.repeat(x[:, None], to_shape.frames, axis=1)  # B T H W C
    elif from_shape.frames != to_shape.frames:
        stretch = to_shape.frames // from_shape.frames
        place = {"first": 0.0, "middle": stretch // 2, "average": (stretch - 1) / 2}[frame]
        offsets = (np.arange(stretch) - place) / stretch
        x = _interpolate(x, offsets if kind == "bilinear" else np.zeros(stretch), axis=1)
    return x


def check_downsampling(name: str, kind: Any) -> Any:
    """Return `kind`, or raise unless it is a function or one of `DOWNSAMPLING`."""
    return kind if callable(kind) else checks.one_of(name, kind, DOWNSAMPLING)


def _reduced(reduce: Callable, x: Tensor, from_shape: LevelShape, to_shape: LevelShape) -> Tensor:
    """Reduce a level with the user's function, and check the result."""
    reduced = ops.cast(reduce(x, from_shape, to_shape), x.dtype)
    expected = _batched_shape(to_shape, x.shape[-1])[1:]
    if tuple(reduced.shape[1:]) != expected:
        raise checks.error(
            f"a function for `downsample` must return the level {to_shape.name!r}, with the static "
            f"shape (batch, {', '.join(map(str, expected))})",
            fix="reduce x by the sizes and frames of from_shape and to_shape",
            shape=tuple(reduced.shape),
        )
    return reduced


def _fewer_frames(x: Tensor, group: int, frame: str) -> Tensor:
    """One frame for every group of `group` frames of (B, T, H, W, C)."""
    if frame == "average" and group > 1:
        height, width, channels = x.shape[2:]
        x = ops.reshape(x, (-1, x.shape[1] // group, group, height, width, channels))
        return ops.mean(x, axis=2)
    return x[:, (group // 2 if frame == "middle" else 0) :: group]


def _interpolate(x: Tensor, offsets: np.ndarray, axis: int) -> Tensor:
    """Replace each entry along `axis` by linear interpolations at `offsets` in (-1, 1), edges held.

    Uses shifted copies rather than `ops.image.resize`, which only works in float32.
    """
    size, phases = x.shape[axis], len(offsets)
    index = np.arange(size)

    def shifted(step: int) -> Tensor:
        return ops.expand_dims(ops.take(x, np.clip(index + step, 0, size - 1), axis), axis + 1)

    def column(weights: np.ndarray) -> Tensor:
        shape = [1] * (len(x.shape) + 1)
        shape[axis + 1] = phases
        return ops.convert_to_tensor(weights.reshape(shape), dtype=x.dtype)

    y = shifted(0) * column(1.0 - np.abs(offsets))
    if np.any(offsets < 0):
        y = y + shifted(-1) * column(np.maximum(-offsets, 0.0))
    if np.any(offsets > 0):
        y = y + shifted(1) * column(np.maximum(offsets, 0.0))
    return ops.reshape(y, (-1, *x.shape[1:axis], size * phases, *x.shape[axis + 1 :]))


def _central_mean(x: Tensor, ratio: int, axis: int) -> Tensor:
    """Value at the centre of each block of `ratio` entries along `axis`, interpolated linearly."""
    before = (slice(None),) * axis
    left = x[(*before, slice((ratio - 1) // 2, None, ratio))]
    right = x[(*before, slice(ratio // 2, None, ratio))]
    return 0.5 * (left + right)


def _batched_shape(shape: LevelShape, channels: int) -> tuple[int, ...]:
    return (-1, *shape.of_sample(channels))


def _as_level(x: Tensor, shape: LevelShape) -> Tensor:
    x = ops.convert_to_tensor(x)
    expected = _batched_shape(shape, 0)[1:-1]
    if tuple(x.shape[1:-1]) != expected or x.shape[-1] is None:
        raise checks.error(
            f"Data of level {shape.name!r} must have the static shape (batch, "
            f"{', '.join(map(str, expected))}, channels)",
            fix="resize or batch the data, or name the level it belongs to",
            shape=tuple(x.shape),
        )
    return x


def _check_order(lower: LevelShape, upper: LevelShape) -> None:
    frames = lower.frames or 1
    ratio = upper.height // lower.height
    enlarged = (lower.height * ratio, lower.width * ratio)
    if enlarged != (upper.height, upper.width) or (upper.frames or 1) % frames:
        raise checks.error(
            "The size and the frames of a level must be divisible by those of the level below, "
            "height and width by the same number",
            fix="choose levels that ascend by whole factors, such as 64, 256 or 64, (16, 64)",
            lower=lower.name,
            upper=upper.name,
        )
    if lower.frames is not None and upper.frames is None:
        raise checks.error(
            "A clip cannot be below an image",
            fix="give the upper level at least as many frames",
            lower=lower.name,
            upper=upper.name,
        )

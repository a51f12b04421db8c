"""The downsampling operators D^r on stored pixels, so that all paths give the same picture."""

import numpy as np

from keras_mdm import checks
from keras_mdm.diffusion.pyramid import DOWNSAMPLING, FRAMES

# Values summed at a time: sums need more memory than pixels.
_AT_A_TIME = 2**24


def reduce_pixels(
    pixels: np.ndarray, size: int | tuple[int, int], kind: str = "area"
) -> np.ndarray:
    """Shrink uint8 pictures as `keras_mdm.diffusion.downsample` does, rounded to nearest.

    Args:
        pixels: uint8 (..., H, W, C).
        size: the new height and width, one number for a square; H and W are the same multiple of
            them.
        kind: `"area"`, means of blocks, or `"bilinear"`, means of their central pixels.

    Returns:
        uint8 (..., height, width, C); halves are rounded up. `pixels` itself if it already has
        this size.

    Raises:
        ValueError: if `pixels` has another dtype or shape, or the sizes do not divide.

    Example:

    >>> reduce_pixels(np.arange(16, dtype=np.uint8).reshape(4, 4, 1), 2)[..., 0].tolist()
    [[3, 5], [11, 13]]

    Reference: Gu et al. 2023 (arXiv 2310.15111), equation 2 and section 4.1.
    """
    checks.one_of("kind", kind, DOWNSAMPLING)
    height, width = size if isinstance(size, tuple) else (size, size)
    height = checks.integer("size", height, minimum=1)
    width = checks.integer("size", width, minimum=1)
    if pixels.dtype != np.uint8 or pixels.ndim < 3:
        raise checks.error(
            "`pixels` must be uint8 (..., H, W, C)",
            fix="pass pictures of bytes",
            shape=pixels.shape,
            dtype=pixels.dtype.name,
        )
    tall, wide, channels = pixels.shape[-3:]
    ratio, rest = divmod(tall, height)
    if rest or not ratio or ratio * width != wide:
        raise checks.error(
            "a smaller size must divide the larger one",
            fix="choose sizes like 16, 64, 256, each a multiple of the one before",
            size=size,
            larger=wide if tall == wide else (tall, wide),
        )
    if ratio == 1:
        return pixels
    # The rows, and the columns, of a block that count.
    kept = range(ratio) if kind == "area" else range((ratio - 1) // 2, ratio // 2 + 1)
    count = len(kept) ** 2
    sums = np.uint16 if 255 * count + count // 2 < 2**16 else np.uint32
    pictures = pixels.reshape(-1, tall, wide, channels)
    small = np.empty((len(pictures), height, width, channels), np.uint8)
    step = max(1, _AT_A_TIME // (tall * wide * channels))
    for first in range(0, len(pictures), step):
        part = pictures[first : first + step]
        rows = sum(part[:, row::ratio].astype(sums) for row in kept)
        total = sum(rows[:, :, column::ratio] for column in kept)
        small[first : first + step] = (total + sums(count // 2)) // sums(count)
    return small.reshape(*pixels.shape[:-3], height, width, channels)


def still_frame(clips: np.ndarray, frame: str = "first") -> np.ndarray:
    """The picture that represents a clip, chosen as in `keras_mdm.diffusion.downsample`.

    Args:
        clips: uint8 (..., T, H, W, C).
        frame: `"first"`, `"middle"` (the later of two middle frames) or `"average"`.

    Returns:
        uint8 (..., H, W, C); an average is rounded to nearest, halves up.

    Raises:
        ValueError: if `clips` has another dtype or shape, or `frame` is unknown.

    Example:

    >>> clip = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    >>> [still_frame(clip, frame).item() for frame in ("first", "middle", "average")]
    [0, 2, 2]
    """
    checks.one_of("frame", frame, FRAMES)
    if clips.dtype != np.uint8 or clips.ndim < 4 or not clips.shape[-4]:
        raise checks.error(
            "`clips` must be uint8 (..., T, H, W, C)",
            fix="pass clips of bytes",
            shape=clips.shape,
            dtype=clips.dtype.name,
        )
    count = clips.shape[-4]
    if frame != "average":
        taken = count // 2 if frame == "middle" else 0
        return np.ascontiguousarray(clips[..., taken, :, :, :])
    total = clips.sum(axis=-4, dtype=np.uint32)
    return ((total + count // 2) // count).astype(np.uint8)

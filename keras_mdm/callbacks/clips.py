"""Clips that play: GIF files of what `generate` returned."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from keras_mdm import checks
from keras_mdm.callbacks.images import captioned_grid


def animated_grid(
    clips_by_level: Mapping[str, np.ndarray], prompts: Sequence[str], *, size: int | None = None
) -> np.ndarray:
    """One row per level, one column per prompt, as frames of a clip.

    Levels with fewer frames hold each of theirs for as long as it stands for: an image level shows
    the same picture throughout.

    Args:
        clips_by_level: {level: uint8 (B, T, H, W, 3) or, for images, (B, H, W, 3)}, lowest first.
        prompts: B captions.
        size: side of every cell, see `captioned_grid`.

    Returns:
        uint8 (T, height, width, 3), T that of the longest clip.

    Raises:
        ValueError: if the number of frames of a level does not divide that of the longest.

    Example:

    >>> clips = {"8": np.zeros((2, 8, 8, 3), "uint8"), "4x8": np.zeros((2, 4, 8, 8, 3), "uint8")}
    >>> animated_grid(clips, ["a", "b"]).shape[0]
    4
    """
    clips = {
        level: clip[:, None] if np.ndim(clip) == 4 else np.asarray(clip)
        for level, clip in clips_by_level.items()
    }
    frames = {level: clip.shape[1] for level, clip in clips.items()}
    longest = max(frames.values(), default=0)
    if not longest or any(longest % count for count in frames.values()):
        raise checks.error(
            "the frames of every level must divide those of the longest",
            fix="pass what `generate` returned",
            frames=frames,
        )
    return np.stack(
        [
            captioned_grid(
                {level: clip[:, t * frames[level] // longest] for level, clip in clips.items()},
                prompts,
                size=size,
            )
            for t in range(longest)
        ]
    )


def encode_gif(frames: np.ndarray, *, frames_per_second: float = 8.0) -> bytes:
    """Frames as the bytes of a GIF file that plays for ever.

    Args:
        frames: uint8 (T, H, W, 3).
        frames_per_second: speed; GIF counts in hundredths of a second.

    Returns:
        The bytes.

    Raises:
        ValueError: if the frames have another form.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise checks.error(
            "`frames` must be uint8 (T, H, W, 3)",
            fix="pass one clip, or an animated_grid of several",
            shape=frames.shape,
            dtype=str(frames.dtype),
        )
    speed = checks.real("frames_per_second", frames_per_second, minimum=0.1, maximum=50.0)
    # One palette for all frames, or flat areas would flicker.
    pictures = [Image.fromarray(frame) for frame in frames]
    tall = Image.fromarray(np.concatenate(list(frames), axis=0))
    palette = tall.quantize(256, method=Image.Quantize.MEDIANCUT)
    first, *others = [
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    ]
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="gif",
        save_all=True,
        append_images=others,
        duration=max(20, round(1000.0 / speed / 10.0) * 10),
        loop=0,
    )
    return buffer.getvalue()

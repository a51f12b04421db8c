"""Clips that play: GIF and mp4 files of the clips that `generate` returns."""

import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image

from keras_mdm import checks
from keras_mdm.files import write_atomically
from keras_mdm.pictures.grids import captioned_grid, on_white


def animated_grid(
    clips_by_level: Mapping[str, np.ndarray], prompts: Sequence[str], *, size: int | None = None
) -> np.ndarray:
    """One row per level, one column per prompt, as frames of a clip.

    Levels with fewer frames show each of theirs for longer: an image level shows the same picture
    throughout.

    Args:
        clips_by_level: {level: uint8 (B, T, H, W, C) or, for images, (B, H, W, C)}, lowest first.
        prompts: B captions.
        size: side of every cell, see `captioned_grid`.

    Returns:
        uint8 (T, height, width, 3), where T is that of the longest clip.

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


def encode_gif(frames: np.ndarray, *, frames_per_second: float = 8.0, comment: str = "") -> bytes:
    """Frames as the bytes of a GIF file that plays for ever and keeps every frame, even equal ones.

    Args:
        frames: uint8 (T, H, W, C) of 1, 3 or 4 channels; on white where they are transparent.
        frames_per_second: speed, rounded to hundredths of a second per frame, as GIF needs.
        comment: a text to keep in the file.

    Returns:
        The bytes.

    Raises:
        ValueError: if the frames have another shape or type.
    """
    frames, speed = _check(frames, frames_per_second, fastest=50.0)
    # One palette for all frames, or flat areas would flicker.
    pictures = [Image.fromarray(frame) for frame in frames]
    tall = Image.fromarray(np.concatenate(list(frames), axis=0))
    palette = tall.quantize(256, method=Image.Quantize.MEDIANCUT)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    # Pillow's own writer merges equal frames, so a clip would lose some.
    lasts = max(20, round(1000.0 / speed / 10.0) * 10)
    info = {"loop": 0, "duration": lasts, "comment": comment.encode()}
    header, _ = GifImagePlugin.getheader(pictures[0].copy(), info=info)
    pieces, shown = list(header), None
    for picture in pictures:
        indices = np.asarray(picture)
        left, top, right, bottom = _changed(shown, indices)
        part = picture.crop((left, top, right, bottom))
        pieces += GifImagePlugin.getdata(part, (left, top), duration=lasts)
        shown = indices
    return b"".join([*pieces, b";"])


def _changed(before: np.ndarray | None, after: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the changed area of a frame; one pixel if nothing changed."""
    if before is None:
        return 0, 0, *after.shape[::-1]
    rows, columns = np.nonzero(before != after)
    if not len(rows):
        return 0, 0, 1, 1
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def encode_mp4(
    frames: np.ndarray,
    *,
    frames_per_second: float = 8.0,
    quality: int = 14,
    comment: str = "",
) -> bytes:
    """Frames as the bytes of an mp4 file (H.264) that browsers and players show.

    Args:
        frames: uint8 (T, H, W, C). Players want even sides: an odd one is repeated at the edge.
        frames_per_second: speed.
        quality: the encoder's constant rate factor, 0 (lossless) to 51.
        comment: a text to keep in the file.

    Returns:
        The bytes.

    Raises:
        ValueError: if the frames have another shape or type, or PyAV is not installed.
    """
    frames, speed = _check(frames, frames_per_second, fastest=240.0)
    if checks.integer("quality", quality, minimum=0) > 51:
        raise checks.error("`quality` must be at most 51", fix="pass 14 or so", quality=quality)
    try:
        import av
    except ImportError as missing:
        raise checks.error(
            "mp4 files need the package av (PyAV)",
            fix="run `pip install av`, or write a GIF",
            missing=missing.name,
        ) from missing
    height, width = (side + side % 2 for side in frames.shape[1:3])
    edges = ((0, 0), (0, height - frames.shape[1]), (0, width - frames.shape[2]), (0, 0))
    frames = np.pad(frames, edges, mode="edge")
    # The index goes in front, so that browsers begin before they have the whole file. For that the
    # encoder reads its output again, which needs a file.
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "clip.mp4"
        with av.open(str(file), "w", options={"movflags": "faststart"}) as container:
            container.metadata["comment"] = comment
            stream = container.add_stream("libx264", rate=Fraction(speed).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(quality)}
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return file.read_bytes()


def write_clip(
    path: str | Path,
    frames: np.ndarray,
    *,
    frames_per_second: float = 8.0,
    smallest: int = 128,
    comment: str = "",
) -> Path:
    """Write a clip as a GIF or an mp4 file, depending on the ending of its name.

    Args:
        path: the file, ending in .gif or .mp4.
        frames: uint8 (T, H, W, C).
        frames_per_second: speed.
        smallest: clips whose shorter side has fewer pixels are enlarged by a whole factor, as
            players would blur them.
        comment: a text to keep in the file.

    Returns:
        The path.

    Raises:
        ValueError: if the ending is another one, or the frames have another shape or type.

    Example:

    ```python
    clips = model.generate(["a pizza turning"], seed=0)["8x32"]
    write_clip("pizza.mp4", clips[0])
    ```
    """
    path = Path(path)
    encoders = {".gif": encode_gif, ".mp4": encode_mp4}
    encode = encoders[checks.one_of("ending", path.suffix.lower(), tuple(encoders))]
    frames, _ = _check(frames, frames_per_second, fastest=240.0)
    factor = -(-checks.integer("smallest", smallest, minimum=1) // min(frames.shape[1:3]))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    return write_atomically(
        path, encode(frames, frames_per_second=frames_per_second, comment=comment)
    )


def _check(frames: np.ndarray, frames_per_second: float, *, fastest: float) -> tuple:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or not frames.size:
        raise checks.error(
            "`frames` must be uint8 (T, H, W, C)",
            fix="pass one clip, or an animated_grid of several",
            shape=frames.shape,
            dtype=str(frames.dtype),
        )
    speed = checks.real("frames_per_second", frames_per_second, minimum=0.1, maximum=fastest)
    return on_white(frames), speed

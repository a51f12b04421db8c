"""Pictures made of pictures: grids, captions, contact sheets."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from keras_mdm import checks
from keras_mdm.pictures import pixels

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Characters of a title that are drawn.
_LONGEST = 300


def image_grid(images: np.ndarray, columns: int | None = None, *, gap: int = 2) -> np.ndarray:
    """Put a batch of pictures into one.

    Args:
        images: uint8 (B, H, W, C), or clips (B, T, H, W, C): one row per clip, time to the right.
            C is 3, 1 (grey) or 4 (with transparency).
        columns: pictures per row; by default a nearly square grid. Clips ignore it.
        gap: width of the white lines between pictures.

    Returns:
        uint8 (height, width, C); empty places are white.

    Example:

    >>> image_grid(np.zeros((5, 8, 8, 3), "uint8"), columns=3, gap=0).shape
    (16, 24, 3)
    """
    images = _as_uint8(images)
    if images.ndim == 5:
        columns, images = images.shape[1], images.reshape(-1, *images.shape[2:])
    batch, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(batch))
    checks.integer("columns", columns, minimum=1)
    rows = math.ceil(batch / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    grid = np.full(shape, 255, "uint8")
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def captioned_grid(
    images_by_level: Mapping[str, np.ndarray],
    prompts: Sequence[str],
    *,
    size: int | None = None,
    font_size: int = 14,
    gap: int = 6,
) -> np.ndarray:
    """One row per level, one column per prompt, the prompt under its column.

    Args:
        images_by_level: {level: uint8 (B, H, W, C)}, lowest first; clips show their first frame.
            Grey pictures become RGB, transparent ones are put on white.
        prompts: B captions; long ones are wrapped.
        size: height of every cell; by default the highest level's. Pictures are enlarged by whole
            pixels (nearest neighbour), never smoothed, and keep their aspect.
        font_size: height of the letters in pixels.
        gap: width of the white lines.

    Returns:
        uint8 (height, width, 3).

    Example:

    ```python
    images = model.generate(prompts, seed=0)
    Image.fromarray(captioned_grid(images, prompts, size=160)).save("samples.png")
    ```
    """
    levels = {name: on_white(images) for name, images in images_by_level.items()}
    if not levels or any(len(images) != len(prompts) for images in levels.values()):
        raise checks.error(
            "every level must hold one picture per prompt",
            fix="pass the prompts that the pictures were generated from",
            prompts=len(prompts),
            pictures={name: len(images) for name, images in levels.items()},
        )
    levels = {name: im[:, 0] if im.ndim == 5 else im for name, im in levels.items()}
    highest = max(levels.values(), key=lambda images: images.shape[1])
    size = size or highest.shape[1]
    width = _width_at(size, highest)
    rows = [
        np.stack([_enlarge(image, size, width) for image in images]) for images in levels.values()
    ]
    pictures = image_grid(np.concatenate(rows), columns=len(prompts), gap=gap)
    font = ImageFont.load_default(size=font_size)
    texts = [wrap_text(prompt, width, font) for prompt in prompts]
    line_height = math.ceil(font_size * 1.3)
    below = max(len(lines) for lines in texts) * line_height + gap
    canvas = Image.new("RGB", (pictures.shape[1], pictures.shape[0] + below), "white")
    canvas.paste(Image.fromarray(pictures), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for column, lines in enumerate(texts):
        for i, line in enumerate(lines):
            centre = column * (width + gap) + width // 2
            top = pictures.shape[0] + gap // 2 + i * line_height
            draw.text((centre, top), line, fill="black", font=font, anchor="ma")
    return np.asarray(canvas)


def contact_sheet(
    clips: np.ndarray,
    prompts: Sequence[str],
    *,
    size: int | None = None,
    font_size: int = 14,
    gap: int = 4,
) -> np.ndarray:
    """One row per clip, its caption on the left, time to the right.

    Args:
        clips: uint8 (B, T, H, W, C), see `captioned_grid`.
        prompts: B captions; long ones are wrapped.
        size: height of every frame; the clips' own unless given.
        font_size: height of the letters in pixels.
        gap: width of the white lines.

    Returns:
        uint8 (height, width, 3).

    Example:

    >>> contact_sheet(np.zeros((2, 4, 32, 32, 3), "uint8"), ["a", "b"], gap=0).shape[0]
    64
    """
    clips = on_white(clips)
    if clips.ndim != 5 or len(clips) != len(prompts):
        raise checks.error(
            "there must be one clip (T, H, W, 3) per prompt",
            fix="pass what `generate` returned for a clip level, and its prompts",
            shape=clips.shape,
            prompts=len(prompts),
        )
    size = clips.shape[2] if size is None else checks.integer("size", size, minimum=1)
    width = _width_at(size, clips)
    large = np.stack([[_enlarge(frame, size, width) for frame in clip] for clip in clips])
    pictures = image_grid(large, gap=gap)
    font = ImageFont.load_default(size=font_size)
    column = 9 * font_size
    canvas = Image.new("RGB", (column + gap + pictures.shape[1], pictures.shape[0]), "white")
    canvas.paste(Image.fromarray(pictures), (column + gap, 0))
    draw = ImageDraw.Draw(canvas)
    for row, prompt in enumerate(prompts):
        text = "\n".join(wrap_text(prompt, column, font))
        middle = row * (size + gap) + size // 2
        draw.multiline_text((0, middle), text, fill="black", font=font, anchor="lm")
    return np.asarray(canvas)


def wrap_text(text: str, width: int, font: Font) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words or, if needed, inside them.

    Only the beginning of a very long text is kept.
    """
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width and len(word) > 1:
            # From the front: a word may fill a thousand lines.
            cut = 1
            while font.getlength(word[: cut + 1]) <= width:
                cut += 1
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line or not lines else lines


def encode_png(picture: np.ndarray, *, texts: Mapping[str, str] | None = None) -> bytes:
    """A picture as the bytes of a PNG file.

    Args:
        picture: uint8 (H, W, C) of 1, 3 or 4 channels.
        texts: to keep in the file, by keyword.
    """
    buffer, info = io.BytesIO(), PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_itxt(keyword, text)
    shown = picture[..., 0] if picture.shape[-1] == 1 else picture
    Image.fromarray(shown).save(buffer, format="png", pnginfo=info)
    return buffer.getvalue()


def on_white(images: np.ndarray) -> np.ndarray:
    """Pictures as they are shown: RGB, with white where they are transparent.

    Args:
        images: uint8 (B, H, W, C), or clips (B, T, H, W, C); C is 1, 3 or 4.

    Returns:
        uint8 of the same shape with three channels.

    Raises:
        ValueError: if they have another shape or type.

    Example:

    >>> on_white(np.array([[[[200, 0, 0, 0]]]], "uint8")).tolist()
    [[[[255, 255, 255]]]]
    """
    images = _as_uint8(images)
    if images.shape[-1] == 1:
        return images.repeat(3, axis=-1)
    if images.shape[-1] == 3:
        return images
    colours, share = images[..., :3].astype("float32"), images[..., 3:].astype("float32") / 255.0
    return np.round(255.0 + (colours - 255.0) * share).astype("uint8")


def _as_uint8(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    fits = images.ndim in (4, 5) and images.shape[-1] in pixels.PICTURE_CHANNELS
    if images.dtype != np.uint8 or not fits:
        raise checks.error(
            "pictures must be uint8 (B, H, W, C), or clips (B, T, H, W, C), of 1, 3 or 4 channels",
            fix="pass what `generate` returns for one level; codes have to be decoded, see "
            "keras_mdm.latents.to_pictures and SampleGrid(codec=)",
            shape=images.shape,
            dtype=str(images.dtype),
        )
    return images


def _width_at(height: int, images: np.ndarray) -> int:
    """Width of pictures `(..., H, W, C)` shown at a given height."""
    return max(1, round(height * images.shape[-2] / images.shape[-3]))


def _enlarge(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST))

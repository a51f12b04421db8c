"""Pictures drawn during training: grids, captions, and the callback that writes them."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback
from keras_mdm.files import write_atomically

if TYPE_CHECKING:
    from keras_mdm.callbacks.tensorboard import EventWriter


def image_grid(images: np.ndarray, columns: int | None = None, *, gap: int = 2) -> np.ndarray:
    """Put a batch of pictures into one.

    Args:
        images: uint8 (B, H, W, 3), or clips (B, T, H, W, 3): one row per clip, time to the right.
        columns: pictures per row; by default a nearly square grid. Clips ignore it.
        gap: width of the white lines between pictures.

    Returns:
        uint8 (height, width, 3); places without a picture are white.

    Example:

    >>> image_grid(np.zeros((5, 8, 8, 3), "uint8"), columns=3, gap=0).shape
    (16, 24, 3)
    """
    images = _as_uint8(images)
    if images.ndim == 5:
        columns, images = images.shape[1], images.reshape(-1, *images.shape[2:])
    batch, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(batch))
    checks.integer("columns", columns, minimum=1)
    rows = math.ceil(batch / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
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
        images_by_level: {level: uint8 (B, H, W, 3)}, lowest first; of clips the first frame.
        prompts: B captions; long ones are wrapped.
        size: side of every cell; by default the highest level's. Pictures are enlarged by whole
            pixels (nearest neighbour), never smoothed.
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
    levels = {name: _as_uint8(images) for name, images in images_by_level.items()}
    if not levels or any(len(images) != len(prompts) for images in levels.values()):
        raise checks.error(
            "every level must hold one picture per prompt",
            fix="pass the prompts that the pictures were generated from",
            prompts=len(prompts),
            pictures={name: len(images) for name, images in levels.items()},
        )
    levels = {name: im[:, 0] if im.ndim == 5 else im for name, im in levels.items()}
    size = size or max(images.shape[1] for images in levels.values())
    rows = [np.stack([_enlarge(image, size) for image in images]) for images in levels.values()]
    pictures = image_grid(np.concatenate(rows), columns=len(prompts), gap=gap)
    font = ImageFont.load_default(size=font_size)
    texts = [wrap_text(prompt, size, font) for prompt in prompts]
    line_height = math.ceil(font_size * 1.3)
    below = max(len(lines) for lines in texts) * line_height + gap
    canvas = Image.new("RGB", (pictures.shape[1], pictures.shape[0] + below), "white")
    canvas.paste(Image.fromarray(pictures), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for column, lines in enumerate(texts):
        for i, line in enumerate(lines):
            centre = column * (size + gap) + size // 2
            top = pictures.shape[0] + gap // 2 + i * line_height
            draw.text((centre, top), line, fill="black", font=font, anchor="ma")
    return np.asarray(canvas)


def wrap_text(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words and, if need be, inside."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width and len(word) > 1:
            cut = len(word) - 1
            while cut > 1 and font.getlength(word[:cut]) > width:
                cut -= 1
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line or not lines else lines


def encode_png(picture: np.ndarray) -> bytes:
    """A (H, W, 3) uint8 picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return buffer.getvalue()


class SampleGrid(StepCallback):
    """Generate pictures now and then; write PNG files and, if wanted, TensorBoard images.

    Args:
        generate_fn: function without arguments that gives {level: uint8 (B, H, W, 3)}.
        prompts: the captions of the B pictures, or `None` for plain grids only.
        directory: receives `step-0000500_64.png` per level and, with prompts,
            `step-0000500_all.png`.
        every: generate when a multiple of this many steps is reached.
        writer: an `EventWriter`, such as `TensorBoardLogger(...).writer`.
        initial_step: see `StepCallback`.

    Example:

    ```python
    draw = lambda: model.generate(prompts, steps=25, seed=0)
    callbacks = [SampleGrid(draw, prompts, "runs/x/samples", every=1000, writer=logger.writer)]
    ```
    """

    chief_only = True

    def __init__(
        self,
        generate_fn: Callable[[], Mapping[str, np.ndarray]],
        prompts: Sequence[str] | None,
        directory: str | Path,
        every: int,
        writer: "EventWriter | None" = None,
        *,
        initial_step: int = 0,
    ):
        super().__init__(initial_step=initial_step)
        self.generate_fn = generate_fn
        self.prompts = None if prompts is None else list(prompts)
        self.directory = Path(directory)
        self.every = checks.integer("every", every, minimum=1)
        self.writer = writer

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if self.crossed(self.every, previous_step):
            self.write()

    def write(self) -> list[Path]:
        """Generate and write now; gives the paths of the files."""
        images = {level: np.asarray(batch) for level, batch in self.generate_fn().items()}
        grids = {level: image_grid(batch) for level, batch in images.items()}
        if self.prompts is not None:
            grids["all"] = captioned_grid(images, self.prompts)
        paths = []
        for name, grid in grids.items():
            path = self.directory / f"step-{self.step:07d}_{name}.png"
            paths.append(write_atomically(path, encode_png(grid)))
            if self.writer is not None:
                self.writer.image(self.step, f"samples/{name}", grid)
        return paths


def _as_uint8(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (4, 5) or images.shape[-1] != 3:
        raise checks.error(
            "pictures must be uint8 (B, H, W, 3), or clips (B, T, H, W, 3)",
            fix="pass what `generate` returns for one level",
            shape=images.shape,
            dtype=str(images.dtype),
        )
    return images


def _enlarge(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST))

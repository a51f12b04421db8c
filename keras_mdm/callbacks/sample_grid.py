"""The callback that draws prompts during training and writes the pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback
from keras_mdm.files import unless_full, write_atomically
from keras_mdm.latents import Codec, check_codec, to_pictures
from keras_mdm.pictures.grids import captioned_grid, encode_png, image_grid
from keras_mdm.pictures.playing import animated_grid, encode_gif

if TYPE_CHECKING:
    from keras_mdm.callbacks.tensorboard import EventWriter


class SampleGrid(StepCallback):
    """Generate pictures or clips at intervals; write files and, if wanted, TensorBoard images.

    Args:
        generate_fn: function without arguments that returns {level: uint8 (B, H, W, C)}, or
            (B, T, H, W, C) for clips, of 1, 3 or 4 channels; with a codec, codes.
        prompts: the captions of the B pictures, or `None` for plain grids only.
        directory: receives `step-0000500_64.png` per level and, with prompts,
            `step-0000500_all.png`; if there are clips, `step-0000500_all.gif`, which plays.
        every: generate when a multiple of this many steps is reached.
        writer: an `EventWriter`, such as `TensorBoardLogger(...).writer`.
        codec: decodes the codes from `generate_fn`, see `keras_mdm.latents`; for a model of codes,
            drawn with `output="float32"`. Not needed where a `LatentDiffusion` draws.
        initial_step: see `StepCallback`.

    Raises:
        ValueError: if `codec` is none; before the first step, if its codes have other channels than
            those of the model in training.

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
        codec: Codec | None = None,
        initial_step: int = 0,
    ):
        super().__init__(initial_step=initial_step)
        self.generate_fn = generate_fn
        self.prompts = None if prompts is None else list(prompts)
        self.directory = Path(directory)
        self.every = checks.integer("every", every, minimum=1)
        self.writer = writer
        if codec is not None:
            check_codec(codec)
        self.codec = codec

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.codec is not None and hasattr(self.model, "unet"):
            check_codec(self.codec, self.model)
        if self.writer is not None and self.prompts is not None:
            rows = [f"{number}. {prompt}" for number, prompt in enumerate(self.prompts, start=1)]
            self.writer.text(self.step, "samples/prompts", "\n".join(rows))

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if self.crossed(self.every, previous_step):
            with unless_full("a page of pictures"):
                self.write()

    def write(self) -> list[Path]:
        """Generate and write now; return the paths of the files."""
        images = {level: np.asarray(batch) for level, batch in self.generate_fn().items()}
        if self.codec is not None:
            images = {level: to_pictures(self.codec, codes) for level, codes in images.items()}
        paths = [self._write(level, image_grid(batch)) for level, batch in images.items()]
        if self.prompts is None:
            return paths
        if any(batch.ndim == 5 for batch in images.values()):
            size = max(64, *(batch.shape[-3] for batch in images.values()))
            frames = animated_grid(images, self.prompts, size=size)
            return [*paths, self._write("all", frames)]
        return [*paths, self._write("all", captioned_grid(images, self.prompts))]

    def _write(self, name: str, grid: np.ndarray) -> Path:
        """Write a picture, or frames as a GIF."""
        plays = grid.ndim == 4
        content = encode_gif(grid) if plays else encode_png(grid)
        path = self.directory / f"step-{self.step:07d}_{name}.{'gif' if plays else 'png'}"
        if self.writer is not None:
            show = self.writer.clip if plays else self.writer.image
            show(self.step, f"samples/{name}", grid)
        return write_atomically(path, content)

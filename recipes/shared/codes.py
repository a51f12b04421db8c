"""Codes of pictures as the data of a run, by a frozen autoencoder."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import keras_mdm as mdm
from shared import drawing
from shared.pictures import Pictures

# Pictures on which the scale of a codec is measured that does not know its own.
MEASURED = 2048
FILE = "latent.keras"


class Codes(Pictures):
    """As `Pictures`, for levels of codes: a level of 16 with factor 4 is made of pictures of 64.

    The drawings in memory are encoded once; files are while batches are read.

    Args:
        arguments: of the recipe.
        levels: names of all levels, sizes of codes.
        encoder: of the texts.
        process: options of `MatryoshkaDiffusion`.
        codec: makes the codes.
        **options: of `Pictures`.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        levels: Sequence[str],
        encoder: mdm.text.TextEncoder | None,
        process: Mapping[str, Any],
        *,
        codec: Any,
        **options: Any,
    ):
        self.codec = codec
        super().__init__(
            arguments, [self._picture(level) for level in levels], encoder, process, **options
        )
        if hasattr(codec, "measure_scale") and not np.all(np.asarray(codec.code_deviation) > 0.0):
            self._measure()
        self.codes = {}
        if self.in_memory:
            self.codes = {
                level: self._encoded(self.source.images[int(self._picture(level))])
                for level in levels
            }

    def _picture(self, level: str) -> str:
        """The size of the pictures of a level of codes."""
        return str(int(level) * self.codec.factor)

    def _measure(self) -> None:
        """Measure the scale of the codes of a published autoencoder."""
        if self.in_memory:
            self.codec.measure_scale(self.source.images[self.highest])
        else:
            rows = min(32, len(self.source))
            made = super()._group(str(self.highest), rows, text=None)
            self.codec.measure_scale(made, batches=max(1, min(MEASURED, len(self.source)) // rows))
        print(f"deviation of the codes: {np.round(np.asarray(self.codec.code_deviation), 3)}")

    def _encoded(self, pictures: np.ndarray) -> np.ndarray:
        parts = range(0, len(pictures), 64)
        codes = [self.codec.encode(pictures[first : first + 64]) for first in parts]
        return np.concatenate([np.asarray(part, "float32") for part in codes])

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find unchanged: the pictures, and what makes codes of them."""
        return {**super().identity, "codec": mdm.latents.identity_of(self.codec)}

    @property
    def conditions(self) -> dict[str, Any]:
        """Options of the network."""
        channels = self.codec.channels
        return {**super().conditions, "in_channels": channels, "out_channels": channels}

    def _group(self, level: str, rows: int, **given: Any) -> tf.data.Dataset:
        """Batches of one level."""
        if not self.in_memory:
            made = super()._group(self._picture(level), rows, **given)
            return mdm.latents.to_codes(made, self.codec)
        # Validation sees the first drawings.
        count = len(self.source if given.get("source") is None else given["source"])
        text = given["text"] or (None, None)
        keys = {"text": ("text", "text_mask"), "class": ("label",), "none": ()}
        return mdm.data.image_text_dataset(
            self.codes[level][:count],
            *(None if values is None else values[:count] for values in text),
            self.source.labels[:count],
            keys=("image", "sample", *keys[self.condition]),
            batch_size=rows,
            seed=self.seed,
            first_step=given.get("first_step", 0),
        )

    def grids(self, every: int, sampling: Mapping[str, Any]) -> drawing.SampleGrids:
        """Return the maker of the callback that draws every n steps, decoded."""
        return self.subjects().grids(every, sampling, as_drawn=self.with_codec)

    def with_codec(self, model: mdm.MatryoshkaDiffusion) -> Any:
        """The model together with its codec, which draws pictures."""
        return mdm.latents.LatentDiffusion(model, self.codec)

    def finished(self, model: mdm.MatryoshkaDiffusion, run_dir: Path) -> Any:
        """`with_codec`, written to a file of the run."""
        drawn = self.with_codec(model)
        drawn.save(run_dir / FILE)
        return drawn

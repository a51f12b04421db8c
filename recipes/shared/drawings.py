"""Drawings in memory, on which small runs train: the embedded emoji, or pictures of a folder."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

import keras_mdm as mdm
from shared import batches, drawing, notes, texts

# Number of pairs for --validate-every: the first ones, since a small set trains on all it has.
VALIDATED = 64


class Drawings:
    """Captioned pictures in memory: the embedded emoji, or those of the folder --data.

    Args:
        arguments: of the recipe.
        levels: names of all levels.
        encoder: of the captions.
        process: options of `MatryoshkaDiffusion`.
    """

    condition = "text"

    def __init__(
        self,
        arguments: argparse.Namespace,
        levels: Sequence[str],
        encoder: mdm.text.TextEncoder,
        process: Mapping[str, Any],
    ):
        self.encoder, self.seed = encoder, arguments.seed
        downsample = process.get("downsample", "area")
        self.source = load(arguments.data, sizes=list(map(int, levels)), downsample=downsample)
        self.data = arguments.data
        self.prompts = drawing.choose_prompts(self.source, texts.PROMPTS, 32)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return self.source.identity

    @property
    def notes(self) -> dict[str, Any]:
        """What the card of the model says of it."""
        if self.data is not None:
            return notes.of_files(self.data, len(self.source), "pictures")
        return notes.of_asset("emoji", len(self.source), self.prompts[:4])

    @property
    def conditions(self) -> dict[str, Any]:
        """Options of the network."""
        return {"text_width": self.encoder.width}

    def datasets(self) -> Callable[[mdm.Phase, int], tf.data.Dataset]:
        """Make the function that returns the batches of a phase from a step on."""
        states = mdm.text.encode_cached(self.encoder, self.source.captions)

        def make_dataset(phase: mdm.Phase, first_step: int) -> tf.data.Dataset:
            groups = {
                level: self._batches(self.source, states, level, rows, first_step=first_step)
                for level, rows in phase.groups.items()
            }
            return mdm.data.mixed_dataset(groups)

        return make_dataset

    def validation(self, phase: mdm.Phase) -> tf.data.Dataset:
        """The pairs of --validate-every."""
        few = self.source.take(np.arange(min(VALIDATED, len(self.source))))
        states = mdm.text.encode_cached(self.encoder, self.source.captions)
        states, rows = [each[: len(few)] for each in states], batches.validated_rows(phase)
        made = self._batches(few, states, phase.level_names[-1], rows)
        return made.take(max(1, len(few) // rows))

    def _batches(
        self,
        source: mdm.data.CaptionedImages,
        states: Sequence[np.ndarray],
        level: str,
        rows: int,
        *,
        first_step: int = 0,
    ) -> tf.data.Dataset:
        """Batches of one level."""
        return mdm.data.image_text_dataset(
            source.images[int(level)],
            *states,
            batch_size=rows,
            seed=self.seed,
            first_step=first_step,
            **self._seen(source),
        )

    def _seen(self, source: mdm.data.CaptionedImages) -> dict[str, np.ndarray]:
        """What a batch holds besides pictures and captions."""
        return {}

    def grids(self, every: int, sampling: Mapping[str, Any]) -> drawing.SampleGrids:
        """Return the maker of the callback that draws every n steps."""
        return drawing.SampleGrids(self.prompts[:8], every=every, **sampling)

    def show(
        self, model: mdm.MatryoshkaDiffusion, run_dir: Path, sampling: Mapping[str, Any]
    ) -> dict[str, Path]:
        """Draw the prompts, and measure; return the files written."""
        page = drawing.write_page(model, self.prompts, run_dir / "prompts.png", **sampling)
        print(drawing.prompt_fidelity(model, self.source, count=64, seed=1, **sampling))
        return {"Picture": page}

    def report(self) -> None:
        """Name the files that could not be read."""
        report_skipped(self.source)


class Enlarged(Drawings):
    """Drawings in memory for an upsampler, which sees each of them at a smaller size.

    Args:
        arguments: of the recipe.
        levels: names of all levels.
        encoder: of the captions.
        process: options of `MatryoshkaDiffusion`.
        sees: the smaller size.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        levels: Sequence[str],
        encoder: mdm.text.TextEncoder,
        process: Mapping[str, Any],
        *,
        sees: int,
    ):
        super().__init__(arguments, [str(sees), *levels], encoder, process)
        self.sees = sees

    def _seen(self, source: mdm.data.CaptionedImages) -> dict[str, np.ndarray]:
        """The drawings at the smaller size."""
        return {"low_res": source.images[self.sees]}

    def grids(self, every: int, sampling: Mapping[str, Any]) -> drawing.SampleGrids:
        """Return the maker of the callback that enlarges the first real drawings every n steps."""
        few = self.source.take(np.arange(min(8, len(self.source))))
        seen = few.images[self.sees]
        return drawing.SampleGrids(few.captions, every=every, low_res=seen, **sampling)


def load(
    directory: str | None, *, sizes: Sequence[int], downsample: str = "area"
) -> mdm.data.CaptionedImages:
    """Load your own pictures, or the embedded emoji, at all sizes of the levels."""
    if directory is not None:
        data = mdm.data.load_folder(directory, size=sizes, downsample=downsample)
        print(f"{len(data)} pictures of {directory}")
    else:
        data = mdm.data.load_emoji(sizes, downsample=downsample, concepts="simple", split="train")
        print(
            f"Small run on the built-in default: {len(data)} Twemoji drawings (CC BY 4.0, "
            "Twitter and contributors), far below the paper's scale"
        )
    report_skipped(data)
    return data


def report_skipped(data: mdm.data.CaptionedImages) -> None:
    """Name the files that could not be read."""
    if data.skipped:
        print(f"{len(data.skipped)} pictures were skipped:")
        for file, reason in data.skipped:
            print(f"  {file}: {reason}")


def write_emoji(folder: Path, size: int) -> Path:
    """Write the drawings as a plain folder of pictures whose names are their captions."""
    data = mdm.data.load_emoji((size,), concepts="simple", split="train")
    folder.mkdir(parents=True, exist_ok=True)
    for picture, caption in zip(data.largest, data.captions, strict=True):
        Image.fromarray(picture).save(folder / f"{caption.replace(' ', '_')}.png")
    print(
        f"Small run on the built-in default: {len(data)} Twemoji drawings (CC BY 4.0, "
        f"Twitter and contributors) written to {folder}"
    )
    return folder

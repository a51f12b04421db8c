"""What the recipes draw: grids during training, pages at the end, and how often they are right."""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import keras_mdm as mdm


class SampleGrids:
    """Makes the callback that draws every n steps, to PNG and TensorBoard; before the first step it
    checks for every phase that the model will draw.

    Args:
        titles: texts below the pictures, and the prompts unless there are labels.
        every: steps between drawings.
        labels: the classes that the titles name, if classes are drawn.
        unconditional: draw without prompts.
        as_drawn: makes of the model in training what draws pictures, for a model of codes.
        **options: of `generate`.
    """

    def __init__(
        self,
        titles: Sequence[str],
        *,
        every: int,
        labels: Sequence[int] | None = None,
        unconditional: bool = False,
        as_drawn: Callable[[mdm.MatryoshkaDiffusion], Any] = lambda model: model,
        **options: object,
    ):
        self.titles, self.every, self.as_drawn = list(titles), every, as_drawn
        self.prompts = None if unconditional or labels is not None else self.titles
        self.options = {**options, "labels": labels, "progress": False}

    def __call__(self, context: mdm.PhaseContext) -> list:
        """The callbacks of a phase."""
        drawn = self.as_drawn(context.model)
        return [
            mdm.callbacks.SampleGrid(
                lambda: drawn.generate(self.prompts, **self.options),
                self.titles,
                context.run.samples,
                self.every,
                context.logger.writer,
                initial_step=context.global_step,
            )
        ]

    def check(self, phase: mdm.Phase, model: mdm.MatryoshkaDiffusion) -> None:
        """Raise unless the model of a phase, whose weights have no values yet, will draw."""
        mdm.callbacks.SampleGrid(dict, self.titles, "", self.every)  # its own arguments
        self.as_drawn(model).generate(self.prompts, **self.options, dry_run=True)


@dataclasses.dataclass(frozen=True)
class Subjects:
    """What is drawn.

    Args:
        titles: texts below the pictures, and the prompts unless there are labels.
        labels: the classes that the titles name, if classes are drawn.
        unconditional: draw without prompts.
    """

    titles: Sequence[str]
    labels: Sequence[int] | None = None
    unconditional: bool = False

    def first(self, count: int) -> "Subjects":
        """The first ones."""
        labels = None if self.labels is None else self.labels[:count]
        return dataclasses.replace(self, titles=self.titles[:count], labels=labels)

    @property
    def options(self) -> dict[str, Any]:
        """Options of `SampleGrids` and `write_page`."""
        if self.unconditional:
            return {"unconditional": True, "num_images": len(self.titles)}
        return {} if self.labels is None else {"labels": self.labels}

    def grids(self, every: int, sampling: Mapping[str, Any], **options: Any) -> SampleGrids:
        """Return the maker of the callback that draws the first eight every n steps."""
        few = self.first(8)
        return SampleGrids(few.titles, every=every, **{**sampling, **few.options, **options})

    def page(self, model: mdm.MatryoshkaDiffusion, path: Path, sampling: Mapping[str, Any]) -> Path:
        """Draw all as one picture."""
        return write_page(model, self.titles, path, **{**sampling, **self.options})


def choose_prompts(data: mdm.data.CaptionedImages, wanted: Sequence[str], count: int) -> list[str]:
    """The wanted captions that exist in the data, filled up with random ones."""
    known = [caption for caption in wanted if caption in data.captions]
    others = sorted(set(data.captions) - set(known))
    random.Random(0).shuffle(others)
    return (known + others)[:count]


def prompt_fidelity(
    model: mdm.MatryoshkaDiffusion,
    data: mdm.data.CaptionedImages,
    *,
    count: int,
    seed: int,
    **options: object,
) -> str:
    """Draw random training prompts and look for each among the nearest training drawings."""
    rows = np.random.default_rng(seed).permutation(len(data))[: min(count, len(data))]
    prompts = [data.captions[row] for row in rows]
    images = model.generate(prompts, seed=seed, **options)
    lines = [f"{len(rows)} random training prompts; the requested drawing is among the nearest:"]
    for level, drawn in images.items():
        found = mdm.evaluation.retrieval.retrieval(drawn, rows, data.largest, range(len(data)))
        shares = ", ".join(
            f"top {k} {found.share[k]:.2f} +- {found.standard_error[k]:.2f} "
            f"(chance {found.chance[k]:.3f})"
            for k in found.share
        )
        lines.append(f"  level {level}: {shares}")
    return "\n".join(lines)


def write_page(
    model: mdm.MatryoshkaDiffusion,
    prompts: Sequence[str],
    path: Path,
    *,
    labels: Sequence[int] | None = None,
    unconditional: bool = False,
    **options: object,
) -> Path:
    """Draw the prompts, or the classes they name, at every level and write them as one picture,
    eight per row."""
    given = None if unconditional or labels is not None else list(prompts)
    images = model.generate(given, labels=labels, **options)
    strips = []
    for first in range(0, len(prompts), 8):
        part = {level: pictures[first : first + 8] for level, pictures in images.items()}
        shown = prompts[first : first + 8]
        strips.append(mdm.callbacks.captioned_grid(part, shown, size=128))
    width = max(strip.shape[1] for strip in strips)
    strips = [
        np.pad(strip, ((0, 8), (0, width - strip.shape[1]), (0, 0)), constant_values=255)
        for strip in strips
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(strips)).save(path)
    return path

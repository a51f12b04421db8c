"""The pictures of a run: files, or drawings in memory for the small run."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import keras_mdm as mdm
from shared import batches, drawing, drawings, notes, texts

SHOWN = 16
# Number of records for --validate-every: of a small set, and at most of a large one.
VALIDATED, VALIDATED_AT_MOST = 64, 1024


class Pictures:
    """The data of a run: batches per level, texts and classes, and its identity.

    Args:
        arguments: of the recipe.
        levels: names of all levels.
        encoder: of the texts.
        process: options of `MatryoshkaDiffusion`; every level sees D^r of pictures of the highest
            one, in all phases.
        condition: "text", "class" or "none".
        rule: options of `ImageRule`, for files.
        buckets: sizes of the highest level, for files: each picture goes into the nearest.
        original_size: name of the micro-condition for the original size, for files; none unless
            given.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        levels: Sequence[str],
        encoder: mdm.text.TextEncoder | None,
        process: Mapping[str, Any],
        *,
        condition: str = "text",
        rule: Mapping[str, Any] | None = None,
        buckets: Sequence[tuple[int, int]] = (),
        original_size: str | None = None,
    ):
        self.arguments, self.seed = arguments, arguments.seed
        self.condition, self.encoder = condition, encoder
        self.rule, self.original_size = {"flip": arguments.flip, **(rule or {})}, original_size
        self.buckets = tuple(buckets)
        sizes = list(map(int, levels))
        self.highest, self.downsample = max(sizes), process.get("downsample", "area")
        self.in_memory = arguments.data is None
        if self.in_memory:
            self._draw(sizes)
        else:
            self._open(arguments.data, arguments.max_skipped)

    def _draw(self, sizes: Sequence[int]) -> None:
        """Use the drawings in memory."""
        emoji = drawings.load(None, sizes=sizes, downsample=self.downsample)
        self.captions = list(emoji.captions)
        # Every drawing is a class, since drawings of one kind, such as "food", are not alike.
        labels = np.arange(len(emoji), dtype=np.int32)
        self.source = dataclasses.replace(emoji, labels=labels, label_names=emoji.captions)
        self.held_out = self.source.take(np.arange(min(VALIDATED, len(self.source))))

    def _open(self, data: str, max_skipped: float) -> None:
        """Open files."""
        whole = mdm.data.open_images(data, max_skipped=max_skipped)
        # One in a thousand pairs is for validation (appendix E); a small set trains on all.
        large = self.condition == "text" and len(whole) >= 10_000
        self.source = mdm.data.split(whole, "train" if large else "all")
        if large:
            self.held_out = mdm.data.split(whole, "validation")
        else:
            self.held_out = mdm.data.Rows(whole, np.arange(min(VALIDATED, len(whole))))
        print(f"{len(self.source)} pictures of {data}")
        self.captions = sample_captions(self.source) if self.condition == "text" else []

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        rule = {} if self.in_memory else {"rule": dict(self.rule)}
        if rule and self.downsample != "area":  # the rule before this option existed
            rule["rule"]["downsample"] = self.downsample
        if rule and self.buckets:
            rule["rule"]["buckets"] = [list(bucket) for bucket in self.buckets]
        return {**self.source.identity, **rule, "condition": self.condition}

    @property
    def notes(self) -> dict[str, Any]:
        """What the card of the model says of it."""
        if not self.in_memory:
            return notes.of_files(self.arguments.data, len(self.source), "pictures")
        prompts = self.subjects().titles[:4] if self.condition == "text" else ()
        return notes.of_asset("emoji", len(self.source), prompts)

    @property
    def conditions(self) -> dict[str, Any]:
        """Options of the network."""
        if self.condition == "text":
            return {"text_width": self.encoder.width}
        return {"num_classes": self.num_classes} if self.condition == "class" else {}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        if not self.label_names:
            raise ValueError(
                "the data must have named classes. Received: no names. To fix it: use a folder per "
                "class or a data set of TFDS, or pass another --condition"
            )
        return len(self.label_names)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.label_names

    def datasets(self) -> Callable[[mdm.Phase, int], tf.data.Dataset]:
        """Make the function that returns the batches of a phase from a step on."""
        text = self._text()
        return lambda phase, first_step: batches.joined(
            phase, self._group, text=text, first_step=first_step
        )

    def validation(self, phase: mdm.Phase) -> tf.data.Dataset:
        """Pairs for --validate-every: one in a thousand; from a small set some of the trained."""
        text, rows = self._text(), batches.validated_rows(phase)
        if self.in_memory and text is not None:
            text = tuple(values[: len(self.held_out)] for values in text)
        made = self._group(phase.level_names[-1], rows, text=text, source=self.held_out)
        return made.take(max(1, min(VALIDATED_AT_MOST, len(self.held_out)) // rows))

    def _text(self) -> Any:
        """The source of the captions' states: arrays, stored states, or the encoder itself."""
        if self.condition != "text":
            return None
        if self.in_memory:
            return mdm.text.encode_cached(self.encoder, self.captions)
        return texts.states(self.source, self.encoder, self.arguments)

    def _group(
        self,
        level: str,
        rows: int,
        *,
        text: Any,
        first_step: int = 0,
        worker: tuple[int, int] = (0, 1),
        source: Any = None,
    ) -> tf.data.Dataset:
        """Batches of one level."""
        source, size = source or self.source, int(level)
        given = {"batch_size": rows, "seed": self.seed, "first_step": first_step}
        if self.in_memory:
            keys = {"text": ("text", "text_mask"), "class": ("label",), "none": ()}
            return mdm.data.image_text_dataset(
                source.images[size],
                *(text or (None, None)),
                source.labels,
                keys=("image", "sample", *keys[self.condition]),
                **given,
            )
        return mdm.data.image_dataset(
            source,
            self._rule(size),
            encoder=text,
            labels=self.condition == "class",
            original_size=self.original_size,
            worker=worker,
            **given,
        )

    def _rule(self, size: int) -> mdm.data.ImageRule:
        """How files are prepared for a level of this size."""
        given = {"downsample": self.downsample, **self.rule}
        if not self.buckets:
            return mdm.data.ImageRule(size, of=self.highest, **given)
        ratio = self.highest // size
        lower = [(height // ratio, width // ratio) for height, width in self.buckets]
        return mdm.data.ImageRule(buckets=lower, of=self.buckets, **given)

    def subjects(self) -> drawing.Subjects:
        """What is drawn: captions of the data, its classes, or samples without a condition."""
        if self.condition == "none":
            return drawing.Subjects([str(n) for n in range(SHOWN)], unconditional=True)
        names = list(self.label_names) if self.condition == "class" else self.captions
        if self.in_memory:
            names = drawing.choose_prompts(self.source, texts.PROMPTS, SHOWN)
        if self.condition == "text":
            return drawing.Subjects(names[:SHOWN])
        names = (names * SHOWN)[:SHOWN]
        return drawing.Subjects(names, labels=[self.label_names.index(name) for name in names])

    def grids(self, every: int, sampling: Mapping[str, Any]) -> drawing.SampleGrids:
        """Return the maker of the callback that draws every n steps."""
        return self.subjects().grids(every, sampling)

    def show(
        self, model: mdm.MatryoshkaDiffusion, run_dir: Path, sampling: Mapping[str, Any]
    ) -> dict[str, Path]:
        """Draw what the data holds, and the paper's prompts; return the files written."""
        shown = {"Picture": self.subjects().page(model, run_dir / "samples.png", sampling)}
        if self.condition == "text":
            asked = drawing.Subjects(texts.PAPER_PROMPTS.read_text().splitlines())
            guided = {**sampling, "guidance_scale": texts.PAPER_GUIDANCE}
            shown["Paper's prompts"] = asked.page(model, run_dir / "paper_prompts.png", guided)
        return shown

    def report(self) -> None:
        """Name the records that could not be used."""
        skipped = self.source.skipped
        if skipped:
            print(f"{len(skipped)} records were skipped:")
        for file, reason in skipped[:20]:
            print(f"  {file}: {reason}")


def sample_captions(source: mdm.data.ImageSource) -> list[str]:
    """Captions of a few records, spread over the source."""
    rows = np.unique(np.linspace(0, len(source) - 1, SHOWN).astype(int))
    return list(mdm.data.captions_of(mdm.data.Rows(source, rows)))[:SHOWN]

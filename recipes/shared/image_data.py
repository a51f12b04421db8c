"""The pictures of a run: files, or in small the drawings in memory."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import keras_mdm as mdm
from shared import common

SHOWN = 16
# Records of a small set whose losses --validate-every tells, and the most of a large one.
VALIDATED, VALIDATED_AT_MOST = 64, 1024


class Pictures:
    """The data of a run: batches per level, texts and classes, and what tells it from other data.

    Args:
        arguments: of the recipe.
        sizes: sizes of all levels.
        condition: "text", "class" or "none".
        encoder: of the texts.
        rule: options of `ImageRule`.
        original_size: name of the micro-condition for the size before; none unless given.
        downsample: D^r of the process: every level sees it of pictures of the highest one, in all
            phases.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        sizes: Sequence[int],
        condition: str,
        encoder: Any,
        rule: Mapping[str, Any],
        original_size: str | None,
        downsample: str = "area",
    ):
        self.condition, self.encoder, self.seed = condition, encoder, arguments.seed
        self.arguments, self.rule = arguments, {"flip": arguments.flip, **rule}
        self.original_size, self.highest, self.downsample = original_size, max(sizes), downsample
        self.in_memory = arguments.data is None
        if self.in_memory:
            self.source = common.load_data(None, sizes=sizes, downsample=downsample)
            self.captions = list(self.source.captions)
            # Every drawing is a class: of kinds such as "food" no two drawings are alike.
            self.source = dataclasses.replace(
                self.source,
                labels=np.arange(len(self.source), dtype=np.int32),
                label_names=self.source.captions,
            )
            self.held_out = self.source.take(np.arange(min(VALIDATED, len(self.source))))
        else:
            whole = mdm.data.open_images(arguments.data, max_skipped=arguments.max_skipped)
            # One of a thousand pairs is for validation (appendix E); a small set keeps all.
            large = condition == "text" and len(whole) >= 10_000
            self.source = mdm.data.split(whole, "train" if large else "all")
            if large:
                self.held_out = mdm.data.split(whole, "validation")
            else:
                self.held_out = mdm.data.Rows(whole, np.arange(min(VALIDATED, len(whole))))
            print(f"{len(self.source)} pictures of {arguments.data}")
            self.captions = sample_captions(self.source) if condition == "text" else []

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that goes on must find unchanged."""
        rule = {} if self.in_memory else {"rule": dict(self.rule)}
        if rule and self.downsample != "area":  # which rules were before they could say it
            rule["rule"]["downsample"] = self.downsample
        return {**self.source.identity, **rule, "condition": self.condition}

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
        """Make the function that gives the batches of a phase from a step on."""
        text = self._text()

        def make_dataset(phase: mdm.Phase, first_step: int) -> tf.data.Dataset:
            worker = mdm.distribute.worker(*phase.groups.values())
            groups = {
                level: self._group(int(level), text, rows, first_step, worker)
                for level, rows in phase.groups.items()
            }
            return mdm.data.mixed_dataset(groups)

        return make_dataset

    def validation(self, phase: mdm.Phase) -> tf.data.Dataset:
        """Pairs for --validate-every: one of a thousand; of a small set some that are trained."""
        text = self._text()
        if self.in_memory and text is not None:
            text = tuple(values[: len(self.held_out)] for values in text)
        # What groups are multiples of divides over replicas and micro-batches as well.
        rows = np.gcd.reduce(list(phase.groups.values()))
        level = int(phase.level_names[-1])
        batches = self._group(level, text, int(rows), 0, (0, 1), self.held_out)
        return batches.take(max(1, min(VALIDATED_AT_MOST, len(self.held_out)) // int(rows)))

    def _text(self) -> Any:
        """What gives the states of captions: arrays, stored states, or the encoder itself."""
        if self.condition != "text":
            return None
        if self.in_memory:
            return mdm.text.encode_cached(self.encoder, self.captions)
        return common.states(self.source, self.encoder, self.arguments)

    def _group(
        self,
        size: int,
        text: Any,
        rows: int,
        first_step: int,
        worker: tuple[int, int],
        source: Any = None,
    ) -> tf.data.Dataset:
        source = source or self.source
        given = {"batch_size": rows, "seed": self.seed, "first_step": first_step}
        if self.in_memory:
            states, mask = text if text is not None else (None, None)
            keys = {"text": ("text", "text_mask"), "class": ("label",), "none": ()}
            micro = {self.original_size: np.full(len(source), size)}
            return mdm.data.image_text_dataset(
                source.images[size],
                states,
                mask,
                source.labels,
                micro=micro if self.original_size else None,
                keys=[
                    *("image", "sample", *keys[self.condition]),
                    *([self.original_size] if self.original_size else ()),
                ],
                **given,
            )
        return mdm.data.image_dataset(
            source,
            mdm.data.ImageRule(size, of=self.highest, downsample=self.downsample, **self.rule),
            encoder=text,
            labels=self.condition == "class",
            original_size=self.original_size,
            worker=worker,
            **given,
        )

    def report(self) -> None:
        """Name what could not be used."""
        skipped = self.source.skipped
        if skipped:
            print(f"{len(skipped)} records were skipped:")
        for file, reason in skipped[:20]:
            print(f"  {file}: {reason}")


def sample_captions(source: mdm.data.ImageSource) -> list[str]:
    """Captions of a few records, spread over the source."""
    rows = np.unique(np.linspace(0, len(source) - 1, SHOWN).astype(int))
    return list(mdm.data.captions_of(mdm.data.Rows(source, rows)))[:SHOWN]

"""The pictures of experiments: drawings, your own folder, or generated shapes."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import keras_mdm as mdm
from shared import rehearsal_data
from shared.experiments.measuring import Subjects

SHAPES, GENERATED = ("square", "disc", "cross"), 128


@dataclasses.dataclass(frozen=True)
class Study:
    """What all trainings of a directory see.

    Args:
        source: pictures at the sizes of all levels, with captions.
        encoder: of the captions; `None` for classes.
        conditions: options of the network.
        codec: of a study of codes.
        codes: of the pictures, by size, with a codec.
    """

    source: mdm.data.CaptionedImages
    encoder: Any
    conditions: Mapping[str, Any]
    codec: Any = None
    codes: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        made = {} if self.codec is None else {"codec": mdm.latents.identity_of(self.codec)}
        return {**self.source.identity, **made}

    def pictures_digest(self) -> str:
        """A digest of captions, classes and pictures at the largest size, which all variants
        share; others may not be loaded."""
        digest = hashlib.sha256()
        source = self.source
        for part in (source.captions, source.labels, source.images[max(source.images)]):
            if part is not None:
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def datasets(
        self, seed: int, *, sees: int | None = None
    ) -> Callable[[mdm.Phase, int], tf.data.Dataset]:
        """Make the function that returns the batches of a phase from a step on.

        Args:
            seed: of the order.
            sees: size of the smaller pictures beside those of an upsampler.
        """
        given: dict[str, Any] = {"seed": seed}
        if self.encoder is None:
            given |= {"labels": self.source.labels, "keys": ("image", "sample", "label")}
        else:
            states = mdm.text.encode_cached(self.encoder, self.source.captions)
            given |= dict(zip(("text", "text_mask"), states, strict=True))
        if sees is not None:
            given["low_res"] = self.source.images[sees]
            if "keys" in given:
                given["keys"] = (*given["keys"], "low_res")

        def make_dataset(phase: mdm.Phase, first_step: int) -> tf.data.Dataset:
            images = self.source.images if self.codec is None else self.codes
            return mdm.data.mixed_dataset(
                {
                    level: mdm.data.image_text_dataset(
                        images[int(level)], batch_size=rows, first_step=first_step, **given
                    )
                    for level, rows in phase.groups.items()
                }
            )

        return make_dataset

    def subjects(self, count: int) -> Subjects:
        """What is drawn: every picture's caption or class once, then again, in a fixed order."""
        order = np.random.default_rng(0).permutation(len(self.source))
        rows = [int(order[place % len(order)]) for place in range(count)]
        if self.encoder is None:
            return Subjects(labels=[int(self.source.labels[row]) for row in rows])
        return Subjects(prompts=[self.source.captions[row] for row in rows])


def emoji(sizes: Sequence[int], downsample: str, tokens: int) -> Study:
    """The drawings of the quickstart: 251 Twemoji drawings."""
    source = mdm.data.load_emoji(sizes, downsample=downsample, concepts="simple", split="train")
    print(f"{len(source)} Twemoji drawings (CC BY 4.0, Twitter and contributors)", flush=True)
    encoder = mdm.text.MiniLM(length=tokens)
    return Study(source, encoder, {"text_width": encoder.width})


def styles(names: Sequence[str], sizes: Sequence[int], downsample: str, tokens: int) -> Study:
    """All drawings of several styles, without the concepts that are held out in one of them; the
    captions name style and thing."""
    source = mdm.data.load_styles(sizes, names, downsample=downsample, split="train")
    print(f"{len(source)} drawings. {source.attribution}", flush=True)
    encoder = mdm.text.MiniLM(length=tokens)
    return Study(source, encoder, {"text_width": encoder.width})


def folder(directory: str, sizes: Sequence[int], downsample: str, tokens: int) -> Study:
    """Your own pictures, with captions from .txt files beside them or from their names."""
    source = mdm.data.load_folder(directory, size=list(sizes), downsample=downsample)
    print(f"{len(source)} pictures of {directory}", flush=True)
    encoder = mdm.text.MiniLM(length=tokens)
    return Study(source, encoder, {"text_width": encoder.width})


def generated(sizes: Sequence[int], tokens: int) -> Study:
    """Shapes of eight colours on white, for rehearsals: as classes with `tokens=0`, else as text.

    Args:
        sizes: of the levels, ascending.
        tokens: of a text.
    """
    largest, colours = max(sizes), rehearsal_data.COLOURS
    random = np.random.default_rng(0)
    along = (np.arange(largest) + 0.5) / largest
    captions, pictures = [], []
    for number in range(GENERATED):
        shape, colour = SHAPES[number % 3], colours[number % len(colours)]
        x, y = along[None] - random.uniform(0.35, 0.65), along[:, None] - random.uniform(0.35, 0.65)
        inside = {
            "square": np.maximum(abs(x), abs(y)) < 0.3,
            "disc": np.hypot(x, y) < 0.3,
            "cross": np.minimum(abs(x), abs(y)) < 0.12,
        }[shape]
        fill = np.random.default_rng(number % len(colours)).integers(0, 200, 3)
        pictures.append(np.where(inside[..., None], fill, 255).astype("uint8"))
        captions.append(f"{colour} {shape}")
    images = {largest: np.stack(pictures)}
    images |= {size: mdm.data.area_average(images[largest], size) for size in sizes[:-1]}
    names = tuple(sorted(set(captions)))
    labels = np.array([names.index(caption) for caption in captions], np.int32)
    source = mdm.data.CaptionedImages(images, tuple(captions), labels, names)
    if not tokens:
        return Study(source, None, {"num_classes": len(names)})
    encoder = rehearsal_data.WordStates(tokens)
    return Study(source, encoder, {"text_width": encoder.width})

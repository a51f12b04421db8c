"""How far a model's pictures are from the real ones: kernel distance, from the same prompts and the
same noise at every checkpoint."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import keras_mdm as mdm

# Picture i of every model and checkpoint is drawn with seed SEED + i, by upsamplers 2 * SEED + i.
SEED = 1_000_000


class BlockColours:
    """Mean colours of 4 x 4 blocks, as features that need no file: for rehearsals and tests.

    Distances in these features say that everything ran, and nothing about pictures.
    """

    name, width = "colours of 4 x 4 blocks", 48

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features (B, 48) float32 of uint8 pictures (B, H, W, 3)."""
        count, height, width, _ = images.shape
        blocks = images.reshape(count, 4, height // 4, 4, width // 4, 3)
        return (blocks.mean((2, 4)).reshape(count, -1) / 128.0).astype("float32")


@dataclasses.dataclass(frozen=True)
class Subjects:
    """What is drawn: one prompt or one class for each picture.

    Args:
        prompts: texts.
        labels: classes.
    """

    prompts: Sequence[str] | None = None
    labels: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.labels if self.prompts is None else self.prompts)


class Measure:
    """Draws, and compares with the real pictures.

    Args:
        real: uint8 (N, S, S, 3), the real pictures at the highest level.
        subjects: what to draw.
        features: the feature network.
        sampling: options of `generate`.

    Raises:
        ValueError: if there are too few pictures on either side.
    """

    def __init__(
        self,
        real: np.ndarray,
        subjects: Subjects,
        features: Any,
        sampling: Mapping[str, Any],
    ):
        evaluation = mdm.evaluation
        for what, count in (("real", len(real)), ("drawn", len(subjects))):
            evaluation.report.check_enough(["kernel"], {what: count}, few=False)
        self.subjects, self.features, self.sampling = subjects, features, dict(sampling)
        self.real = evaluation.moments.features_of(features, real)
        self.floor = 1000.0 * evaluation.real_floor(self.real).value

    def draw(self, model: Any, *, stage: int = 0, **options: Any) -> np.ndarray:
        """The pictures of the highest level, uint8 (N, S, S, 3).

        Args:
            model: the model.
            stage: place of the model in a cascade; each has noise of its own.
            **options: of `generate`, besides those of all models.
        """
        seeds = [SEED * (stage + 1) + place for place in range(len(self.subjects))]
        given = {**self.sampling, **options, "seed": seeds, "progress": False}
        if self.subjects.prompts is None:
            drawn = model.generate(labels=list(self.subjects.labels), **given)
        else:
            drawn = model.generate(list(self.subjects.prompts), **given)
        return list(drawn.values())[-1]

    def __call__(self, images: np.ndarray) -> dict[str, Any]:
        """The distance times 1000, its standard error, and the numbers of pictures."""
        found = mdm.evaluation.moments.features_of(self.features, images)
        kid = mdm.evaluation.kernel_distance(self.real, found)
        return {
            "kid": round(1000.0 * kid.value, 4),
            "kid_error": round(1000.0 * kid.standard_error, 4),
            "floor": round(self.floor, 4),
            "real": kid.first,
            "drawn": kid.second,
        }

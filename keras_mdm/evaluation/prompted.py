"""How well drawn pictures fit their prompts, by a scorer trained on the real pictures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation import moments
from keras_mdm.evaluation.scorer import TextScorer
from keras_mdm.evaluation.scores import RPrecision, r_precision

_TEXTS = 256


@dataclasses.dataclass(frozen=True)
class TextMeasure:
    """R-precision of drawn pictures against their prompts: a stand-in for the CLIP score.

    Attributes:
        scorer: trained on the real pictures of one level and their captions.
        prompts: (n, width) directions of the prompts, one for each picture to be drawn.
        real: R-precision of the real pictures with their captions. The scorer was trained on them,
            so this is an upper bound.
        others: number of other texts that a picture is held against.
    """

    scorer: TextScorer
    prompts: np.ndarray
    real: float
    others: int

    @property
    def name(self) -> str:
        """Name of the measure in reports."""
        return f"R-precision of {self.others + 1}, retrieval scorer"

    def score(self, features: np.ndarray) -> RPrecision:
        """Score pictures, the first ones of the prompts, by their features (n, D)."""
        directions = self.scorer.pictures(features)
        return r_precision(directions, self.prompts[: len(directions)], others=self.others)


def fit_text_measure(
    features: Any,
    encoder: Any,
    pictures: Any,
    captions: Sequence[str],
    prompts: Sequence[str],
    *,
    others: int | None = None,
    seed: int = 0,
) -> TextMeasure:
    """Train a scorer on real pictures and captions, in seconds, for drawings of some prompts.

    It ranks models on concepts that it was trained on; for prompts about others its numbers are low
    for any model.

    Args:
        features: the feature network.
        encoder: a text encoder with `encode(texts) -> (states, mask)` and `identity`.
        pictures: the real pictures, uint8 (n, H, W, 3), or an iterable of such arrays.
        captions: their captions, n.
        prompts: of the pictures to be drawn.
        others: number of other texts that a picture is held against; 99, or as many as there are.
        seed: of the training.

    Raises:
        ValueError: if there is not one caption for each picture, or all texts are equal.
    """
    values = np.concatenate([moments.features_of(features, p) for p in moments.parts(pictures)])
    if len(values) != len(captions):
        raise checks.error(
            "there must be one caption for each real picture",
            fix="leave out pictures without a caption",
            pictures=len(values),
            captions=len(captions),
        )
    different = min(len(set(captions)), len(set(prompts)))
    if different < 2:
        raise checks.error(
            "a picture can only be held against other texts if the texts differ",
            fix="pass more captions and prompts",
            captions=len(set(captions)),
            prompts=len(set(prompts)),
        )
    others = min(99, different - 1) if others is None else others
    states, mask = _states(encoder, captions)
    scorer = TextScorer(features.name, encoder.identity).fit(values, states, seed, mask=mask)
    known, asked = scorer.texts(states, mask), scorer.texts(*_states(encoder, prompts))
    real = r_precision(scorer.pictures(values), known, others=others).value
    return TextMeasure(scorer, asked, real, others)


def _states(encoder: Any, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """States and mask of all texts, padded to the longest."""
    found = [encoder.encode(list(texts[i : i + _TEXTS])) for i in range(0, len(texts), _TEXTS)]
    length = max(states.shape[1] for states, _ in found)

    def padded(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        wide = [(0, 0), (0, length - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
        return np.pad(values, wide)

    return (
        np.concatenate([padded(states) for states, _ in found]),
        np.concatenate([padded(mask) for _, mask in found]),
    )

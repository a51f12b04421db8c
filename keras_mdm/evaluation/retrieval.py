"""Whether generated pictures look like the requested drawings, by nearest neighbours."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from keras_mdm import checks

_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Result of `retrieval`; the dictionaries are keyed by k.

    Attributes:
        share: share of the pictures with the requested concept among the k nearest drawings.
        standard_error: sqrt(p (1 - p) / pictures) of that share.
        chance: the share that random pictures would reach.
        pictures: number of generated pictures.
        gallery: number of drawings in the gallery.
    """

    share: dict[int, float]
    standard_error: dict[int, float]
    chance: dict[int, float]
    pictures: int
    gallery: int

    def __str__(self) -> str:
        parts = [
            f"top-{k} {100 * p:.1f} +- {100 * self.standard_error[k]:.1f} %"
            f" (chance {100 * self.chance[k]:.2g} %)"
            for k, p in self.share.items()
        ]
        return f"{', '.join(parts)} of {self.pictures} pictures, gallery of {self.gallery}"


def retrieval(
    images: np.ndarray,
    targets: Sequence[int] | np.ndarray,
    gallery: np.ndarray,
    concept_ids: Sequence[int] | np.ndarray,
    *,
    size: int = 16,
    k: Sequence[int] = (1, 5),
) -> Retrieval:
    """Look for the requested concept among the nearest drawings of each generated picture.

    Distances are between pixels, L2, after area averaging to `size`. This is blind to details but
    needs no feature network, and chance is known exactly.

    Args:
        images: (B, H, W, 3) generated pictures, uint8 or floats on the scale of the gallery.
        targets: (B,) the concept that each should show.
        gallery: (G, H', W', 3) real drawings.
        concept_ids: (G,) their concepts; a concept may have several drawings.
        size: side to which the pictures are averaged.
        k: numbers of neighbours to look at.

    Returns:
        Shares with standard errors, and the chance level: k / G if each concept has one drawing.

    Example:

    >>> gallery = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3))
    >>> retrieval(gallery[:4], [0, 1, 2, 3], gallery, range(10)).share
    {1: 1.0, 5: 1.0}
    """
    images, gallery = np.asarray(images), np.asarray(gallery)
    targets, concept_ids = np.asarray(targets), np.asarray(list(concept_ids))
    if len(images) != len(targets) or len(gallery) != len(concept_ids) or len(images) == 0:
        raise checks.error(
            "there must be one target per picture and one concept per drawing",
            fix="check the lengths",
            images=len(images),
            targets=len(targets),
            gallery=len(gallery),
            concept_ids=len(concept_ids),
        )
    for number in k:
        checks.integer("k", number, minimum=1)
    strangers = sorted(set(targets.tolist()) - set(concept_ids.tolist()))
    if strangers:
        raise checks.error(
            "every target must have a drawing in the gallery",
            fix="add the drawings, or leave these pictures out",
            missing_concepts=strangers,
        )
    ranks = _ranks(_features(images, size), targets, _features(gallery, size), concept_ids)
    count, drawings = len(images), len(gallery)
    share = {int(n): float(np.mean(ranks < n)) for n in k}
    return Retrieval(
        share=share,
        standard_error={n: math.sqrt(p * (1.0 - p) / count) for n, p in share.items()},
        chance={n: _chance(targets, concept_ids, n) for n in share},
        pictures=count,
        gallery=drawings,
    )


def area_average(images: np.ndarray, size: int) -> np.ndarray:
    """Average (B, H, W, C) pictures over size x size equal areas, for any H and W; float64."""
    _, height, width, _ = images.shape
    rows, columns = _overlaps(height, size), _overlaps(width, size)
    images = images.astype("float64")
    return np.einsum("ih,bhwc,jw->bijc", rows, images, columns, optimize=True)


def _overlaps(length: int, size: int) -> np.ndarray:
    # Entry (i, h): the share of cell i that pixel h covers; each row sums to 1.
    edges = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    upper = np.minimum(edges[1:, None], pixels[None, :] + 1)
    lower = np.maximum(edges[:-1, None], pixels[None, :])
    return np.clip(upper - lower, 0.0, None) * (size / length)


def _features(images: np.ndarray, size: int) -> np.ndarray:
    chunks = [
        area_average(images[i : i + _CHUNK], size).reshape(len(images[i : i + _CHUNK]), -1)
        for i in range(0, len(images), _CHUNK)
    ]
    return np.concatenate(chunks)


def _ranks(
    images: np.ndarray, targets: np.ndarray, gallery: np.ndarray, concept_ids: np.ndarray
) -> np.ndarray:
    """(B,) number of drawings nearer than the nearest one of the requested concept."""
    norms = np.sum(gallery**2, axis=1)
    ranks = []
    for i in range(0, len(images), _CHUNK):
        # |g|^2 - 2 g.x orders like |g - x|^2.
        distances = norms - 2.0 * images[i : i + _CHUNK] @ gallery.T  # (chunk, G)
        order = np.argsort(distances, axis=1, kind="stable")
        hits = concept_ids[order] == targets[i : i + _CHUNK, None]
        ranks.append(np.argmax(hits, axis=1))
    return np.concatenate(ranks)


def _chance(targets: np.ndarray, concept_ids: np.ndarray, k: int) -> float:
    """Mean probability over the targets that k random drawings include the requested concept."""
    drawings = len(concept_ids)
    k = min(k, drawings)
    total = 0.0
    for target, pictures in zip(*np.unique(targets, return_counts=True), strict=True):
        others = drawings - int(np.sum(concept_ids == target))
        total += pictures * (1.0 - math.comb(others, k) / math.comb(drawings, k))
    return float(total / len(targets))

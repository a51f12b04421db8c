"""Clips seen frame by frame: a stand-in for a network of videos, which no package holds."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation import batches
from keras_mdm.evaluation.efficientnet import EfficientNetLite0

# Features change from frame to frame by about a quarter of their size in clips of moving drawings
# (root mean squares of 0.11 and 0.43). Unweighted, a clip that stands still counts as little as
# noise of four grey levels (docs/evaluation.md).
_CHANGE_WEIGHT = 4.0


class FrameFeatures:
    """A network of pictures on the frames of clips: what they show, and how much they change.

    The features of a clip are the means over its frames of the network's features, and then of the
    absolute differences of neighbouring frames' features, times a weight that makes both halves of
    about the same size for moving drawings. It tells clips that stand still from real ones, but
    sees little of how things move, and nothing of a clip being played backwards. Numbers made with
    it compare only with each other, if they have the same weight.

    Args:
        network: a feature network of pictures; `EfficientNetLite0` by default.
        change_weight: factor of the differences.

    Example:

    >>> class Mean:
    ...     name, width = "mean colour", 3
    ...     def __call__(self, images):
    ...         return images.mean((1, 2)).astype("float32")
    >>> clips = np.zeros((1, 3, 4, 4, 3), np.uint8)
    >>> clips[0, 1:] = 9
    >>> FrameFeatures(Mean(), change_weight=1.0)(clips).tolist()  # 0, 9, 9: mean, mean step
    [[6.0, 6.0, 6.0, 4.5, 4.5, 4.5]]
    """

    clips = True
    measures: Mapping[str, str] = MappingProxyType({})

    def __init__(self, network: Any = None, *, change_weight: float = _CHANGE_WEIGHT):
        self.network = network or EfficientNetLite0()
        self.change_weight = checks.real("change_weight", change_weight, minimum=0.0)
        self.width = 2 * self.network.width
        self.name = f"mean and {change_weight:g} x mean change over frames of {self.network.name}"

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Return features (B, width) float32 of uint8 clips (B, F, H, W, 3)."""
        clips = batches.checked(clips, clips=True)
        count, frames = clips.shape[:2]
        found = np.asarray(self.network(clips.reshape(-1, *clips.shape[2:])), "float32")
        found = found.reshape(count, frames, self.network.width)
        # A single frame does not change.
        change = np.abs(np.diff(found, axis=1)).sum(axis=1) * self.change_weight
        change /= max(1, frames - 1)
        return np.concatenate([found.mean(axis=1), change], axis=1)


def frames_of(level: str) -> int | None:
    """Frames of a level by its name, such as 16 of "16x64"; `None` for a level of pictures."""
    found = re.match(r"(\d+)x", level)
    return int(found[1]) if found else None


def network_of(features: Any, level: str) -> Any:
    """The network that sees a level.

    Args:
        features: a feature network; with a true attribute `clips`, one of clips.
        level: name of the level.

    Returns:
        `features`, if it is made for such a level. If it is not: for clips, `FrameFeatures` of it;
        for pictures, `EfficientNetLite0`.

    Raises:
        ValueError: if the network needs longer clips.

    Example:

    >>> network_of(EfficientNetLite0(), "16x64").width  # doctest: +SKIP
    2560
    """
    frames, of_clips = frames_of(level), bool(getattr(features, "clips", False))
    if frames is None:
        return EfficientNetLite0() if of_clips else features
    if not of_clips:
        return FrameFeatures(features)
    if frames < (least := getattr(features, "least_frames", 1)):
        raise checks.error(
            f"clips must have at least {least} frames for this network",
            fix="evaluate other levels, or leave out the network for the stand-in",
            level=level,
            network=features.name,
        )
    return features

"""Guidance: one estimate from what the network finds under two conditions.

A guidance is a function (conditional, away, at) -> estimates of the clean data by level name. The
first two arguments are `Found`: the network's `outputs` and the clean data `x0` that they imply, by
level name, under the condition and for what guidance leads away from. `at` is the `Point` at which
both were found: noisy data, time, scales by level.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.diffusion import guidance
from keras_mdm.diffusion.joint_process import LevelProcess

Levels = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Point:
    """Where guidance acts.

    Args:
        x: noisy data `(B, [T,] H, W, C)` by level name.
        t: scalar, from 1 (noise) to 0.
        scales: guidance scale by level name; 1 is the conditional estimate.
        rescale: how much of the conditional output's deviation the guided one gets, a scalar;
            `None` for no rescaling.
        process: the joint process of the levels.
        residual_std: see `LevelProcess.predictions`.
    """

    x: Levels
    t: Any
    scales: Levels
    rescale: Any
    process: LevelProcess
    residual_std: Levels

    def clean(self, outputs: Levels) -> dict[str, Any]:
        """The clean data that outputs of the network imply, before thresholds."""
        return self.process.predictions(outputs, self.x, self.t, self.residual_std)[1]


@dataclasses.dataclass(frozen=True)
class Found:
    """What the network found at a point.

    Args:
        outputs: `(B, [T,] H, W, C)` by level name, of the kind that the network predicts.
        at: the point.
    """

    outputs: Levels
    at: Point

    @functools.cached_property
    def x0(self) -> dict[str, Any]:
        """The clean data by level name."""
        return self.at.clean(self.outputs)


Guidance = Callable[[Found, Found, Point], Mapping[str, Any]]


def classifier_free(conditional: Found, away: Found, at: Point) -> dict[str, Any]:
    """Lead the network's outputs away from those without the condition or of a weaker network.

    Reference: Ho and Salimans 2022 (arXiv 2207.12598), equation 6, on the network's output at every
    level; Karras et al. 2024 (arXiv 2406.02507), equation 3, for a weaker network.
    """
    guided = {
        name: guidance.classifier_free(away.outputs[name], output, at.scales[name])
        for name, output in conditional.outputs.items()
    }
    if at.rescale is not None:
        guided = _rescaled(guided, conditional.outputs, at)
    return at.clean(guided)


def _rescaled(guided: Levels, conditional: Levels, at: Point) -> dict[str, Any]:
    """Rescale the pictures among outputs; a learned deviation that follows them stays."""
    found = {}
    for name, output in guided.items():
        channels, other = at.x[name].shape[-1], conditional[name]
        if output.shape[-1] == channels:
            found[name] = guidance.rescale(output, other, at.rescale)
            continue
        pictures = guidance.rescale(output[..., :channels], other[..., :channels], at.rescale)
        found[name] = tf.concat([pictures, output[..., channels:]], axis=-1)
    return found


_GUIDANCES: dict[str, Guidance] = {"classifier_free": classifier_free}
NAMES = tuple(_GUIDANCES)


def get(given: str | Guidance) -> Guidance:
    """Return a guidance by name; a function is returned unchanged.

    Raises:
        ValueError: if the name is unknown.
    """
    return given if callable(given) else _GUIDANCES[checks.one_of("guidance", given, NAMES)]

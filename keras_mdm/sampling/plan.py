"""What sampling is asked to do: choices that make a graph, and amounts that do not."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.diffusion import samplers, thresholding, time_grid
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.diffusion.samplers import Sampler
from keras_mdm.sampling import guidances

Amounts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
    """The static choices of sampling: one plan, one traced graph. What is continuous is no part of
    it, see `amounts_of`.

    Args:
        sampler: name of the sampler, or a `Sampler`.
        renewed: whether DDIM draws a share of fresh noise.
        grid: kind of the time grid.
        threshold: name of the threshold of x0, or a function.
        guidance: name of the guidance, or a function, see `guidances`; `None` for no guidance, for
            which one half is computed.
        rescaled: whether the guided output gets (part of) the conditional one's deviation.
        split: compute the halves of guidance one after the other instead of in one batch.
        autoguidance: (model, weights) to be guided away from, or `None` for the dropped condition.
        weights: `"ema"`, `"raw"` or a power-function average.
        stop_at: the highest level that is computed; all of them unless given.
        reconstruction: whether estimates are moved to where what is known would be found.
    """

    sampler: str | Sampler = "ddim"
    renewed: bool = False
    grid: str = "uniform"
    threshold: str | Callable[[Any], Any] = "dynamic"
    guidance: str | guidances.Guidance | None = "classifier_free"
    rescaled: bool = False
    split: bool = False
    autoguidance: tuple[Any, str] | None = None
    weights: str = "ema"
    stop_at: str | None = None
    reconstruction: bool = False

    def check(self) -> "SamplingPlan":
        """Raise if a choice is unknown."""
        for name in ("sampler", "threshold", "guidance"):
            _check_hashable(name, getattr(self, name))
        samplers.get(self.sampler, eta=float(self.renewed))
        thresholding.get(self.threshold)
        time_grid(self.grid, 1)
        if self.guidance is not None:
            guidances.get(self.guidance)
        return self

    def unguided(self) -> "SamplingPlan":
        """The plan without guidance; what only matters to it makes no other graph."""
        return dataclasses.replace(
            self, guidance=None, rescaled=False, split=False, autoguidance=None
        )

    def start(self) -> "SamplingPlan":
        """The plan of what sampling starts from, which most choices do not matter to."""
        return SamplingPlan(sampler=self.sampler, stop_at=self.stop_at)

    def times(self, process: LevelProcess, steps: Any) -> tf.Tensor:
        """Times that are visited, `(K + 1,)` float32 descending to 0."""
        schedule = process.schedules[process.levels[0]]
        return time_grid(self.grid, steps, schedule.num_steps, schedule=schedule)


def _check_hashable(name: str, value: Any) -> None:
    """Raise for what cannot tell one traced graph from another."""
    try:
        hash(value)
    except TypeError as problem:
        raise checks.error(
            f"`{name}` must be hashable: graphs are kept by it",
            fix="pass a function, or make its class @dataclasses.dataclass(frozen=True)",
            **{name: type(value).__name__},
        ) from problem


def amounts_of(
    levels: Sequence[str],
    *,
    guidance_scale: Any = 1.0,
    shares: Mapping[str, float] | None = None,
    rescale: float = 0.0,
    reconstruction: float = 0.0,
    eta: float = 0.0,
) -> Amounts:
    """The continuous choices of sampling as tensors: no value of theirs makes another graph.

    Args:
        levels: names of all levels.
        guidance_scale: scalar.
        shares: how much of the guidance a level gets, by its name: its scale is
            1 + share * (guidance_scale - 1). 1 unless given.
        rescale: share of the conditional output's deviation, used if the plan says so.
        reconstruction: weight of reconstruction guidance, used if the plan says so.
        eta: share of fresh noise of DDIM, used if the plan says so.

    Returns:
        dict of scalars, of which "shares" is a dict by level name; float32, and "eta" float64.
    """
    shares = shares or {}
    return {
        "guidance_scale": tf.convert_to_tensor(guidance_scale, tf.float32),
        "shares": {name: tf.constant(shares.get(name, 1.0), tf.float32) for name in levels},
        "rescale": tf.constant(rescale, tf.float32),
        "reconstruction": tf.constant(reconstruction, tf.float32),
        "eta": tf.constant(eta, tf.float64),
    }

"""The choices of sampling that determine a graph, and the amounts that do not."""

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
    """The static choices of sampling: one plan, one traced graph. Continuous choices are separate,
    see `amounts_of`.

    Args:
        sampler: name of the sampler, or a `Sampler`.
        renewed: whether DDIM draws a share of fresh noise.
        grid: kind of the time grid.
        threshold: name of the threshold of x0, or a function.
        guidance: name of the guidance, or a function, see `guidances`; `None` for no guidance,
            which computes only one half.
        rescaled: whether the guided output gets the conditional one's deviation, or part of it.
        split: compute the halves of guidance one after the other instead of in one batch.
        autoguidance: (model, weights) to guide away from, or `None` for the dropped condition.
        weights: `"ema"`, `"raw"` or a power-function average.
        stop_at: the highest level to compute; all levels unless given.
        reconstruction: whether reconstruction guidance moves the estimates.
        tops: levels that are the highest computed one in some step, ascending; empty if all levels
            are computed in every step.
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
    tops: tuple[str, ...] = ()

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
        """The plan without guidance and its options, which would only make further graphs."""
        return dataclasses.replace(
            self, guidance=None, rescaled=False, split=False, autoguidance=None
        )

    def start(self) -> "SamplingPlan":
        """The plan of the start of sampling, which does not depend on most choices."""
        return SamplingPlan(sampler=self.sampler, stop_at=self.stop_at)

    def times(self, process: LevelProcess, steps: Any) -> tf.Tensor:
        """The times to visit, `(K + 1,)` float32, descending to 0."""
        schedule = process.schedules[process.levels[0]]
        return time_grid(self.grid, steps, schedule.num_steps, schedule=schedule)


def _check_hashable(name: str, value: Any) -> None:
    """Raise unless a value can identify a traced graph."""
    try:
        hash(value)
    except TypeError as problem:
        raise checks.error(
            f"`{name}` must be hashable: graphs are identified by it",
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
    low_res_noise: Any = 1,
    outer_steps: Mapping[str, Any] | None = None,
) -> Amounts:
    """The continuous choices of sampling as tensors, whose values never need another graph.

    Args:
        levels: names of all levels.
        guidance_scale: scalar.
        shares: share of the guidance that a level gets, by level name: its scale is 1 + share *
            (guidance_scale - 1). 1 unless given.
        rescale: how much of the conditional output's deviation to take, used if the plan says so.
        reconstruction: weight of reconstruction guidance, used if the plan says so.
        eta: DDIM's share of fresh noise, used if the plan says so.
        low_res_noise: table index of the noise that the picture gets which the network sees, used
            if the network is told.
        outer_steps: whether a step computes a level, `(steps,)` bool by name of the outer levels,
            used if the plan says so.

    Returns:
        dict of float32 scalars, except that "shares" and "outer_steps" are dicts by level name,
        "eta" is float64 and "low_res_noise" int32.
    """
    shares = shares or {}
    return {
        "guidance_scale": tf.convert_to_tensor(guidance_scale, tf.float32),
        "shares": {name: tf.constant(shares.get(name, 1.0), tf.float32) for name in levels},
        "rescale": tf.constant(rescale, tf.float32),
        "reconstruction": tf.constant(reconstruction, tf.float32),
        "eta": tf.constant(eta, tf.float64),
        "low_res_noise": tf.convert_to_tensor(low_res_noise, tf.int32),
        "outer_steps": dict(outer_steps or {}),
    }

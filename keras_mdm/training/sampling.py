"""The traced part of sampling: start noise, a stretch of steps, guidance and thresholds."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm.diffusion import Schedule, guidance, samplers, thresholding
from keras_mdm.training import randomness
from keras_mdm.training.conditions import match_tokens
from keras_mdm.training.level_process import LevelProcess


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
    """The static choices of sampling: one plan, one traced graph.

    Args:
        sampler: name of the sampler.
        eta: share of fresh noise of DDIM.
        grid: kind of the time grid.
        threshold: name of the threshold of x0.
        guided: whether both halves of classifier-free guidance are computed.
        weights: `"ema"` or `"raw"`.
        shares: how much of the guidance a level gets, pairs of name and share; 1 unless given.
    """

    sampler: str = "ddim"
    eta: float = 0.0
    grid: str = "uniform"
    threshold: str = "dynamic"
    guided: bool = True
    weights: str = "ema"
    shares: tuple[tuple[str, float], ...] = ()

    def check(self) -> "SamplingPlan":
        """Raise if a choice is unknown."""
        samplers.get(self.sampler, eta=self.eta)
        thresholding.get(self.threshold)
        samplers.time_grid(self.grid, 1)
        return self


def start_noise(process: LevelProcess, channels: int, seed: Any, samples: tf.Tensor) -> dict:
    """Draw x at t = 1: `(B, [T,] H, W, C)` float32 by level name, row i from sample i."""
    return randomness.normal_per_sample(
        randomness.key(seed, "start"), samples, level_shapes(process, channels)
    )


def level_shapes(process: LevelProcess, channels: int) -> dict[str, tuple[int, ...]]:
    """Shape of one sample by level name."""
    return {
        shape.name: (*(() if shape.frames is None else (shape.frames,)),)
        + (shape.size, shape.size, channels)
        for shape in process.shapes
    }


def make_denoiser(
    network: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    process: LevelProcess,
    conditions: Mapping[str, tf.Tensor],
    without: Mapping[str, tf.Tensor] | None,
    guidance_scale: Any,
    threshold: str,
    residual_std: Mapping[str, Any],
    shares: Mapping[str, float] | None = None,
) -> Callable[[dict, tf.Tensor], dict]:
    """Make the function that the sampler's loop calls: estimates of the clean data at time t.

    Args:
        network: function (inputs) -> outputs by level name.
        process: the joint process.
        conditions: conditions of every row.
        without: the same conditions dropped, or `None` for no guidance.
        guidance_scale: scalar, or `(B,)`.
        threshold: name of the threshold, applied per sample and level.
        residual_std: see `LevelProcess.predictions`.
        shares: how much of the guidance a level gets, by its name: its scale is
            1 + share * (guidance_scale - 1).

    Returns:
        function (x_t by level name, scalar t) -> x0 by level name.

    Reference: Ho and Salimans 2022 (arXiv 2207.12598), equation 6, on the network's output at
    every level.
    """
    shares = shares or {}
    limit = thresholding.get(threshold)
    schedule: Schedule = process.schedules[process.levels[0]]
    if without is not None:
        conditions, without = match_tokens(conditions, without)
        # Both halves in one batch, the unconditional one first.
        conditions = {
            name: tf.concat([without[name], conditions[name]], axis=0) for name in conditions
        }

    def denoise(x: dict, t: tf.Tensor) -> dict:
        rows = tf.shape(x[process.levels[0]])[0]
        inputs = {f"z_{name}": value for name, value in x.items()}
        if without is not None:
            rows = 2 * rows
            inputs = {name: tf.concat([z, z], axis=0) for name, z in inputs.items()}
        inputs["time"] = tf.fill([rows], tf.cast(schedule.time(t), tf.float32))
        outputs = dict(network({**inputs, **conditions}))
        if without is not None:
            halves = {name: tf.split(value, 2, axis=0) for name, value in outputs.items()}
            outputs = {
                name: guidance.classifier_free(
                    *pair, 1.0 + shares.get(name, 1.0) * (guidance_scale - 1.0)
                )
                for name, pair in halves.items()
            }
        _, x0 = process.predictions(outputs, x, t, residual_std)
        # Thresholds are about pictures, not about what the process divided them by.
        return process.divided(
            {name: limit(value) for name, value in process.multiplied(x0).items()}
        )

    return denoise


def run_steps(
    plan: SamplingPlan,
    process: LevelProcess,
    denoise: Callable[[dict, tf.Tensor], dict],
    x: Mapping[str, tf.Tensor],
    *,
    seed: Any,
    samples: tf.Tensor,
    steps: Any,
    start: Any,
    stop: Any,
) -> dict[str, tf.Tensor]:
    """Take the steps `start` to `stop` of `steps`; all of them may be tensors.

    Args:
        plan: the static choices.
        process: the joint process.
        denoise: from `make_denoiser`.
        x: `(B, [T,] H, W, C)` by level name at the time of step `start`.
        seed: integer scalar.
        samples: `(B,)` int64, keys the noise of every row.
        steps: number of steps of the whole grid.
        start: first step.
        stop: the step to stop before.

    Returns:
        x after the last step, by level name. Equal whether taken at once or in stretches.
    """
    num_steps = process.schedules[process.levels[0]].num_steps

    def noise(index, name, x_like):
        base = randomness.key(seed, "step", index)
        shape = {name: tuple(x_like.shape[1:])}
        return randomness.normal_per_sample(base, samples, shape)[name]

    x, _ = samplers.run(
        samplers.get(plan.sampler, eta=plan.eta),
        denoise,
        process.schedules,
        samplers.time_grid(plan.grid, steps, num_steps),
        dict(x),
        noise,
        start,
        stop,
    )
    return x


def to_uint8(x: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Turn [-1, 1] into uint8: round((x + 1) * 127.5), clipped."""
    return {
        name: tf.cast(tf.clip_by_value(tf.round((value + 1.0) * 127.5), 0.0, 255.0), tf.uint8)
        for name, value in x.items()
    }

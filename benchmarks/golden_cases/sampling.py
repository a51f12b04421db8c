"""Sampling: every stored step, with our network or with stored outputs.

Each step starts from the stored previous sample, so errors do not add up.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from golden_cases.case import Case, Check, difference, to_frames
from keras_mdm.diffusion import samplers, time_grid
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.interop.mdm_diffusion import THRESHOLDS, diffusion_settings, keywords_for
from keras_mdm.sampling.denoiser import make_denoiser
from keras_mdm.sampling.plan import SamplingPlan, amounts_of

UNGUIDED, GUIDED = 2e-5, 1e-4


@dataclasses.dataclass
class Trajectory:
    """One stored trajectory.

    Args:
        case: where it is stored.
        settings: its entry in the JSON file.
        levels: our level names, highest first.
        process: the joint process of its `sampler_config`.
    """

    case: Case
    settings: dict
    levels: tuple[str, ...]
    process: LevelProcess

    @property
    def guided(self) -> bool:
        return self.settings["guidance"] != 1

    @property
    def transitions(self) -> int:
        return len(self.settings["timesteps"]) - 1

    def key(self, stem: str, index: int | None = None) -> str:
        """Key of an array, for a level if given."""
        return f"traj/{self.settings['name']}/{stem}" + ("" if index is None else f"_{index}")

    def pictures(self, stem: str) -> dict[str, np.ndarray]:
        """`(B, [T,] H, W, C)` by level name."""
        return {
            level: to_frames(self.case[self.key(stem, index)], level)
            for index, level in enumerate(self.levels)
        }

    def noise(self, step: int) -> Callable:
        """The noise drawn in a step; nothing is stored for steps that add none."""

        def draw(i, level, x_t):
            key = self.key(f"noise_{step}", self.levels.index(level))
            return to_frames(self.case[key], level) if key in self.case else tf.zeros_like(x_t)

        return draw

    def check(self, network_of: Callable[[int], Callable], text: Mapping | None) -> Iterator[Check]:
        """Repeat every step.

        Args:
            network_of: function (step) -> function (inputs) -> outputs by level name.
            text: text states and mask, the unconditional half first if guided.
        """
        settings, process = self.settings, self.process
        steps = process.schedules[self.levels[-1]].num_steps
        grid = time_grid("release", settings["steps"], steps)
        first = grid.shape[0] - 1 - self.transitions  # "start at t" drops the entries above t
        times = np.round(np.array(grid[first:]) * steps)
        yield self._result("time steps", difference(times, settings["timesteps"]), 0.0)
        eta = settings["eta"]
        sampler = samplers.get("ddpm") if eta is None else samplers.get("ddim", eta=eta)
        limit, told = GUIDED if self.guided else UNGUIDED, []
        x = self.pictures("x_init")
        for step in range(self.transitions):
            denoise = self._denoiser(_listening(network_of(step), told), text or {})
            after, x0 = samplers.run(
                sampler,
                denoise,
                process.schedules,
                grid,
                x,
                self.noise(step),
                start=first + step,
                stop=first + step + 1,
            )
            for stem, actual in (("x0", x0), ("x", after)):
                for index, level in enumerate(self.levels):
                    if self.key(f"{stem}_{step}", index) in self.case:
                        expected = to_frames(self.case[self.key(f"{stem}_{step}", index)], level)
                        error = difference(actual[level], expected)
                        yield self._result(f"{stem} after step {step}, level {level}", error, limit)
            x = self.pictures(f"x_{step}")
        if "model_times" in settings:
            yield self._result("times told", difference(told, settings["model_times"]), 0.0)
        if self.key("final") in self.case:
            final = process.multiplied(after)[self.levels[0]].numpy().clip(-1.0, 1.0)
            expected = to_frames(self.case[self.key("final")], self.levels[0])
            yield self._result("final", difference(final, expected), limit)

    def _denoiser(self, network: Callable, text: Mapping) -> Callable:
        conditions, away = dict(text), None
        if self.guided:
            halves = {name: tf.split(tf.constant(value), 2) for name, value in text.items()}
            away, conditions = ({n: half[i] for n, half in halves.items()} for i in range(2))
        plan = SamplingPlan(threshold=THRESHOLDS[self.settings["threshold"]])
        plan = plan if self.guided else plan.unguided()
        amounts = amounts_of(self.levels, guidance_scale=self.settings["guidance"])
        return make_denoiser(network, self.process, plan, amounts, conditions, away=away)

    def _result(self, name: str, error: float, limit: float) -> Check:
        kind = "guided steps" if self.guided else "unguided steps"
        return Check(kind, f"{self.settings['name']}: {name}", error, limit)


def _listening(network: Callable, told: list) -> Callable:
    """The network, which also keeps the time that it is given."""

    def call(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        told.append(float(inputs["time"][0]))
        return network(inputs)

    return call


def process_of(sampler_config: dict, levels: tuple[str, ...]) -> LevelProcess:
    """The process that a stored `sampler_config` describes; `levels` ascending."""
    nested = len(levels) > 1
    config = {"sampler_config": sampler_config, "no_use_residual": True}
    keywords = keywords_for(diffusion_settings(config, nested=nested), levels)
    return LevelProcess.create(
        levels,
        keywords["schedule"],
        shift_power=keywords["shift_power"],
        prediction=keywords["prediction"],
        use_residual=False,
        signal_scale=keywords["signal_scale"],
    )


def check(case: Case) -> Iterator[Check]:
    """Compare the trajectories of a stored network."""
    for settings in case.entries("trajectories"):
        process = process_of(settings["sampler_config"], case.unet.levels)
        trajectory = Trajectory(case, settings, case.levels, process)
        text = case.text(f"traj/{settings['name']}")
        yield from trajectory.check(lambda step: case.unet, text)


def check_alone(case: Case) -> Iterator[Check]:
    """Compare the trajectories of a sampler alone, which store the network's outputs."""
    ratios = [*case.settings.get("nest_ratio", ()), 1]
    levels = tuple(str(64 * ratio) for ratio in ratios)  # any sizes of these ratios
    for settings in case.entries("trajectories"):
        process = process_of(settings["sampler_config"], levels[::-1])
        trajectory = Trajectory(case, settings, levels, process)
        yield from trajectory.check(_stored_outputs(trajectory), None)


def _stored_outputs(trajectory: Trajectory) -> Callable[[int], Callable]:
    return lambda step: lambda inputs: trajectory.pictures(f"pred_{step}")

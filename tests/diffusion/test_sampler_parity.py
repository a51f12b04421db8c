"""Every stored trajectory of the released samplers, step by step, network outputs given.

Each step starts from the stored previous sample, so errors do not add up. Stored pictures are
channels-first and their levels count from the highest resolution; both are turned round here.
"""

import numpy as np
import pytest
from keras import ops

from keras_mdm.diffusion import guidance, parameterization, samplers, schedules, thresholding

SCHEDULES = {"DEEPFLOYD": "cosine", "COSINE": "logsnr_cosine", "DDPM": "linear"}
PREDICTIONS = {"V_PREDICTION": "v", "DDPM": "eps"}
THRESHOLDS = {"CLIP": "static", "DYNAMIC": "dynamic", "DYNAMIC_IF": "dynamic_if", "NONE": "none"}

PLAIN = (
    "v_ddpm_clip v_ddpm_cfg_dynamic v_ddim0_none v_ddim0_cfg_dynamic_if v_ddim05_clip v_ddim1_clip "
    "eps_ddpm_clip eps_ddim0_dynamic v_full_steps v_cosine_logsnr v_rescale_signal_clip "
    "v_rescale_signal_dynamic v_start_at_500"
).split()
NESTED = (
    "p1_ddpm_clip p2_ddpm_cfg_dynamic p2_ddim0_cfg_dynamic_if p1_ddim0_none p1_ddim1_clip "
    "unshifted_clip p1_full_steps"
).split()
CASES = [("samplers_plain", name) for name in PLAIN] + [("samplers_nested", n) for n in NESTED]


class Trajectory:
    """One stored trajectory as a denoiser, a noise source and the expected samples."""

    def __init__(self, case, name, settings, arrays):
        (self.settings,) = (t for t in settings["trajectories"] if t["name"] == name)
        config = self.settings["sampler_config"]
        prefix = f"traj/{name}/"
        self.arrays = {k[len(prefix) :]: a for k, a in arrays.items() if k.startswith(prefix)}
        base = schedules.get(SCHEDULES[config["schedule_type"]], config["num_diffusion_steps"])
        ratios = [*settings.get("nest_ratio", []), 1]
        self.levels = [str(index) for index in reversed(range(len(ratios)))]  # ascending
        shift = config["schedule_shifted"]
        self.schedules, self.thresholds = {}, {}
        for level in self.levels:
            ratio, threshold = ratios[int(level)], THRESHOLDS[self.settings["threshold"]]
            power = config["schedule_shifted_power"]
            self.schedules[level] = base.shifted(ratio, power) if shift else base
            # Without a shift the images of a level are divided by its scale; so is a plain model's
            # by `rescale_signal`.
            scale = (config["rescale_signal"] or 1.0) if case == "samplers_plain" else ratio
            scale = 1.0 if shift else scale
            self.thresholds[level] = thresholding.scaled(thresholding.get(threshold), scale)
            if level == "0":
                self.final_scale = scale
        self.kind = PREDICTIONS[config["prediction_type"]]
        eta = self.settings["eta"]
        self.sampler = samplers.get("ddpm") if eta is None else samplers.get("ddim", eta=eta)
        self.num_steps = config["num_diffusion_steps"]
        self.transitions = len(self.settings["timesteps"]) - 1

    def picture(self, key):
        return np.moveaxis(self.arrays[key], 1, -1)

    def state(self, step):
        """The sample before a step."""
        stem = "x_init" if step == 0 else f"x_{step - 1}"
        return {level: self.picture(f"{stem}_{level}") for level in self.levels}

    def noise(self, step):
        def draw(i, level, x):
            key = f"noise_{step}_{level}"
            return (
                ops.convert_to_tensor(self.picture(key))
                if key in self.arrays
                else ops.zeros_like(x)
            )

        return draw

    def denoiser(self, step, seen):
        def denoise(x, t):
            seen.append(self.schedules["0"].time(t))
            outputs = {level: self.picture(f"pred_{step}_{level}") for level in self.levels}
            scale = self.settings["guidance"]
            if scale != 1:
                halves = {level: np.split(output, 2) for level, output in outputs.items()}
                unconditional = {level: half[0] for level, half in halves.items()}
                conditional = {level: half[1] for level, half in halves.items()}
                outputs = guidance.classifier_free(unconditional, conditional, scale)
            x0 = {}
            for level, output in outputs.items():
                amplitudes = self.schedules[level].alpha_sigma(t)
                estimate = parameterization.to_x0(self.kind, output, x[level], *amplitudes)
                x0[level] = self.thresholds[level](estimate)
            return x0

        return denoise


@pytest.mark.parametrize(("case", "name"), CASES, ids=[name for _, name in CASES])
def test_every_step_of_the_release(golden, case, name):
    trajectory = Trajectory(case, name, *golden(case))
    steps = trajectory.settings["steps"]
    grid = samplers.time_grid("release", steps, trajectory.num_steps)
    first = grid.shape[0] - 1 - trajectory.transitions  # "start at t" drops the entries above t
    np.testing.assert_array_equal(
        np.round(np.array(grid[first:]) * trajectory.num_steps), trajectory.settings["timesteps"]
    )
    limit = 2e-5 if trajectory.settings["guidance"] == 1 else 1e-4
    times = []
    for step in range(trajectory.transitions):
        x, x0 = samplers.run(
            trajectory.sampler,
            trajectory.denoiser(step, times),
            trajectory.schedules,
            grid,
            trajectory.state(step),
            trajectory.noise(step),
            start=first + step,
            stop=first + step + 1,
        )
        for level in trajectory.levels:
            for stem, actual in (("x0", x0), ("x", x)):
                expected = trajectory.picture(f"{stem}_{step}_{level}")
                message = f"{stem} after step {step}, level {level}"
                np.testing.assert_allclose(
                    actual[level], expected, rtol=0, atol=limit, err_msg=message
                )
    np.testing.assert_array_equal(times, trajectory.settings["model_times"])
    final = np.clip(x["0"] * trajectory.final_scale, -1.0, 1.0)
    np.testing.assert_allclose(final, trajectory.picture("final"), rtol=0, atol=limit)


def test_no_stored_trajectory_is_left_out(golden):
    stored = [
        (case, trajectory["name"])
        for case in ("samplers_plain", "samplers_nested")
        for trajectory in golden(case)[0]["trajectories"]
    ]
    assert stored == CASES


def test_the_comparison_can_fail(golden):
    """A schedule shifted by the wrong power misses the limit by far."""
    trajectory = Trajectory("samplers_nested", "p1_ddim1_clip", *golden("samplers_nested"))
    wrong = {level: schedule.shifted(1.05) for level, schedule in trajectory.schedules.items()}
    grid = samplers.time_grid("release", 3)
    run = (trajectory.denoiser(0, []), wrong, grid, trajectory.state(0), trajectory.noise(0))
    x, _ = samplers.run(trajectory.sampler, *run, stop=1)
    assert np.max(np.abs(x["0"] - trajectory.picture("x_0_0"))) > 1e-3

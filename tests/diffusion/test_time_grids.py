import math

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.diffusion import schedules, time_grid
from keras_mdm.diffusion.time_grids import GRIDS, RHO, SIGMA_MAX

COSINE = schedules.cosine()


def test_the_release_divides_before_it_multiplies():
    # 50 * 251 / 100 is 125.5 and rounds to 126; the release has 50 * 2.51 = 125.49999999999999.
    grid = time_grid("release", 99, 250)
    assert round(float(grid[49]) * 250) == 125


def test_grids_are_the_releases(golden):
    settings, arrays = golden("schedules")
    for num_steps, steps in settings["timesteps"]:
        index = arrays[f"timesteps/N{num_steps}_K{steps}"]
        grid = time_grid("release", steps, num_steps)
        np.testing.assert_array_equal(grid, (index / num_steps).astype("float32"))
        schedule = schedules.cosine(num_steps)
        np.testing.assert_array_equal(schedule.position(grid), index)


@pytest.mark.parametrize("kind", GRIDS)
def test_grids_descend_to_zero_and_take_a_tensor(kind):
    traced = tf.function(
        lambda steps: time_grid(kind, steps),
        input_signature=[tf.TensorSpec([], "int32")],
    )
    for steps in (1, 2, 7, 50, 999, 1000):
        grid = np.array(time_grid(kind, steps))
        assert grid.shape == (steps + 1,) and grid.dtype == "float32"
        assert grid[-1] == 0.0 and grid[0] <= 1.0 and np.all(np.diff(grid) < 0.0)
        assert grid[0] > 0.95 or steps < 50
        np.testing.assert_allclose(traced(steps), grid, rtol=0, atol=1e-7)


def test_the_releases_grid_of_all_steps_is_uniform():
    np.testing.assert_array_equal(time_grid("release", 1000), time_grid("uniform", 1000))


def test_uniform_grid_is_uniform():
    np.testing.assert_array_equal(time_grid("uniform", 8), np.arange(8, -1, -1) / 8)


@pytest.mark.parametrize(
    "schedule", [COSINE, schedules.cosine(400), schedules.logsnr_cosine(), COSINE.shifted(4)]
)
def test_grids_of_noise_levels_are_equal_steps_of_them(schedule):
    for kind, measure in (("logsnr", math.log), ("karras", lambda level: level ** (1 / RHO))):
        grid = time_grid(kind, 20, schedule.num_steps, schedule=schedule)
        logsnr = np.array(schedule.logsnr(np.array(grid[:-1], "float64")))
        steps = np.diff([measure(math.exp(-value / 2)) for value in logsnr])
        np.testing.assert_allclose(steps, steps[0], rtol=2e-3)
        # From sigma / alpha = 80, or where the schedule ends before that, to its first step.
        largest = math.exp(-float(schedule.logsnr(1.0)) / 2)
        assert math.exp(-logsnr[0] / 2) == pytest.approx(min(SIGMA_MAX, largest), rel=1e-3)
        assert float(grid[-2]) == pytest.approx(1 / schedule.num_steps, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: time_grid("uniform", 1001), "steps=1001"),
        (lambda: time_grid("uniform", 0), "steps=0"),
        (lambda: time_grid("quadratic", 5), "'quadratic'"),
    ],
)
def test_errors_name_the_argument(call, word):
    with pytest.raises(ValueError, match="Received: .*To fix it: ") as caught:
        call()
    assert word in str(caught.value)

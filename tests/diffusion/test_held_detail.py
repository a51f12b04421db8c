"""Outer levels between two evaluations, in closed form."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mdm.diffusion import held_detail, samplers, time_grid
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.diffusion.schedules import cosine


def process_of(*levels):
    return LevelProcess.create(
        levels, cosine(), shift_power=2.0, prediction="v", use_residual=False
    )


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_steps_are_cut_into_equal_parts_that_end_with_an_evaluation():
    for steps in range(1, 31):
        for count in range(1, steps + 1):
            found = np.flatnonzero(held_detail.due(count, steps))
            assert len(found) == count and found[-1] == steps - 1
            parts = np.diff(np.concatenate([[-1], found]))
            assert parts.max() - parts.min() <= 1
    assert np.flatnonzero(held_detail.due(3, 10)).tolist() == [3, 6, 9]
    traced = tf.function(held_detail.due)(tf.constant(3), tf.constant(10))
    np.testing.assert_array_equal(traced, held_detail.due(3, 10))


def test_the_highest_computed_level_decides():
    for computed, position in (
        ([True, False, False], 0),
        ([True, True, False], 1),
        ([True, False, True], 2),
        ([True, True, True], 2),
    ):
        assert int(held_detail.highest([tf.constant(each) for each in computed])) == position


def test_detail_follows_the_picture_below_and_never_fades():
    process = process_of("4", "8", "16")
    low, middle, high = process.shapes
    before = {"4": noise(0, 2, 4, 4, 3), "8": noise(1, 2, 8, 8, 3), "16": noise(2, 2, 16, 16, 3)}
    up = process.enlarged
    detail = {
        "8": before["8"] - up(before["4"], low, middle),
        "16": before["16"] - up(before["8"], middle, high),
    }
    state = before
    for step in range(5):
        new = noise(10 + step, 2, 4, 4, 3)
        state = held_detail.hold(process, {"4": new}, state)
        assert list(state) == ["4", "8", "16"]
        np.testing.assert_array_equal(state["4"], new)
        np.testing.assert_allclose(state["8"], up(new, low, middle) + detail["8"], atol=1e-12)
        wanted = up(up(new, low, middle) + detail["8"], middle, high) + detail["16"]
        np.testing.assert_allclose(state["16"], wanted, atol=1e-12)
    # A level that was computed is left alone, and the one above it keeps its own detail.
    given = {"4": noise(20, 2, 4, 4, 3), "8": noise(21, 2, 8, 8, 3)}
    found = held_detail.hold(process, given, before)
    np.testing.assert_array_equal(found["8"], given["8"])
    np.testing.assert_allclose(found["16"], up(given["8"], middle, high) + detail["16"], atol=1e-12)


def test_before_the_first_evaluation_there_is_no_detail():
    process = process_of("4", "2x4", "2x8")
    shapes = [(1, 4, 4, 3), (1, 2, 4, 4, 3), (1, 2, 8, 8, 3)]
    zeros = {name: np.zeros(shape) for name, shape in zip(process.levels, shapes, strict=True)}
    picture = noise(0, 1, 4, 4, 3)
    found = held_detail.hold(process, {"4": picture}, zeros)
    np.testing.assert_array_equal(found["2x4"], np.stack([picture, picture], axis=1))
    below, shape = process.shapes[1:]
    np.testing.assert_allclose(found["2x8"], process.enlarged(found["2x4"], below, shape))


def holding(process, picture, before):
    """Denoise by holding the detail of the step before around one picture."""
    state = {"before": before}

    def denoise(x, t):
        state["before"] = held_detail.hold(process, {"4": picture}, state["before"])
        return state["before"]

    return denoise


@pytest.fixture
def process():
    return process_of("4", "8")


def steps_between(sampler, process, grid, x, denoise, noise=None):
    """Steps taken one by one, so that the denoiser may remember."""
    state = samplers.begin(samplers.get(sampler), x)
    for i in range(len(grid) - 1):
        found = denoise(x, grid[i])
        state = samplers.advance(
            samplers.get(sampler),
            lambda x, t, found=found: found,
            process.schedules,
            grid,
            state,
            noise,
            i,
            i + 1,
        )
    return state["x"]


def test_held_steps_of_ddim_are_one_long_step(process):
    grid = np.array([0.8, 0.7, 0.55, 0.5, 0.3], "float32")
    x = {"4": noise(0, 1, 4, 4, 3), "8": noise(1, 1, 8, 8, 3)}
    before = {"4": noise(2, 1, 4, 4, 3), "8": noise(3, 1, 8, 8, 3)}
    picture = noise(4, 1, 4, 4, 3)
    many = steps_between("ddim", process, grid, x, holding(process, picture, before))
    one = steps_between("ddim", process, grid[[0, -1]], x, holding(process, picture, before))
    for name in x:
        np.testing.assert_allclose(many[name], one[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_level_not_computed_yet_is_noised_around_the_enlarged_picture(process, sampler):
    """So it is distributed as in the forward process when the network first sees it."""
    grid = ops.concatenate([time_grid("uniform", 10)[:6]])
    rows = 400
    x = {"4": noise(0, rows, 4, 4, 3), "8": noise(1, rows, 8, 8, 3)}
    zeros = {name: np.zeros_like(value) for name, value in x.items()}
    picture = np.repeat(noise(2, 1, 4, 4, 3), rows, axis=0)
    draws = np.random.default_rng(3)

    def fresh(i, name, x):
        return draws.normal(size=x.shape)

    denoise = holding(process, picture, zeros)
    found = steps_between(sampler, process, grid, x, denoise, fresh)["8"]
    alpha, sigma = (float(a) for a in process.amplitudes("8", 0.5))
    eps = (np.asarray(found) - alpha * process.enlarged(picture, *process.shapes)) / sigma
    assert alpha > 0.3  # there is something to tell the two apart by
    np.testing.assert_allclose(np.mean(eps, axis=0), 0.0, atol=5.0 / np.sqrt(rows))
    np.testing.assert_allclose(np.mean(np.square(eps)), 1.0, atol=0.02)

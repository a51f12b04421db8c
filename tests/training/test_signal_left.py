"""Sampling starts from pure noise: so must the end of training's schedule be (almost)."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
from tiny_models import PLAIN_INNER, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.diffusion import Schedule, schedules

SAYS = "of the pictures' amplitude"


@pytest.mark.parametrize("steps", [2, 10, 20, 50, 100, 250, 1000, 4000])
def test_linear_steps_scale_with_their_number(steps):
    schedule = schedules.get("linear", steps)
    assert math.sqrt(schedule.table()[-1]) < 0.04
    if steps >= 100:  # the same noise at the same time
        t = np.linspace(0.1, 0.9, 9)
        expected = schedules.linear_beta().logsnr(t)
        np.testing.assert_allclose(schedule.logsnr(t), expected, atol=0.5)
    assert Schedule.from_config(schedule.get_config()) == schedule


def test_the_thousand_are_those_of_ddpm_and_files_keep_theirs():
    ddpm = schedules.linear_beta(1000, beta_start=1e-4, beta_end=0.02)
    np.testing.assert_array_equal(schedules.linear_beta().table(), ddpm.table())
    old = {"name": "linear", "num_steps": 50, "options": {"beta_start": 1e-4, "beta_end": 0.02}}
    assert math.sqrt(Schedule.from_config(old).table()[-1]) == pytest.approx(0.776, abs=1e-3)


@pytest.fixture(scope="module")
def unet():
    return tiny_unet([PLAIN_INNER, outer(16)])


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if SAYS in str(one.message)]


TABLE = np.linspace(1.0, 0.36, 11)
TOO_SHORT = {
    "own table": (Schedule("mine", 10, TABLE), {}, "0.600"),
    "own steps": (schedules.linear_beta(50, beta_start=1e-4, beta_end=0.02), {}, "0.776"),
    "small steps": (schedules.cosine(20, max_beta=0.05), {}, "0."),
    "brighter": (schedules.logsnr_cosine(), {"signal_scale": {"8": 0.5}}, "0.164"),
    "rounded": (dataclasses.replace(Schedule("mine", 10, TABLE), single=True), {}, "0.600"),
}


@pytest.mark.parametrize("kind", TOO_SHORT)
def test_signal_at_the_end_is_warned_of(unet, kind):
    schedule, options, left = TOO_SHORT[kind]
    messages = said(lambda: MatryoshkaDiffusion(unet, schedule=schedule, **options))
    assert len(messages) == 1 and f"leaves {left}" in messages[0] and "level 8" in messages[0]


def test_what_ends_in_noise_is_not(unet):
    for name in ("cosine", "linear", "sigmoid", "logsnr_cosine"):
        for steps in (5, 50, 1000):
            assert not said(
                lambda n=name, k=steps: MatryoshkaDiffusion(unet, schedule=n, num_steps=k)
            )
    shifted = Schedule("mine", 10, TABLE).shifted(16)
    assert not said(lambda: MatryoshkaDiffusion(unet, schedule=shifted))
    scaled = {"8": 10.0, "16": 10.0}
    own = Schedule("mine", 10, TABLE)
    assert not said(lambda: MatryoshkaDiffusion(unet, schedule=own, signal_scale=scaled))


def test_grids_that_start_late_are_warned_of(unet):
    model = MatryoshkaDiffusion(unet)

    def draw(**options):
        return said(lambda: model.generate(num_images=1, dry_run=True, **options))

    # 4 of 1000 steps start at round(4 * 1001 / 5) / 1000.
    (message,) = draw(steps=4, grid="release")
    assert "time 0.801" in message and f"{math.cos((0.801 + 0.008) / 1.008 * math.pi / 2):.3f}" in (
        message
    )
    assert not draw(steps=50, grid="release")
    for grid in ("uniform", "logsnr", "karras"):
        assert not draw(steps=4, grid=grid)
    # Pictures that are changed start with what is left of them.
    pictures = np.zeros((16, 16, 3), "uint8")
    assert not draw(steps=4, grid="release", init_image=pictures, strength=0.5)

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.diffusion import schedules
from keras_mdm.diffusion.losses import vdm_table
from keras_mdm.diffusion.pyramid import LevelShape
from keras_mdm.diffusion.schedule import Schedule

NAMES = ("cosine", "logsnr_cosine", "linear", "sigmoid")
RELEASE = {"DEEPFLOYD": "cosine", "COSINE": "logsnr_cosine", "DDPM": "linear"}
FAMILIES = [schedules.get(name).shifted(scale) for name in NAMES for scale in (1, 16)]


def ids(schedule):
    return f"{schedule.name}{schedule.logsnr_offset:+.1f}"


def relative(actual, expected):
    return np.max(np.abs(np.asarray(actual, "float64") / np.asarray(expected, "float64") - 1.0))


@pytest.mark.parametrize("schedule", FAMILIES, ids=ids)
def test_variance_is_preserved(schedule):
    t = np.linspace(0.0, 1.0, 997)
    alpha, sigma = schedule.alpha_sigma(t)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=0, atol=1e-15)
    alpha, sigma = schedule.alpha_sigma(t.astype("float32"))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=0, atol=3e-7)


@pytest.mark.parametrize("schedule", FAMILIES, ids=ids)
def test_logsnr_falls_strictly(schedule):
    t = np.linspace(1.0 / schedule.num_steps, 1.0, 4 * schedule.num_steps)
    assert np.all(np.diff(schedule.logsnr(t)) < 0.0)
    assert np.all(np.diff(schedule.table()) < 0.0)


@pytest.mark.parametrize("schedule", FAMILIES, ids=ids)
def test_inverse_undoes_logsnr(schedule, rng):
    t = rng.uniform(1.0 / schedule.num_steps, 1.0, (3, 500))
    np.testing.assert_allclose(schedule.inverse(schedule.logsnr(t)), t, rtol=0, atol=1e-12)
    # Beyond the table it stays at the ends.
    np.testing.assert_array_equal(schedule.inverse(np.array([1e3, -1e3])), [1e-3, 1.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("schedule", FAMILIES, ids=ids)
def test_times_k_over_n_give_the_table(schedule, dtype):
    k = np.arange(schedule.num_steps + 1)
    t = (k / schedule.num_steps).astype(dtype)
    np.testing.assert_array_equal(schedule.position(t), k)
    np.testing.assert_array_equal(schedule.time(t), k - 1)
    alpha, sigma = schedule.alpha_sigma(t)
    limit = {"float32": 4e-6, "float64": 1e-13}[dtype]
    assert relative(alpha**2, schedule.table()) < limit
    # The table itself keeps 1 - alpha-bar to about 1e-11 where that is small.
    assert relative(sigma[1:] ** 2, 1.0 - schedule.table()[1:]) < max(limit, 1e-10)


def test_float32_rounding_would_miss_the_table():
    # The reason for `position`: the plain product is off for some k, so the snap is not idle.
    t = (np.arange(1001) / 1000).astype("float32")
    assert np.any(t * np.float32(1000) != np.arange(1001))


def test_clean_end_is_exact_and_clamped():
    schedule = schedules.cosine()
    alpha, sigma = schedule.alpha_sigma(np.array([0.0, 1e-9, 1e-3], "float32"))
    assert float(alpha[0]) == 1.0 and float(sigma[0]) == 0.0
    assert float(sigma[1]) == float(sigma[2]) > 0.0
    assert schedule.table()[0] == schedule.shifted(16).table()[0] == 1.0


@pytest.mark.parametrize("power", [1, 2, 1.5])
def test_a_shift_is_a_constant_logsnr_offset(power):
    schedule, t = schedules.cosine(), np.linspace(0.001, 1.0, 333)
    moved = schedule.logsnr(t) - schedule.shifted(4, power).logsnr(t)
    np.testing.assert_allclose(moved, power * math.log(4), rtol=0, atol=1e-13)
    snr = schedule.table()[1:] / (1 - schedule.table()[1:])
    shifted = schedule.shifted(4, power).table()[1:]
    np.testing.assert_allclose(shifted / (1 - shifted), snr / 4**power, rtol=1e-10)


def test_shifts_compose():
    schedule = schedules.cosine()
    assert schedule.shifted(2).shifted(8) == schedule.shifted(16)
    assert schedule.shifted(1) == schedule != schedule.shifted(2)
    assert schedule.shifted(4, 1).logsnr_offset == schedule.shifted(2, 2).logsnr_offset


def test_pooled_noise_of_a_shifted_level_has_the_snr_of_the_level_below(rng):
    # Why power 2: pooling leaves a constant picture alone and divides the noise variance by s^2.
    schedule, s = schedules.cosine(), 4
    alpha, sigma = (float(a) for a in schedule.shifted(s).alpha_sigma(0.4))
    noise = rng.standard_normal((400, s, 400, s)).mean(axis=(1, 3))
    snr = alpha**2 / np.var(sigma * noise)
    assert snr == pytest.approx(math.exp(float(schedule.logsnr(0.4))), rel=0.02)


def test_release_tables(golden):
    settings, arrays = golden("schedules")
    for entry in settings["tables"]:
        name, steps = entry["name"], entry["steps"]
        schedule = schedules.get(RELEASE[entry["schedule_type"]], steps)
        gamma = arrays[f"{name}/gamma"]
        assert relative(schedule.table(), gamma) < 1e-6, name
        alpha, sigma = schedule.alpha_sigma(np.arange(steps + 1) / steps)
        assert relative(alpha, arrays[f"{name}/alpha"]) < 1e-6, name
        # The release takes 1 - gamma in float32, off by up to half a unit in the last place of 1.
        rounding = 2.0**-24 / (1.0 - schedule.table()[1:])
        error = np.abs(arrays[f"{name}/sigma"][1:] / sigma[1:] - 1.0)
        assert np.all(error < 1e-6 + rounding), name

        # From the release's own rounded table all shifts agree as closely as float32 allows.
        rounded = Schedule(name, steps, gamma)
        for scale, power in entry["shifts"]:
            shifted = arrays[f"{name}/shift_{scale}_power_{power}/gamma"]
            assert relative(rounded.shifted(scale, power).table(), shifted) < 1e-6, name
            exact = schedule.shifted(scale, power).table()
            # From the exact one, the effect of rounding 1 - gamma on the ratio of the two remains.
            limit = 1e-6 + (1.0 - exact[1:]) * rounding
            assert np.all(np.abs(shifted[1:] / exact[1:] - 1.0) < limit), (name, scale, power)


def test_rounded_schedules_hold_the_float32_table():
    exact, rounded = schedules.cosine(), schedules.cosine().rounded()
    np.testing.assert_array_equal(rounded.table(), exact.table().astype("float32"))
    assert rounded != exact and rounded.shifted(4).single
    # Of 1 - alpha-bar_1 = 4e-5, rounding takes up to 2^-25.
    moved = 1.0 - (1.0 - rounded.table()[1]) / (1.0 - exact.table()[1])
    assert 1e-4 < abs(moved) < 1e-3


def test_release_vdm_weights(golden):
    settings, arrays = golden("schedules")
    for entry in settings["tables"]:
        name, steps = entry["name"], entry["steps"]
        expected = arrays[f"{name}/vdm_loss_weights"]
        # A ratio of SNRs minus 1, about 6e-3 in mid-schedule, keeps 1e-5 in float32. The exact
        # table also differs by the rounding of gamma in the ratio (1e-4), and by that of 1 - gamma
        # in the first entries, where it is 4e-5 and known to 1e-3 only.
        rounded = Schedule(name, steps, arrays[f"{name}/gamma"])
        assert relative(vdm_table(rounded), expected) < 5e-5, name
        exact = vdm_table(schedules.get(RELEASE[entry["schedule_type"]], steps))
        assert relative(exact, expected) < 1e-3, name
        assert relative(exact[steps // 10 :], expected[steps // 10 :]) < 2e-4, name


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.cosine(100, max_beta=0.9).shifted(4, 1),
        schedules.logsnr_cosine(50),
        schedules.linear_beta(200, beta_start=1e-3, beta_end=0.1),
        schedules.sigmoid(300, start=0.0, end=3.0, tau=0.7).shifted(2),
        Schedule("cosine", 3, np.array([1.0, 0.7, 0.3, 0.1])).shifted(3),
        schedules.cosine().rounded().shifted(2),
    ],
    ids=ids,
)
def test_config_survives_json(schedule):
    config = json.loads(json.dumps(schedule.get_config()))
    again = Schedule.from_config(config)
    assert again == schedule and hash(again) == hash(schedule)
    np.testing.assert_array_equal(again.table(), schedule.table())


def test_sigmoid_follows_its_formula():
    schedule = schedules.sigmoid(10, start=-3, end=3, tau=0.9)
    t, sigmoid = 0.3, lambda x: 1 / (1 + math.exp(-x))
    top, bottom = sigmoid(3 / 0.9), sigmoid(-3 / 0.9)
    expected = (top - sigmoid((-3 + 6 * t) / 0.9)) / (top - bottom)
    assert schedule.table()[3] == pytest.approx(expected, rel=1e-12)
    assert 0.0 < schedule.table()[-1] < 1e-8


def test_records_are_frozen():
    schedule = schedules.cosine()
    with pytest.raises(AttributeError):
        schedule.num_steps = 5
    with pytest.raises(ValueError, match="read-only"):
        schedule.alpha_bar[0] = 0.5
    schedule.table()[0] = 0.5  # a copy
    assert schedule.table()[0] == 1.0


def test_inside_a_graph_the_same():
    schedule = schedules.cosine().shifted(4)

    @tf.function(input_signature=[tf.TensorSpec([None], "float32")])
    def traced(t):
        return (*schedule.alpha_sigma(t), schedule.inverse(schedule.logsnr(t)))

    t = tf.linspace(0.0, 1.0, 64)
    for graph, eager in zip(
        traced(t),
        (*schedule.alpha_sigma(t), schedule.inverse(schedule.logsnr(t))),
        strict=True,
    ):
        np.testing.assert_allclose(graph, eager, rtol=1e-6)
        assert graph.dtype == "float32"


def test_a_record_keeps_its_number_of_steps():
    record = schedules.cosine(20)
    assert schedules.get(record) is schedules.get(record, 20) is record
    assert schedules.get("cosine").num_steps == 1000 and schedules.get("cosine", 20) == record


def test_level_shift_counts_frames_as_square_root():
    inner = LevelShape(None, 64)
    expected = {(None, 64): 1, (None, 1024): 16, (16, 64): 4, (16, 256): 16}
    for shape, scale in expected.items():
        assert schedules.level_shift(LevelShape(*shape), inner) == scale


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: schedules.get("cosinus"), "'cosine'"),
        (lambda: schedules.get(schedules.cosine(20), 30), "num_steps=30"),
        (lambda: schedules.get(schedules.cosine(20), max_beta=0.9), "max_beta=0.9"),
        (lambda: schedules.cosine(1), "num_steps=1"),
        (lambda: schedules.cosine(max_beta=1.0), "max_beta=1.0"),
        (lambda: schedules.sigmoid(start=3, end=-3), "start=3"),
        (lambda: schedules.cosine().shifted(0), "scale=0"),
        (lambda: Schedule("mine", 2, np.array([1.0, 0.5, 0.5])), "strictly"),
    ],
)
def test_errors_name_the_argument(call, word):
    with pytest.raises(ValueError, match="Received: .*To fix it: ") as caught:
        call()
    assert word in str(caught.value)


def test_names_with_a_shift_are_those_of_the_paper():
    """Appendix A: `cosine-shift4` belongs to 256 over 64, and to 16 frames of 64."""
    shapes = [LevelShape(None, 64), LevelShape(16, 64), LevelShape(None, 1024)]
    named = {"64": "cosine", "16x64": "cosine-shift4", "1024": "cosine-shift16", "256": "left out"}
    found = schedules.of_levels(named, shapes)
    assert found == schedules.of_levels("cosine", shapes)
    assert found["16x64"].logsnr_offset == -2.0 * math.log(4.0)
    assert schedules.get("linear-shift1.5", 500) == schedules.linear_beta(500).shifted(1.5)
    configs = {level: schedule.get_config() for level, schedule in found.items()}
    assert schedules.from_config(configs) == found
    assert schedules.from_config(configs["16x64"]) == found["16x64"]
    for wrong in ("cosine-shift", "cosine-shift0", "cosine-shift-2", "cosine-shiftinf"):
        with pytest.raises(ValueError, match="a positive number after '-shift'"):
            schedules.get(wrong)
    with pytest.raises(ValueError, match="`schedule` must be one of"):
        schedules.get("cosinus-shift4")

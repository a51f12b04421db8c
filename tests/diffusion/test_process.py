import numpy as np
import pytest

from keras_mdm.diffusion import process, schedules


def test_noisy_data_have_the_mean_and_variance_of_the_process(rng):
    schedule = schedules.cosine()
    t = np.repeat([0.1, 0.5, 0.9], 20_000)
    alpha, sigma = (np.array(a) for a in schedule.alpha_sigma(t))
    x_t = process.add_noise(
        np.full((t.size, 1), 0.7), rng.standard_normal((t.size, 1)), alpha, sigma
    )
    for one in np.unique(t):
        rows = np.array(x_t)[t == one, 0]
        # Five standard errors of a mean and of a variance.
        assert abs(rows.mean() - 0.7 * alpha[t == one][0]) < 5 / np.sqrt(rows.size)
        assert abs(rows.var() / sigma[t == one][0] ** 2 - 1) < 5 * np.sqrt(2 / rows.size)


def test_levels_share_t_and_keep_their_own_schedules(rng):
    base = schedules.cosine()
    table = {"4": base, "8": base.shifted(2)}
    x0 = {name: rng.standard_normal((3, int(name), int(name), 3)) for name in table}
    eps = {name: rng.standard_normal(x.shape) for name, x in x0.items()}
    t = np.array([0.0, 0.3, 1.0])
    x_t = process.forward(x0, eps, t, table)
    for name, schedule in table.items():
        gamma = np.interp(t * 1000, np.arange(1001), schedule.table())[:, None, None, None]
        expected = np.sqrt(gamma) * x0[name] + np.sqrt(1 - gamma) * eps[name]
        np.testing.assert_allclose(x_t[name], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(x_t["8"][0], x0["8"][0])


def test_outer_levels_may_hold_the_first_rows_only(rng):
    table = {"4": schedules.cosine(), "8": schedules.cosine().shifted(2)}
    x0 = {"4": rng.standard_normal((3, 4)), "8": rng.standard_normal((2, 8))}
    eps = {name: rng.standard_normal(x.shape) for name, x in x0.items()}
    t = np.array([0.2, 0.5, 0.8])
    part = process.forward(x0, eps, t, table)["8"]
    only = process.forward({"8": x0["8"]}, {"8": eps["8"]}, t[:2], table)["8"]
    np.testing.assert_array_equal(part, only)


def test_coefficients_of_two_axes_are_refused():
    with pytest.raises(ValueError, match="one value per sample"):
        process.expand(np.zeros((2, 1)), np.zeros((2, 3)))


def test_a_level_without_noise_is_named():
    with pytest.raises(ValueError, match=r"add \['8'\]"):
        process.forward({"8": np.zeros((1, 8))}, {}, 0.5, {"8": schedules.cosine()})

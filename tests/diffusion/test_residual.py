import numpy as np
import pytest

from keras_mdm.diffusion import parameterization, residual, schedules

T = np.array([1e-3, 0.1, 0.5, 0.9, 1.0])


def data(rng):
    alpha, sigma = schedules.cosine().shifted(4).alpha_sigma(T)
    z, u = rng.standard_normal((2, T.size, 6))
    return z, u, alpha, sigma


@pytest.mark.parametrize("s", [0.01, 0.3, 1.0, 2.0])
def test_is_the_posterior_mean_of_a_gaussian(rng, s):
    """Condition the joint Gaussian of (x, z) given u, in matrix form, on z."""
    z, u, alpha, sigma = data(rng)
    estimate = np.array(residual.wiener_x0(z, u, alpha, sigma, s))
    for row, (a, b) in enumerate(zip(np.array(alpha), np.array(sigma), strict=True)):
        prior = s**2 * np.eye(6)  # cov(x | u); cov(x, z) = a prior; cov(z) = a^2 prior + b^2 I
        gain = a * prior @ np.linalg.inv(a**2 * prior + b**2 * np.eye(6))
        exact = u[row] + gain @ (z[row] - a * u[row])
        np.testing.assert_allclose(estimate[row], exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("s", [0.01, 0.3, 1.0, 2.0])
def test_v_and_x0_are_one_estimate(rng, s):
    z, u, alpha, sigma = data(rng)
    v = residual.wiener_v(z, u, alpha, sigma, s)
    x0 = residual.wiener_x0(z, u, alpha, sigma, s)
    np.testing.assert_allclose(
        parameterization.to_x0("v", v, z, alpha, sigma), x0, rtol=0, atol=1e-13
    )
    # Dividing by sigma = 1.6e-3 at the clean end costs three digits; `wiener_v` does not divide.
    np.testing.assert_allclose(
        parameterization.to_v("x0", x0, z, alpha, sigma), v, rtol=0, atol=1e-10
    )


def test_detail_of_unit_variance_says_nothing_about_v(rng):
    z, u, alpha, sigma = data(rng)
    v = residual.wiener_v(z, u, alpha, sigma, 1.0)
    np.testing.assert_array_equal(v, -np.array(sigma)[:, None] * u)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("s", [1e-3, 0.3, 1.0])
def test_both_ends(rng, dtype, s):
    z, u = rng.standard_normal((2, 3, 6)).astype(dtype)
    x0, v = (f(z, u, 1.0, 0.0, s) for f in (residual.wiener_x0, residual.wiener_v))
    np.testing.assert_allclose(x0, z, rtol=0, atol=1e-5 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(v, np.zeros_like(z))
    x0, v = (f(z, u, 0.0, 1.0, s) for f in (residual.wiener_x0, residual.wiener_v))
    np.testing.assert_array_equal(x0, u)
    np.testing.assert_array_equal(v, -u)


def test_beats_both_the_picture_below_and_the_input(rng):
    s, alpha, sigma = 0.3, 0.8, 0.6
    u = rng.standard_normal((1, 100_000))
    x = u + s * rng.standard_normal(u.shape)
    z = alpha * x + sigma * rng.standard_normal(u.shape)
    error = np.mean((residual.wiener_x0(z, u, alpha, sigma, s) - x) ** 2)
    assert error == pytest.approx(s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2), rel=0.02)
    assert error < 0.9 * min(np.mean((u - x) ** 2), np.mean((z / alpha - x) ** 2))


def test_detail_without_variance_is_refused():
    with pytest.raises(ValueError, match="s=0"):
        residual.wiener_v(np.zeros((1, 1)), np.zeros((1, 1)), 0.6, 0.8, 0)

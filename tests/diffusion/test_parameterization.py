import itertools

import numpy as np
import pytest

from keras_mdm.diffusion import parameterization, schedules

KINDS = parameterization.KINDS


def sample(rng, t):
    alpha, sigma = schedules.cosine().alpha_sigma(np.asarray(t))
    x0, eps = rng.standard_normal((2, len(t), 4, 4, 3))
    a, s = (np.array(c)[:, None, None, None] for c in (alpha, sigma))
    return alpha, sigma, a * x0 + s * eps, {"x0": x0, "eps": eps, "v": a * eps - s * x0}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, KINDS)))
def test_every_kind_gives_every_other(rng, source, target):
    alpha, sigma, x_t, truth = sample(rng, [0.05, 0.3, 0.7, 0.95])
    converted = parameterization.convert(source, target, truth[source], x_t, alpha, sigma)
    np.testing.assert_allclose(converted, truth[target], rtol=0, atol=1e-13)
    back = parameterization.convert(target, source, converted, x_t, alpha, sigma)
    np.testing.assert_allclose(back, truth[source], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_targets(rng, kind):
    alpha, sigma, _, truth = sample(rng, [0.0, 0.5, 1.0])
    target = parameterization.from_x0_eps(kind, truth["x0"], truth["eps"], alpha, sigma)
    np.testing.assert_allclose(target, truth[kind], rtol=0, atol=1e-15)


def test_v_is_finite_and_right_at_both_ends(rng):
    alpha, sigma, x_t, truth = sample(rng, [0.0, 1.0])
    for target, exact in (("x0", truth["x0"]), ("eps", truth["eps"])):
        converted = parameterization.convert("v", target, truth["v"], x_t, alpha, sigma)
        np.testing.assert_allclose(converted, exact, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(truth["v"][0], truth["eps"][0])
    # At the noisy end alpha is 5e-5, not 0: v is -x0 but for that share of the noise.
    np.testing.assert_allclose(truth["v"][1], -truth["x0"][1], rtol=0, atol=1e-3)


def test_eps_and_x0_at_the_end_where_they_are_defined(rng):
    alpha, sigma, x_t, truth = sample(rng, [0.0, 1.0])
    clean = parameterization.to_x0("eps", truth["eps"], x_t, alpha, sigma)
    np.testing.assert_allclose(clean[0], truth["x0"][0], rtol=0, atol=1e-15)
    noise = parameterization.to_eps("x0", truth["x0"][1:], x_t[1:], alpha[1:], sigma[1:])
    np.testing.assert_allclose(noise, truth["eps"][1:], rtol=0, atol=1e-12)


def test_dtype_follows_the_data(rng):
    x = rng.standard_normal((2, 4)).astype("float16")
    assert parameterization.to_x0("v", x, x, np.float32(0.6), np.float32(0.8)).dtype == "float16"


def test_unknown_kind():
    with pytest.raises(ValueError, match="'eps', 'x0', 'v'.*kind='epsilon'"):
        parameterization.to_x0("epsilon", 0.0, 0.0, 1.0, 0.0)

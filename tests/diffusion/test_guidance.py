import numpy as np
import pytest

from keras_mdm.diffusion import guidance


def pair(rng):
    return tuple(
        {name: rng.standard_normal((2, int(name), int(name), 3)) for name in ("4", "8")}
        for _ in range(2)
    )


def test_scale_zero_is_unconditional_and_one_conditional(rng):
    u, c = pair(rng)
    for name, level in guidance.classifier_free(u, c, 0.0).items():
        np.testing.assert_array_equal(level, u[name])
    for name, level in guidance.classifier_free(u, c, 1.0).items():
        np.testing.assert_allclose(level, c[name], rtol=0, atol=1e-15)


def test_linear_in_the_scale(rng):
    u, c = pair(rng)
    low, high, mean = (guidance.classifier_free(u, c, scale)["8"] for scale in (2.0, 6.0, 4.0))
    np.testing.assert_allclose(0.5 * (low + high), mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(mean, 4.0 * c["8"] - 3.0 * u["8"], rtol=0, atol=1e-13)


def test_one_scale_per_sample(rng):
    u, c = (levels["4"] for levels in pair(rng))
    both = guidance.classifier_free(u, c, np.array([1.5, 7.0]))
    for row, scale in enumerate((1.5, 7.0)):
        np.testing.assert_array_equal(both[row], guidance.classifier_free(u, c, scale)[row])


def test_levels_must_agree(rng):
    u, c = pair(rng)
    for bad in ({"4": c["4"]}, c | {"16": c["4"]}):
        with pytest.raises(ValueError, match="conditional"):
            guidance.classifier_free(u, bad, 2.0)

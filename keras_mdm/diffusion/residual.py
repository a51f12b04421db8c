"""The residual output of an outer level: the best linear guess given the picture below.

Let u be the upsampled estimate of the level below and z = alpha * x + sigma * eps the noisy input.
Take the detail d = x - u as Gaussian with mean 0 and standard deviation s in every pixel. Then
z - alpha * u = alpha * d + sigma * eps, and the posterior mean of d is the Wiener filter

    E[d | z, u] = alpha s^2 / (alpha^2 s^2 + sigma^2) * (z - alpha u),

so E[x | z, u] = u + E[d | z, u]. Put into v = (alpha z - x) / sigma, the division by sigma cancels:

    v = -sigma u + alpha sigma (1 - s^2) / (alpha^2 s^2 + sigma^2) * (z - alpha u).

Both forms are finite at the clean end (alpha = 1, sigma = 0) and at the noisy end (alpha = 0,
sigma = 1). The network's output is added to this v, so a level added by growth starts as a Wiener
filter around the picture below rather than as a prediction of zero.

Reference: Gu et al., arXiv 2310.15111, section 3.3 (progressive training, which this serves); the
output itself is ours. Ho et al., arXiv 2006.11239, equation 7, is the same product of Gaussians.
"""

from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion.process import expand
from keras_mdm.types import Tensor


def wiener_x0(z: Tensor, u: Tensor, alpha: Tensor, sigma: Tensor, s: Tensor) -> Tensor:
    """Return the posterior mean of x given the noisy input and the picture below.

    Args:
        z: (B, ...), the noisy input of the level.
        u: (B, ...), the clean estimate of the level below, upsampled to this level.
        alpha: scalar or (B,).
        sigma: scalar or (B,).
        s: positive number or scalar tensor, the standard deviation of x - u over the data.

    Returns:
        (B, ...) in the dtype of `z`.

    Raises:
        ValueError: if `s` is a number that is not positive.

    Example:

    >>> import numpy as np
    >>> z, u = np.array([[1.0]]), np.array([[0.25]])
    >>> float(wiener_x0(z, u, 1.0, 0.0, 0.5)[0, 0]), float(wiener_x0(z, u, 0.0, 1.0, 0.5)[0, 0])
    (1.0, 0.25)
    """
    alpha, sigma, variance = _coefficients(z, alpha, sigma, s)
    gain = alpha * variance / (alpha * alpha * variance + sigma * sigma)
    return u + gain * (z - alpha * u)


def wiener_v(z: Tensor, u: Tensor, alpha: Tensor, sigma: Tensor, s: Tensor) -> Tensor:
    """Return the v that corresponds to `wiener_x0`, without dividing by sigma.

    Args:
        z: (B, ...), the noisy input of the level.
        u: (B, ...), the clean estimate of the level below, upsampled to this level.
        alpha: scalar or (B,).
        sigma: scalar or (B,).
        s: positive number or scalar tensor, the standard deviation of x - u over the data. With
            s = 1, the variance of the noise, z tells v nothing beyond u.

    Returns:
        (B, ...) in the dtype of `z`.

    Raises:
        ValueError: if `s` is a number that is not positive.
    """
    alpha, sigma, variance = _coefficients(z, alpha, sigma, s)
    gain = alpha * sigma * (1.0 - variance) / (alpha * alpha * variance + sigma * sigma)
    return gain * (z - alpha * u) - sigma * u


_MOST = 4.0  # logarithm of the largest factor of a learned deviation, exp(4) = 55


def change_of_deviation(change: Tensor) -> Tensor:
    """Return the factor by which the deviation s of a pixel's detail differs from that of the data.

    Args:
        change: (B, ..., 1), what the network predicts: the logarithm of the factor where it is
            small, and bounded elsewhere.

    Returns:
        (B, ..., 1), between 1/55 and 55; 1 for a prediction of 0.

    Example:

    >>> float(change_of_deviation(ops.convert_to_tensor(0.0)))
    1.0
    """
    return ops.exp(_MOST * ops.tanh(change / _MOST))


def _coefficients(
    z: Tensor, alpha: Tensor, sigma: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # s = 0 (the data are the pictures below) would be 0 / 0 at the clean end.
    if isinstance(s, int | float) and not s > 0:
        raise checks.error(
            "`s` must be a positive number",
            fix="measure the standard deviation of the detail over the data",
            s=s,
        )
    s = s if len(getattr(s, "shape", ())) == len(z.shape) else expand(s, z)
    return expand(alpha, z), expand(sigma, z), s * s

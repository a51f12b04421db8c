"""The kinds of prediction, and conversions between them.

Three kinds, for x_t = alpha * x0 + sigma * eps with alpha^2 + sigma^2 = 1: the clean data `"x0"`,
the noise `"eps"`, and the velocity `"v"` = alpha * eps - sigma * x0. The pair (x_t, v) is the pair
(x0, eps) rotated by an angle, so everything follows from v without a division. Conversions from eps
divide by alpha, those from x0 by sigma; they fail where these are 0.

Reference: Salimans and Ho, arXiv 2202.00512, section 4 and appendix D; Gu et al., arXiv 2310.15111,
appendix C (v-prediction).
"""

from keras_mdm import checks
from keras_mdm.diffusion.process import expand
from keras_mdm.types import Tensor

KINDS = ("eps", "x0", "v")


def to_x0(kind: str, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the clean data that a prediction implies.

    Args:
        kind: what `prediction` is: `"eps"`, `"x0"` or `"v"`.
        prediction: (B, ...).
        x_t: (B, ...), the noisy data it was made for.
        alpha: scalar or (B,), not 0 for `"eps"`.
        sigma: scalar or (B,).

    Returns:
        (B, ...).

    Raises:
        ValueError: if `kind` is unknown.

    Example:

    >>> import numpy as np
    >>> x0, eps = np.array([[0.5]]), np.array([[-1.0]])
    >>> x_t, v = 0.6 * x0 + 0.8 * eps, 0.6 * eps - 0.8 * x0
    >>> round(float(to_x0("v", v, x_t, 0.6, 0.8)[0, 0]), 6)
    0.5
    """
    checks.one_of("kind", kind, KINDS)
    if kind == "x0":
        return prediction
    alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
    if kind == "eps":
        return (x_t - sigma * prediction) / alpha
    return alpha * x_t - sigma * prediction


def to_eps(kind: str, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise that a prediction implies.

    Args:
        kind: what `prediction` is: `"eps"`, `"x0"` or `"v"`.
        prediction: (B, ...).
        x_t: (B, ...), the noisy data it was made for.
        alpha: scalar or (B,).
        sigma: scalar or (B,), not 0 for `"x0"`.

    Returns:
        (B, ...).

    Raises:
        ValueError: if `kind` is unknown.
    """
    checks.one_of("kind", kind, KINDS)
    if kind == "eps":
        return prediction
    alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
    if kind == "x0":
        return (x_t - alpha * prediction) / sigma
    return sigma * x_t + alpha * prediction


def to_v(kind: str, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the velocity that a prediction implies.

    Args:
        kind: what `prediction` is: `"eps"`, `"x0"` or `"v"`.
        prediction: (B, ...).
        x_t: (B, ...), the noisy data it was made for.
        alpha: scalar or (B,), not 0 for `"eps"`.
        sigma: scalar or (B,), not 0 for `"x0"`.

    Returns:
        (B, ...).

    Raises:
        ValueError: if `kind` is unknown.
    """
    checks.one_of("kind", kind, KINDS)
    if kind == "v":
        return prediction
    alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
    # v = alpha * eps - sigma * x0, with x0 or eps eliminated by alpha^2 + sigma^2 = 1.
    if kind == "eps":
        return (prediction - sigma * x_t) / alpha
    return (alpha * x_t - prediction) / sigma


_CONVERSIONS = {"eps": to_eps, "x0": to_x0, "v": to_v}


def convert(
    source: str, target: str, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Turn a prediction of one kind into another.

    Args:
        source: what `prediction` is.
        target: what is wanted.
        prediction: (B, ...).
        x_t: (B, ...), the noisy data it was made for.
        alpha: scalar or (B,).
        sigma: scalar or (B,).

    Returns:
        (B, ...); `prediction` itself if the kinds are the same.

    Raises:
        ValueError: if a kind is unknown.
    """
    checks.one_of("target", target, KINDS)
    return _CONVERSIONS[target](source, prediction, x_t, alpha, sigma)


def from_x0_eps(kind: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the prediction of a perfect network of this kind: the target of the loss.

    Args:
        kind: `"eps"`, `"x0"` or `"v"`.
        x0: (B, ...), clean data.
        eps: (B, ...), the noise that was added.
        alpha: scalar or (B,).
        sigma: scalar or (B,).

    Returns:
        (B, ...).

    Raises:
        ValueError: if `kind` is unknown.
    """
    checks.one_of("kind", kind, KINDS)
    if kind == "x0":
        return x0
    if kind == "eps":
        return eps
    return expand(alpha, x0) * eps - expand(sigma, x0) * x0

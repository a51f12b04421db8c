"""One step from t to s < t, for every family of samplers.

Most methods are written with q = (alpha_t sigma_s) / (alpha_s sigma_t) = exp(-h), h the growth of
log(alpha / sigma): q^2 is SNR_t / SNR_s. This form avoids cancellation, and the step to the clean
end, where h is infinite, has q = 0 and returns the estimate of the clean data.
"""

import dataclasses

from keras import ops

from keras_mdm.diffusion.process import expand
from keras_mdm.types import Tensor


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a step knows about the times around it. All are scalar tensors.

    Args:
        alpha_t: amplitude of the signal at the time left.
        sigma_t: amplitude of the noise at the time left.
        alpha_s: amplitude of the signal at the time entered.
        sigma_s: amplitude of the noise at the time entered.
        q: (alpha_t sigma_s) / (alpha_s sigma_t).
        h: growth of log(alpha / sigma) in this step; in the step to 0, where it is infinite, the
            growth up to the first entry of the schedule.
        sigma_before: sigma at the start of the previous step.
        h_before: growth in the previous step.
        h_earlier: growth in the step before that.
        filled: number of earlier steps since the memory was empty, int32.
        evaluation: index of the network evaluation in this step, int32.
    """

    alpha_t: Tensor
    sigma_t: Tensor
    alpha_s: Tensor
    sigma_s: Tensor
    q: Tensor
    h: Tensor
    sigma_before: Tensor
    h_before: Tensor
    h_earlier: Tensor
    filled: Tensor
    evaluation: Tensor

    @property
    def amplitudes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha_t, sigma_t, alpha_s, sigma_s."""
        return self.alpha_t, self.sigma_t, self.alpha_s, self.sigma_s

    def like(self, x: Tensor) -> "Moment":
        """Return the moment in the dtype of `x`, for products with it.

        Differences of nearly equal values, which higher orders need, are better computed before.
        """
        kept = ("filled", "evaluation")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        cast = {k: v if k in kept else expand(v, x) for k, v in values.items()}
        return Moment(**cast)


def ddpm_step(
    x_t: Tensor,
    x0: Tensor,
    alpha_t: Tensor,
    sigma_t: Tensor,
    alpha_s: Tensor,
    sigma_s: Tensor,
    noise: Tensor,
) -> Tensor:
    """Draw from q(x_s | x_t, x0), the posterior of the forward process.

    The mean is alpha_s (1 - q^2) x0 + q sigma_s / sigma_t x_t and the variance sigma_s^2 (1 - q^2).
    It is also the ancestral form of Euler's method: a step to a lower noise level than wanted, then
    noise added back.

    Args:
        x_t: (B, ...).
        x0: (B, ...), estimate of the clean data.
        alpha_t: scalar or (B,), at the time left.
        sigma_t: scalar or (B,), above 0, at the time left.
        alpha_s: scalar or (B,), at the time entered.
        sigma_s: scalar or (B,), at the time entered.
        noise: (B, ...), standard normal.

    Returns:
        x_s, (B, ...).

    Example:

    >>> x_t, x0, noise = ops.ones((1, 1)), ops.zeros((1, 1)), ops.ones((1, 1))
    >>> float(ddpm_step(x_t, x0, 0.6, 0.8, 1.0, 0.0, noise)[0, 0])
    0.0

    Reference: Ho et al., arXiv 2006.11239, equations 6 and 7.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = _expand_all(x_t, alpha_t, sigma_t, alpha_s, sigma_s)
    q = alpha_t * sigma_s / (alpha_s * sigma_t)
    removed = (1.0 - q) * (1.0 + q)
    mean = alpha_s * removed * x0 + q * sigma_s / sigma_t * x_t
    return mean + sigma_s * ops.sqrt(removed) * noise


def ddim_step(
    x_t: Tensor,
    x0: Tensor,
    alpha_t: Tensor,
    sigma_t: Tensor,
    alpha_s: Tensor,
    sigma_s: Tensor,
    noise: Tensor = None,
    *,
    eta: Tensor = 0.0,
) -> Tensor:
    """Move to s along the noise that the estimate implies, renewing part of that noise.

    The noise is eps = (x_t - alpha_t x0) / sigma_t, from the estimate after thresholding. Of the
    variance sigma_s^2, the share eta^2 (1 - q^2) is drawn afresh. Eta 0 is deterministic: Euler's
    method for d(x / alpha) / d(sigma / alpha) = eps. Eta 1 has the mean and variance of DDPM.

    Args:
        x_t: (B, ...).
        x0: (B, ...), estimate of the clean data.
        alpha_t: scalar or (B,), at the time left.
        sigma_t: scalar or (B,), above 0, at the time left.
        alpha_s: scalar or (B,), at the time entered.
        sigma_s: scalar or (B,), at the time entered.
        noise: (B, ...), standard normal; not used if `eta` is the number 0.
        eta: in [0, 1], a number or a scalar tensor; a float64 tensor gives the same bits as the
            number.

    Returns:
        x_s, (B, ...).

    Reference: Song et al., arXiv 2010.02502, equations 12 and 16.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = _expand_all(x_t, alpha_t, sigma_t, alpha_s, sigma_s)
    eps = (x_t - alpha_t * x0) / sigma_t
    if not ops.is_tensor(eta) and eta == 0.0:
        return alpha_s * x0 + sigma_s * eps
    q = alpha_t * sigma_s / (alpha_s * sigma_t)
    share = ops.cast(eta * eta, ops.dtype(q)) if ops.is_tensor(eta) else eta * eta
    renewed = share * (1.0 - q) * (1.0 + q)
    return alpha_s * x0 + sigma_s * (ops.sqrt(1.0 - renewed) * eps + ops.sqrt(renewed) * noise)


def draw_posterior(x_t: Tensor, x0: Tensor, memory: tuple, moment: Moment, noise: Tensor) -> tuple:
    """`ddpm_step` with the signature of all samplers."""
    return ddpm_step(x_t, x0, *moment.amplitudes, noise), ()


def follow_noise(
    x_t: Tensor,
    x0: Tensor,
    memory: tuple,
    moment: Moment,
    noise: Tensor = None,
    *,
    eta: Tensor = 0.0,
) -> tuple:
    """`ddim_step` with the signature of all samplers."""
    return ddim_step(x_t, x0, *moment.amplitudes, noise, eta=eta), ()


def heun_step(
    x_t: Tensor, x0: Tensor, memory: tuple, moment: Tensor, noise: Tensor = None
) -> tuple:
    """Predict x_s from x0 at t, and correct it with the estimate made at s.

    The estimate is taken to be linear in log(alpha / sigma) between the two and integrated exactly:
    the explicit trapezoidal rule for the exponential form of the sampling equation. EDM's form of
    Heun's method agrees with it to second order, but weights the two estimates by sigma / alpha,
    which falls from 20000 to 16 in the first of 25 uniform steps of a cosine schedule.

    Args:
        x_t: (B, ...): x at t when predicting, the predicted x_s when correcting.
        x0: (B, ...), estimate of the clean data made from `x_t`.
        memory: (x at t, x0 at t), used when correcting.
        moment: see `Moment`; its `evaluation` is 0 for predicting and 1 for correcting.
        noise: not used.

    Returns:
        (x_s, memory).

    Reference: Karras et al., arXiv 2206.00364, algorithm 1; Cox and Matthews, J. Comput. Phys. 176
    (2002), equation 22 (ETD2RK).
    """
    first = ops.equal(moment.evaluation, 0)
    before, x0_before = memory
    start = ops.where(first, x_t, before)
    estimate = ops.where(first, x0, x0_before)
    predicted = _toward(start, estimate, moment)
    slope = ops.where(first, ops.zeros_like(x0), x0 - x0_before)
    weight = _linear_weight(moment.h)
    x_s = predicted + expand(moment.alpha_s, x_t) * expand(weight, x_t) * slope
    return x_s, (start, estimate)


def dpmpp_2m_step(
    x_t: Tensor, x0: Tensor, memory: tuple, moment: Tensor, noise: Tensor = None
) -> tuple:
    """Take a second-order step with the help of the previous step's estimate.

    Args:
        x_t: (B, ...).
        x0: (B, ...), estimate of the clean data at t.
        memory: (x0 of the step before,).
        moment: see `Moment`.
        noise: not used.

    Returns:
        (x_s, memory).

    Reference: Lu et al., arXiv 2211.01095, algorithm 2 (DPM-Solver++ 2M).
    """
    return _toward(x_t, _extrapolate(x0, memory[0], moment), moment), (x0,)


def dpmpp_2m_sde_step(
    x_t: Tensor, x0: Tensor, memory: tuple, moment: Tensor, noise: Tensor
) -> tuple:
    """Take a second-order step of the stochastic diffusion; its first order is `ddpm_step`.

    Args:
        x_t: (B, ...).
        x0: (B, ...), estimate of the clean data at t.
        memory: (x0 of the step before,).
        moment: see `Moment`.
        noise: (B, ...), standard normal.

    Returns:
        (x_s, memory).

    Reference: Lu et al., arXiv 2211.01095, appendix B (SDE-DPM-Solver++ 2M).
    """
    estimate = _extrapolate(x0, memory[0], moment)
    return ddpm_step(x_t, estimate, *moment.amplitudes, noise), (x0,)


def unipc_step(
    x_t: Tensor, x0: Tensor, memory: tuple, moment: Tensor, noise: Tensor = None
) -> tuple:
    """Correct the previous step with the estimate it led to, then take a second-order step.

    It costs one evaluation per step, as the estimate at the predicted x_t serves both.

    Args:
        x_t: (B, ...), as predicted by the previous step.
        x0: (B, ...), estimate of the clean data made from `x_t`.
        memory: (corrected x of the previous step, its x0, the x0 one step earlier).
        moment: see `Moment`.
        noise: not used.

    Returns:
        (x_s, memory).

    Reference: Zhao et al., arXiv 2302.04867, algorithms 1 and 2, B(h) = exp(h) - 1, order 2.
    """
    before, x0_before, x0_earlier = memory
    corrected = ops.where(
        moment.filled >= 1, _unipc_correct(before, x0, x0_before, x0_earlier, moment), x_t
    )
    x_s = _toward(corrected, _extrapolate(x0, x0_before, moment), moment)
    return x_s, (corrected, x0, x0_before)


def _unipc_correct(
    before: Tensor, x0: Tensor, x0_before: Tensor, x0_earlier: Tensor, moment: Tensor
) -> Tensor:
    """x at t from the previous step, now that the estimate `x0` at its end is known."""
    h = ops.maximum(moment.h_before, 1e-12)
    ratio = h / ops.maximum(moment.h_earlier, 1e-12)  # = -1 / r of the paper
    phi = ops.expm1(-h)
    b_1 = (phi / -h - 1.0) / phi
    b_2 = 2.0 * ((phi / -h - 1.0) / -h - 0.5) / phi
    second = moment.filled >= 2
    older = ops.where(second, (b_1 - b_2) / (1.0 + 1.0 / ratio), 0.0)
    newer = ops.where(second, b_1 - older, 0.5)
    estimate = x0_before + expand(newer, x0) * (x0 - x0_before)
    estimate = estimate + expand(older * ratio, x0) * (x0_before - x0_earlier)
    kept, gained = moment.sigma_t / moment.sigma_before, moment.alpha_t * -phi
    return expand(kept, before) * before + expand(gained, before) * estimate


def _toward(x_t: Tensor, estimate: Tensor, moment: Tensor) -> Tensor:
    """x_s if the estimate of the clean data stays constant during the step: DDIM."""
    kept = moment.sigma_s / moment.sigma_t
    gained = moment.alpha_s * (1.0 - moment.q)
    return expand(kept, x_t) * x_t + expand(gained, x_t) * estimate


def _extrapolate(x0: Tensor, x0_before: Tensor, moment: Tensor) -> Tensor:
    """The estimate half a step ahead, on the line through the last two.

    Without a previous step, and in the step to the clean end, which has no half, it is `x0`.
    """
    usable = ops.logical_and(moment.filled >= 1, moment.sigma_s > 0.0)
    half = 0.5 * moment.h / ops.maximum(moment.h_before, 1e-12)
    weight = expand(ops.where(usable, half, ops.zeros_like(half)), x0)
    # An unusable memory is all zeros, and gets weight 0.
    return x0 + weight * (x0 - x0_before)


def _linear_weight(h: Tensor) -> Tensor:
    """(h - 1 + exp(-h)) / h, the weight of a step's end if the estimate is linear in the step."""
    safe = ops.maximum(h, 1e-12)
    return (safe + ops.expm1(-safe)) / safe


def _expand_all(x: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
    return tuple(expand(a, x) for a in coefficients)

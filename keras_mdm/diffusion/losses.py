"""The multi-resolution loss: means per level, their weights and their sum."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion.schedule import Schedule
from keras_mdm.types import Tensor

# A name, a dict of a name and its options, or a function (schedule, t, target) -> weights.
Weighting = str | Mapping[str, Any] | Callable[[Schedule, Tensor, str], Tensor]
# Options of every weighting, with their defaults.
WEIGHTINGS: dict[str, dict[str, float]] = {
    "none": {},
    "vdm": {},
    "min_snr": {"gamma": 5.0},
    "p2": {"k": 1.0, "gamma": 1.0},
    "sigmoid": {"bias": 2.0},
}

_HALF_A_GREY_LEVEL = 1.0 / 255.0


def level_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of every sample.

    Args:
        prediction: (B, ...).
        target: (B, ...).

    Returns:
        (B,), the mean over all other axes, in float32 or, if the prediction is, float64.

    Example:

    >>> [float(loss) for loss in level_loss(ops.ones((2, 4, 4, 3)), ops.zeros((2, 4, 4, 3)))]
    [1.0, 1.0]

    Reference: Gu et al., arXiv 2310.15111, equation 3, divided by N_r.
    """
    # Half precision would lose the sum over a million pixels.
    dtype = "float64" if ops.dtype(prediction) == "float64" else "float32"
    difference = ops.cast(prediction, dtype) - ops.cast(target, dtype)
    return ops.mean(difference * difference, axis=tuple(range(1, len(difference.shape))))


def censored(prediction: Tensor, target: Tensor, x0: Tensor, kind: str) -> Tensor:
    """Let estimates be beyond the ends of the range where the data is at an end.

    Pure white and pure black say "at least this": the static threshold clips what is beyond. So
    where x0 is within half a grey level of 1 (-1), predictions that imply more (less) become the
    target and cost nothing. The network may keep a distance from the end, and its errors no longer
    show as grain on white.

    Args:
        prediction: (B, ...).
        target: (B, ...), likewise.
        x0: (B, ...), the clean data in [-1, 1].
        kind: what prediction and target are: `"eps"`, `"v"` or `"x0"`.

    Returns:
        (B, ...), the prediction or, where it is beyond an end, the target.

    Example:

    >>> found = censored(ops.array([1.5, 0.5]), ops.array([1.0, 1.0]), ops.array([1.0, 1.0]), "x0")
    >>> [float(value) for value in found]
    [1.0, 0.5]

    Reference: Tobin, Estimation of relationships for limited dependent variables, Econometrica 26
    (1958), for regression on data that a limit cuts off.
    """
    # More of eps or v means less of x0.
    outwards = ops.sign(x0) * (1.0 if kind == "x0" else -1.0)
    target = ops.cast(target, ops.dtype(prediction))
    beyond = (prediction - target) * ops.cast(outwards, ops.dtype(prediction)) > 0.0
    at_end = ops.abs(x0) >= 1.0 - _HALF_A_GREY_LEVEL
    return ops.where(ops.logical_and(at_end, beyond), target, prediction)


def vdm_table(schedule: Schedule) -> np.ndarray:
    """Return SNR_(k-1) / SNR_k - 1 for k = 0..N, the weights of the variational bound on the noise.

    Entries 0 and 1, for which the ratio is infinite or undefined, repeat entry 2, as in the
    release. A constant shift of log-SNR cancels in the ratio, so all levels have the same weights.

    Args:
        schedule: the schedule of any level.

    Returns:
        (N + 1,) float64.

    Reference: Kingma et al., arXiv 2107.00630, equation 13.
    """
    alpha_bar = schedule.alpha_bar[1:]
    logsnr = np.log(alpha_bar) - np.log1p(-alpha_bar)
    weights = np.expm1(logsnr[:-1] - logsnr[1:])  # k = 2..N
    return np.concatenate([weights[:1], weights[:1], weights])


def weighting(kind: Weighting, schedule: Schedule, t: Any, *, target: str = "eps") -> Tensor:
    """Return the weight of every sample's loss at its time.

    Published weights belong to the loss on one quantity. Here they are given for the loss on eps
    and converted to those for `target`, so that a `kind` trains the same objective whatever the
    loss compares: with SNR = alpha^2 / sigma^2 the squared errors are related by
    eps : v : x0 = SNR : SNR + 1 : 1.

    | kind | weight on the eps loss | options | from |
    |---|---|---|---|
    | `"min_snr"` | min(SNR, gamma) / SNR | gamma = 5 | Hang et al. 2303.09556, section 3.4 |
    | `"p2"` | 1 / (k + SNR)^gamma | k = 1, gamma = 1 | Choi et al. 2204.00227, equation 8 |
    | `"sigmoid"` | sigmoid(bias - log SNR) | bias = 2 | Kingma and Gao 2303.00848 |

    `"none"` is 1 and `"vdm"` is `vdm_table`, both applied to the loss on `target` itself: the
    former is the paper's, the latter the release's. The sigmoid weighting is meant for times that
    are uniform in log-SNR; here times are uniform in t, and the factor between the two is left out.

    Args:
        kind: a name, a dict of the name as "kind" and its options, or a function (schedule, t,
            target) -> weights `(B,)` of the loss on the target itself.
        schedule: the schedule of the level, whose own SNR determines the weights.
        t: (B,), time in [0, 1].
        target: what the loss compares: `"eps"`, `"v"` or `"x0"`.

    Returns:
        (B,) tensor.

    Raises:
        ValueError: if `kind` or an option is unknown, or a function returns another shape.

    Example:

    >>> from keras_mdm.diffusion import schedules
    >>> [round(float(w), 3) for w in weighting("vdm", schedules.cosine(), ops.array([0.5, 1.0]))]
    [0.006, 999.002]
    """
    position = schedule.position(t)
    if callable(kind):
        return _own_weighting(kind, schedule, t, target, position)
    name, options = check_weighting(kind)
    if name == "none":
        return ops.ones_like(position)
    if name == "vdm":
        table = ops.convert_to_tensor(vdm_table(schedule), dtype=ops.dtype(position))
        index = ops.clip(ops.cast(ops.round(position), "int32"), 0, schedule.num_steps)
        return ops.take(table, index)
    logsnr = schedule.logsnr(t)
    snr = ops.exp(logsnr)
    if name == "min_snr":
        weight = ops.minimum(snr, options["gamma"]) / snr
    elif name == "p2":
        weight = 1.0 / (options["k"] + snr) ** options["gamma"]
    else:
        weight = ops.sigmoid(options["bias"] - logsnr)
    if checks.one_of("target", target, ("eps", "v", "x0")) == "x0":
        return weight * snr
    return weight * ops.sigmoid(logsnr) if target == "v" else weight


def _own_weighting(
    function: Callable, schedule: Schedule, t: Any, target: str, position: Any
) -> Any:
    weights = ops.cast(function(schedule, t, target), ops.dtype(position))
    if len(weights.shape) > len(position.shape):
        raise checks.error(
            "a function for `loss_weighting` must return a weight per sample, (batch,)",
            fix="compute it from t and schedule.logsnr(t), which have that shape",
            shape=tuple(weights.shape),
        )
    return ops.broadcast_to(weights, ops.shape(position))


def check_weighting(kind: Any) -> tuple[str, dict[str, float]]:
    """Return the name and all options of a weighting; a function is named `"own"` and has none.

    Args:
        kind: as in `weighting`.

    Raises:
        ValueError: if `kind` or an option is unknown.
    """
    if callable(kind):
        return "own", {}
    given = dict(kind) if isinstance(kind, Mapping) else {"kind": kind}
    name = checks.one_of("loss_weighting", given.pop("kind", None), tuple(WEIGHTINGS))
    options = WEIGHTINGS[name]
    checks.known_keys(f"the options of {name!r}", given, tuple(options))
    found = {
        key: float(given[key]) if checks.is_real(given.get(key)) else default
        for key, default in options.items()
        if key not in given or checks.is_real(given[key])
    }
    if len(found) != len(options):
        raise checks.error(
            "the options of a loss weighting must be numbers", fix="pass for example 5.0", **given
        )
    return name, found


def multi_resolution(
    losses: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> Tensor:
    """Sum the losses of all levels, sample by sample.

    Weights are 1 unless given. For means over pixels that is the paper's default
    omega_r / omega_R = N_R / N_r, which the paper states for sums over pixels.

    In mixed-resolution batches an outer level holds the first B' of B samples. Its losses are
    scaled by B / B', and the other samples contribute 0, so that the mean over the batch is the sum
    of the levels' means.

    Args:
        losses: level name -> (B',).
        weights: level name -> weight; missing levels have weight 1.

    Returns:
        (B,), B the largest batch.

    Raises:
        ValueError: if there is no level, or a weight names an unknown one.

    Example:

    >>> total = multi_resolution({"64": ops.array([1.0, 2.0]), "256": ops.array([3.0])})
    >>> [float(loss) for loss in total]
    [7.0, 2.0]

    Reference: Gu et al., arXiv 2310.15111, equation 3 and section 3.3 (mixed-resolution training).
    """
    if not losses:
        raise checks.error("At least one level must have a loss", fix="add one", losses={})
    weights = weights or {}
    checks.known_keys("weights", weights, losses)
    static = {loss.shape[0] for loss in losses.values()}
    if len(static) == 1 and None not in static:
        return sum(weights.get(name, 1.0) * loss for name, loss in losses.items())
    rows = {name: ops.shape(loss)[0] for name, loss in losses.items()}
    most = ops.max(ops.stack([ops.convert_to_tensor(row, dtype="int32") for row in rows.values()]))
    total = 0.0
    for name, loss in losses.items():
        scale = (
            weights.get(name, 1.0) * ops.cast(most, loss.dtype) / ops.cast(rows[name], loss.dtype)
        )
        absent = ops.zeros((most - rows[name],), dtype=loss.dtype)
        total = total + ops.concatenate([scale * loss, absent], axis=0)
    return total

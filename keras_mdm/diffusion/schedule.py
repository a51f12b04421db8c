"""The noise schedule: how much signal and noise a sample has at time t.

It is a table of N + 1 signal variances alpha-bar_0 = 1 > alpha-bar_1 > ... > alpha-bar_N, entry k
belonging to t = k / N, plus a constant log-SNR offset for the level's resolution. Log-SNR is linear
between entries. Variance-preserving: alpha^2 + sigma^2 = 1.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import ops

from keras_mdm import checks
from keras_mdm.types import Tensor

# The named schedules; filled in by `schedules`.
FACTORIES: dict[str, Callable[..., "Schedule"]] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule over t in [0, 1]: 0 is clean, 1 is noise.

    Usually made by a factory in `schedules`. Build one directly from a table for a schedule of your
    own.

    Args:
        name: its name, such as "cosine".
        num_steps: N, the number of training steps.
        alpha_bar: (N + 1,) signal variances before the offset; the first is exactly 1, the others
            fall strictly within (0, 1).
        logsnr_offset: constant added to log-SNR everywhere, see `shifted`.
        options: arguments with which the factory of that name makes the table; `None` for a table
            of your own.
        single: keep the table in float32, as the release does, see `rounded`.

    Raises:
        ValueError: if the table does not have this form.

    Example:

    >>> from keras_mdm.diffusion import schedules
    >>> schedule = schedules.cosine()
    >>> alpha, sigma = schedule.alpha_sigma(0.5)
    >>> round(float(alpha) ** 2, 4)
    0.4938
    >>> schedule.shifted(4).logsnr_offset == -2 * math.log(4)
    True
    """

    name: str
    num_steps: int
    alpha_bar: np.ndarray = dataclasses.field(repr=False)
    logsnr_offset: float = 0.0
    options: tuple[tuple[str, float], ...] | None = None
    single: bool = False

    def __post_init__(self) -> None:
        checks.integer("num_steps", self.num_steps, minimum=2)
        table = np.array(self.alpha_bar, dtype="float32" if self.single else "float64")
        table = table.astype("float64")
        inside = table.shape == (self.num_steps + 1,) and table[0] == 1.0 and table[-1] > 0.0
        if not inside or not np.all(np.diff(table) < 0.0):
            raise checks.error(
                "`alpha_bar` must hold num_steps + 1 values that start at 1 and fall strictly, "
                "staying above 0",
                fix="clip the end of the table away from 0, and soften a schedule whose first "
                "steps add no noise",
                num_steps=self.num_steps,
                alpha_bar=table,
            )
        table.setflags(write=False)
        object.__setattr__(self, "alpha_bar", table)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return self._identity == other._identity and np.array_equal(self.alpha_bar, other.alpha_bar)

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.name, self.num_steps, self.logsnr_offset, self.options, self.single

    @functools.cached_property
    def _logsnr(self) -> np.ndarray:
        """(N,) float64 log-SNR at k = 1..N, offset included. NumPy, because a cached tensor would
        belong to the first graph that used it."""
        alpha_bar = self.alpha_bar[1:]
        return np.log(alpha_bar) - np.log1p(-alpha_bar) + self.logsnr_offset

    def table(self) -> np.ndarray:
        """Return alpha-bar_0..N in float64, the offset included; entry 0 is exactly 1."""
        if self.logsnr_offset == 0.0:
            return self.alpha_bar.copy()
        return np.concatenate([[1.0], 1.0 / (1.0 + np.exp(-self._logsnr))])

    def position(self, t: Tensor) -> Tensor:
        """Return N * t, the (fractional) table index of a time.

        A value within rounding of a whole number counts as that number: in float32,
        1000 * (k / 1000) misses some k, and the table's last step is so steep that this would show.

        Args:
            t: scalar or (B,), time in [0, 1].

        Returns:
            Tensor of the shape of `t`, float64 if `t` is float64 and float32 otherwise.
        """
        t = ops.convert_to_tensor(t)
        t = ops.cast(t, "float64" if ops.dtype(t) == "float64" else "float32")
        position = t * self.num_steps
        nearest = ops.round(position)
        rounding = 2.0 * float(np.finfo(ops.dtype(t)).eps) * nearest
        return ops.where(ops.abs(position - nearest) <= rounding, nearest, position)

    def time(self, t: Tensor) -> Tensor:
        """Return N * t - 1, the network's time input: the release's raw timestep 0..N-1.

        Args:
            t: scalar or (B,), time in (0, 1].

        Returns:
            Tensor of the shape of `t`.
        """
        return self.position(t) - 1.0

    def logsnr(self, t: Tensor, dtype: str | None = None) -> Tensor:
        """Return log(alpha^2 / sigma^2), linear between table entries.

        Args:
            t: scalar or (B,), time in [0, 1]. Times before the first step count as the first step,
                as the ratio is infinite at t = 0.
            dtype: dtype of the result; that of `position` by default.

        Returns:
            Tensor of the shape of `t`.
        """
        position = self.position(t)
        dtype = dtype or ops.dtype(position)
        position = ops.clip(position, 1.0, float(self.num_steps))
        lower = ops.minimum(ops.floor(position), self.num_steps - 1.0)
        fraction = ops.cast(position - lower, dtype)
        index = ops.cast(lower, "int32") - 1  # the table starts at k = 1
        table = ops.convert_to_tensor(self._logsnr, dtype=dtype)
        # In this form both ends of an interval give the entries themselves, bit for bit.
        return (1.0 - fraction) * ops.take(table, index) + fraction * ops.take(table, index + 1)

    def alpha_sigma(self, t: Tensor, dtype: str | None = None) -> tuple[Tensor, Tensor]:
        """Return the amplitudes of signal and noise.

        Both are computed from log-SNR, so neither loses digits where it is small. At t = 0 they are
        exactly 1 and 0, so the sampler's last step returns its estimate unchanged.

        Args:
            t: scalar or (B,), time in [0, 1].
            dtype: dtype of the results; that of `position` by default.

        Returns:
            (alpha, sigma), tensors of the shape of `t`.

        Reference: Gu et al., arXiv 2310.15111, section 2 (alpha_t, sigma_t) and equation 2.
        """
        logsnr = self.logsnr(t, dtype)
        clean = ops.convert_to_tensor(t) <= 0
        alpha = 1.0 / ops.sqrt(1.0 + ops.exp(-logsnr))
        sigma = 1.0 / ops.sqrt(1.0 + ops.exp(logsnr))
        return (
            ops.where(clean, ops.ones_like(alpha), alpha),
            ops.where(clean, ops.zeros_like(sigma), sigma),
        )

    def inverse(self, logsnr: Tensor) -> Tensor:
        """Return the t at which the schedule has this log-SNR.

        Args:
            logsnr: scalar or (B,).

        Returns:
            Tensor of the shape of `logsnr`, clamped to [1 / N, 1].
        """
        logsnr = ops.convert_to_tensor(logsnr)
        dtype = "float64" if ops.dtype(logsnr) == "float64" else "float32"
        logsnr = ops.cast(logsnr, dtype)
        table = ops.convert_to_tensor(self._logsnr, dtype=dtype)
        flat = ops.reshape(logsnr, (-1,))
        index = ops.searchsorted(-table, -flat, side="right") - 1
        index = ops.clip(index, 0, self.num_steps - 2)
        upper, lower = ops.take(table, index), ops.take(table, index + 1)
        fraction = ops.clip((upper - flat) / (upper - lower), 0.0, 1.0)
        t = (ops.cast(index + 1, dtype) + fraction) / self.num_steps
        return ops.reshape(t, ops.shape(logsnr))

    def shifted(self, scale: float, power: float = 2.0) -> "Schedule":
        """Return the schedule with its SNR divided by scale ** power everywhere.

        Averaging blocks of scale x scale pixels divides the noise variance by scale^2: with power
        2, an image level pooled to the size of the level below has that level's SNR. Shifts
        compose: `s.shifted(2).shifted(2)` is `s.shifted(4)`.

        Args:
            scale: size relative to the level that is not shifted, see `level_shift`.
            power: 2 gives the rule above; the release's 256 model uses 1.

        Returns:
            A new schedule.

        Raises:
            ValueError: if `scale` is not positive.

        Reference: Gu et al., arXiv 2310.15111, section 3.1 and appendix C; Gu et al., arXiv
        2210.04955 (f-DM).
        """
        if not checks.is_real(scale) or scale <= 0:
            raise checks.error(
                "`scale` must be a positive number", fix="use level_shift", scale=scale
            )
        power = checks.real("power", power, minimum=0.0)
        return dataclasses.replace(self, logsnr_offset=self.logsnr_offset - power * math.log(scale))

    def is_shift_of(self, other: "Schedule") -> bool:
        """Whether the two differ at most by a constant log-SNR, so that log(alpha / sigma) grows
        alike."""
        return np.array_equal(self.alpha_bar, other.alpha_bar)

    def rounded(self) -> "Schedule":
        """Return the schedule with its table rounded to float32, before the offset.

        The release keeps its table in float32, which changes the first step's noise by a relative
        3e-4, as 1 - alpha-bar_1 is only 4e-5. Imported models need the same table to give the same
        numbers.
        """
        return dataclasses.replace(self, single=True)

    def get_config(self) -> dict[str, Any]:
        """Return the input of `from_config`, in types that JSON keeps exactly."""
        config = {
            "name": self.name,
            "num_steps": int(self.num_steps),
            "logsnr_offset": float(self.logsnr_offset),
            "single": bool(self.single),
        }
        if self.options is None:
            return config | {"alpha_bar": self.alpha_bar.tolist()}
        return config | {"options": dict(self.options)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Schedule":
        """Rebuild a schedule from `get_config`."""
        if "alpha_bar" in config:
            return cls(**config)
        base = FACTORIES[config["name"]](config["num_steps"], **config["options"])
        rest = {name: config[name] for name in ("logsnr_offset", "single") if name in config}
        return dataclasses.replace(base, **rest)

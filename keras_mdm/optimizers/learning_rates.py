"""Learning-rate schedules: linear warm-up, alone or followed by a cosine."""

import math
from typing import Any

import keras
from keras import ops

from keras_mdm import checks

_LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule


def warmup_factor(step: Any, warmup_steps: int) -> Any:
    """max(1, k) / warmup while k < warmup, else 1, for a float32 tensor or number k.

    The first two steps are equal, as the official code counts this way.

    Example:

    >>> [float(warmup_factor(k, 4)) for k in range(6)]
    [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return ops.clip(ops.cast(step, "float32") / max(warmup_steps, 1), 1.0 / max(warmup_steps, 1), 1)


@keras.saving.register_keras_serializable("keras_mdm")
class Warmup(_LearningRateSchedule):
    """Linear warm-up to `peak`, then constant: the schedule of the official code.

    The optimizers of this package get a rate for each variable (`per_variable`): a variable that
    joins later warms up by its own count of updates while the others keep their rate. With `start`
    at the beginning of a phase, all variables warm up again.

    Args:
        peak: the rate after the warm-up.
        warmup_steps: its length; 0 for none.
        start: the step from which steps are counted.

    Call arguments:
        step: the number of steps taken before this one, a scalar or an array of any shape.

    Example:

    >>> schedule = Warmup(1e-4, warmup_steps=100)
    >>> [round(float(schedule(k)), 6) for k in (0, 1, 50, 100)]
    [1e-06, 1e-06, 5e-05, 0.0001]
    """

    def __init__(self, peak: float, warmup_steps: int, *, start: int = 0):
        self.peak = checks.real("peak", peak, minimum=0.0)
        self.warmup_steps = checks.integer("warmup_steps", warmup_steps, minimum=0)
        self.start = checks.integer("start", start, minimum=0)

    def decay(self, step: Any) -> Any:
        """Factor that depends on the common step, counted from `start`."""
        return ops.ones_like(ops.cast(step, "float32"))

    def __call__(self, step: Any) -> Any:
        k = self._since_start(step)
        return self.peak * warmup_factor(k, self.warmup_steps) * self.decay(k)

    def per_variable(self, step: Any, updates: Any) -> Any:
        """Return the rates at `step` of variables that have been updated `updates` times.

        Args:
            step: the number of steps taken before this one.
            updates: (n,) how often each variable has been updated.

        Returns:
            (n,) float32 learning rates.
        """
        k = self._since_start(step)
        own = ops.minimum(ops.cast(updates, "float32"), k)
        return self.peak * warmup_factor(own, self.warmup_steps) * self.decay(k)

    def _since_start(self, step: Any) -> Any:
        # Subtracted as integers: float32 would lose single steps beyond 2**24.
        return ops.cast(ops.cast(step, "int64") - self.start, "float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "start": self.start}


@keras.saving.register_keras_serializable("keras_mdm")
class WarmupCosine(Warmup):
    """Linear warm-up to `peak`, then half a cosine down to `final_fraction * peak`, then constant.

    Args:
        peak: the rate at the end of the warm-up.
        warmup_steps: its length; 0 for none.
        total_steps: where the cosine ends, counted from `start`.
        final_fraction: final rate as a fraction of the peak.
        start: the step from which steps are counted.

    Example:

    >>> schedule = WarmupCosine(1.0, warmup_steps=10, total_steps=110, final_fraction=0.1)
    >>> [round(float(schedule(k)), 3) for k in (10, 60, 110, 500)]
    [1.0, 0.55, 0.1, 0.1]

    Reference: Loshchilov and Hutter, SGDR, arXiv 1608.03983.
    """

    def __init__(
        self,
        peak: float,
        warmup_steps: int,
        total_steps: int,
        final_fraction: float = 0.0,
        *,
        start: int = 0,
    ):
        super().__init__(peak, warmup_steps, start=start)
        self.total_steps = checks.integer(
            "total_steps",
            total_steps,
            minimum=self.warmup_steps + 1,
            fix="make total_steps larger than warmup_steps",
        )
        self.final_fraction = checks.real(
            "final_fraction", final_fraction, minimum=0.0, maximum=1.0
        )

    def decay(self, step: Any) -> Any:
        """Factor that depends on the common step, counted from `start`."""
        length = self.total_steps - self.warmup_steps
        progress = ops.clip((ops.cast(step, "float32") - self.warmup_steps) / length, 0.0, 1.0)
        cosine = 0.5 + 0.5 * ops.cos(math.pi * progress)
        return self.final_fraction + (1.0 - self.final_fraction) * cosine

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"total_steps": self.total_steps, "final_fraction": self.final_fraction}
        return {**super().get_config(), **own}

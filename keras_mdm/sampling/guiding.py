"""The guidance of `generate`: scales by level, the times at which it applies, a weaker network."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.conditioning import nulls
from keras_mdm.conditioning.conditions import condition_names
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.sampling.options import Options

GUIDANCE_SCALE = 4.0


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Checked options: how strongly, when and by what sampling is guided.

    Args:
        scale: w; 1 for no guidance.
        shares: share of the guidance that a level gets, by level name; 1 unless given.
        interval: (lowest, highest) time at which guidance applies.
        rescale: how much of the conditional output's deviation the guided one gets.
        autoguidance: (model, weights) to guide away from, or `None` for the dropped condition.
        split: compute the halves one after the other.
        reconstruction: weight of reconstruction guidance; 0 for none.
    """

    scale: float
    shares: Mapping[str, float]
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    autoguidance: tuple[Any, str] | None = None
    split: bool = False
    reconstruction: float = 0.0

    def steps(self, times: np.ndarray) -> tuple[int, int]:
        """First guided step, and the one after the last; steps are guided if they begin in the
        interval.

        Args:
            times: (K + 1,), descending.
        """
        if self.scale == 1.0:
            return 0, 0
        lowest, highest = self.interval
        # The grid is float32; a bound written like one of its times includes that time.
        inside = np.flatnonzero((times[:-1] >= lowest - 1e-6) & (times[:-1] <= highest + 1e-6))
        return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def own_scale(model: Any) -> float | Mapping[str, float]:
    """The guidance that a model draws with unless it is told otherwise: one, or one by level.

    Args:
        model: a `MatryoshkaDiffusion`.
    """
    conditional = any(name != LOW_RES for name in condition_names(model.unet.spec))
    plain = GUIDANCE_SCALE if conditional and nulls.trained_null(model) else 1.0
    return model.sampling.get("guidance_scale", plain)


def resolve(model: Any, options: Options) -> Guidance:
    """Check the guidance options of `generate`."""
    scale, weaker = options.guidance_scale, None
    if options.autoguidance is not None:
        weaker = _weaker(model, options.autoguidance)
    conditional = any(name != LOW_RES for name in condition_names(model.unet.spec))
    if scale is None:
        # Without training samples that lost their conditions there is nothing to guide away from.
        negative = options.negative_prompts is not None
        trained = conditional and (negative or nulls.trained_null(model))
        scale = GUIDANCE_SCALE if trained else 1.0
        scale = 2.0 if weaker else scale
    shares = model.guidance_shares
    if isinstance(scale, Mapping):
        scale, shares = spread(scale, model.unet.levels)
    scale = checks.real("guidance_scale", scale, minimum=0.0)
    if not conditional and not weaker and scale != 1.0:
        raise checks.error(
            "guidance needs a conditional network, or a weaker one to guide away from",
            fix="leave guidance_scale out, or pass autoguidance",
            guidance_scale=scale,
        )
    interval, rescale = options.guidance_interval, options.guidance_rescale
    anything_known = options.mask is not None or options.hold is not None
    return Guidance(
        scale=scale,
        shares=shares,
        interval=(0.0, 1.0) if interval is None else check_interval(interval),
        rescale=checks.real("guidance_rescale", rescale, minimum=0.0, maximum=1.0),
        autoguidance=weaker,
        split=bool(options.split_guidance),
        reconstruction=_reconstruction(options.reconstruction, anything_known),
    )


def spread(scales: Mapping[str, float], levels: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Turn scales by level into one scale and every level's share."""
    checks.known_keys("guidance_scale", scales, levels)
    scales = {
        level: checks.real(f"guidance_scale[{level!r}]", scales.get(level, 1.0), minimum=0.0)
        for level in levels
    }
    most = max(scales.values(), key=lambda scale: abs(scale - 1.0))
    if most == 1.0:
        return 1.0, {}
    return most, {level: (scale - 1.0) / (most - 1.0) for level, scale in scales.items()}


def _reconstruction(weight: float, anything_known: bool) -> float:
    weight = checks.real("reconstruction", weight, minimum=0.0)
    if weight and not anything_known:
        raise checks.error(
            "reconstruction guidance needs known pixels",
            fix="pass mask with init_image, or hold; or leave `reconstruction` out",
            reconstruction=weight,
        )
    return weight


def check_interval(interval: Sequence[float]) -> tuple[float, float]:
    """Return (lowest, highest) time, or raise unless they are two times in order."""
    pair = isinstance(interval, Sequence) and len(interval) == 2
    if not pair or not all(map(checks.is_real, interval)) or interval[0] > interval[1]:
        raise checks.error(
            "`guidance_interval` must be (lowest, highest) time",
            fix="pass for example (0.2, 0.8), where 0 is clean and 1 is noise",
            guidance_interval=interval,
        )
    low, high = (checks.real("guidance_interval", t, minimum=0.0, maximum=1.0) for t in interval)
    return low, high


def _weaker(model: Any, autoguidance: Any) -> tuple[Any, str]:
    """(model, weights) of a weaker network whose outputs can be compared with the model's."""
    if isinstance(autoguidance, str):
        return model, model.averages.check(autoguidance)
    name = "ema"
    if isinstance(autoguidance, tuple) and len(autoguidance) == 2:
        autoguidance, name = autoguidance
    unet, process = getattr(autoguidance, "unet", None), getattr(autoguidance, "process", None)
    if unet is None or process is None:
        raise checks.error(
            "`autoguidance` must be the name of weaker weights, or a weaker model",
            fix='pass for example "ema_0.05", a model loaded from an earlier checkpoint, or a pair '
            "of a model and the name of its weights",
            autoguidance=type(autoguidance).__name__,
        )
    mine, other = model.comparable(), autoguidance.comparable()
    different = [name for name in mine if mine[name] != other[name]]
    if different:
        raise checks.error(
            "the weaker model must predict the same quantities from the same inputs",
            fix="use an earlier checkpoint of the same training, or a smaller network trained "
            "with the same process and conditions",
            **{name: (mine[name], other[name]) for name in different},
        )
    return autoguidance, autoguidance.averages.check(name)

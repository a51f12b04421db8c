"""Trainings to compare: which models, and in which phases."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras_mdm as mdm
from shared.experiments.planning import Stage, Training, levels_of
from shared.scale import Scale, with_paper_levels

# The micro-condition that tells an upsampler how noisy the picture is that it enlarges.
NOISY = {"low_res_noise": 0.0}


def shortened(base: Scale, factor: float) -> Scale:
    """A scale with other numbers of steps. Warm-ups are shorter in proportion, and so is the time
    over which weights are averaged, or the average would lag behind a short training."""
    less = min(1.0, factor)
    phases = [
        dataclasses.replace(
            phase,
            steps=max(1, round(phase.steps * factor)),
            warmup_steps=round(phase.warmup_steps * less),
        )
        for phase in base.phases
    ]
    decay = max(0.5, 1.0 - (1.0 - base.process["ema_decay"]) / less)
    process = {**base.process, "ema_decay": round(decay, 6)}
    return dataclasses.replace(base, phases=phases, process=process, checkpoint_every=100)


def plain(levels: Sequence[mdm.LevelSpec], **options: Any) -> mdm.LevelSpec:
    """One level of the highest size with the blocks of a whole nest: the simple DM's UNet.

    Where an outer level reaches the resolution of the level inside, it has blocks that only join
    the two; a plain UNet goes on with those of the level inside.

    Args:
        levels: of the nest.
        **options: of the level, besides what follows from the nest.
    """
    inner, *outer = levels = mdm.models.resolve.resolve(levels).levels
    per_resolution = {}
    for name in ("channels", "blocks", "attention"):
        own = getattr(inner, name)
        for level in outer:
            own = (*getattr(level, name)[:-1], *own)
        per_resolution[name] = own
    return mdm.LevelSpec(
        levels[-1].size,
        patch=levels[-1].patch,
        heads=inner.heads,
        attention_ffn=inner.attention_ffn,
        groups=min(level.groups for level in levels),
        **per_resolution,
        **options,
    )


def progressive(base: Scale, name: str = "mdm") -> Training:
    """The nest, grown phase after phase (section 3.3)."""
    return Training(name, [Stage(base)])


def at_once(base: Scale, name: str = "mdm-at-once", **changes: Any) -> Training:
    """The nest with all levels from the first step, at the rate of networks that begin."""
    return Training(name, [Stage(dataclasses.replace(base, phases=[_whole(base, **changes)]))])


def highest_only(base: Scale) -> Training:
    """The nest with the highest level's loss alone (section 4.1, the second simple DM), and the
    paper's output: the level below has no loss, so nothing can be relative to it."""
    base = with_paper_levels(base)
    return at_once(base, "nested-highest-only", level_weights="highest", mixed=False)


def simple(base: Scale) -> Training:
    """A plain UNet at the highest size (section 4.1)."""
    level = plain(base.phases[-1].levels)
    scale = _alone(base, _whole(base, levels=[level], mixed=False))
    return Training("simple", [Stage(scale, network=_time_width(base))])


def cascaded(base: Scale) -> Training:
    """The nest's first phase as a model of its own, and an upsampler of the nest's configuration
    with noise augmentation (section 4.1, appendix D.1)."""
    low = dataclasses.replace(base, phases=base.phases[:1], process=without_nest(base.process))
    level = plain(base.phases[-1].levels, micro_conditions=NOISY)
    high = _alone(base, _whole(base, levels=[level], mixed=False))
    size = int(base.phases[0].level_names[-1])
    return Training(
        "cascaded",
        [Stage(low), Stage(high, sees=size, network={"in_channels": 6, **_time_width(base)})],
        sweep={f"low_res_noise {k}": {"low_res_noise": k} for k in (1, 100, 500, 700, 1000)},
        sweep_early=("low_res_noise 100", "low_res_noise 500"),
    )


def latent(base: Scale, factor: int = 4) -> Training:
    """The nest's innermost network on codes of its size (section 4.1, appendix D.2). Codes have no
    range, so nothing is clipped, and no white to censor."""
    first, last = base.phases[0], base.phases[-1]
    first = dataclasses.replace(first, final_learning_rate=last.final_learning_rate)
    codes = int(last.level_names[-1]) // factor
    if first.level_names != (str(codes),):
        raise ValueError(
            "the innermost level must have the size of the codes. Received: levels "
            f"{', '.join(first.level_names)}, codes of {codes}. To fix it: pass another factor"
        )
    process = {**without_nest(base.process), "threshold": "none"}
    process.pop("censored", None)
    scale = dataclasses.replace(base, phases=[first], process=process, guided_levels=1)
    channels = mdm.latents.autoencoder.CHANNELS[factor]
    network = {"in_channels": channels, "out_channels": channels}
    return Training(
        f"latent-f{factor}",
        [Stage(scale, network=network, factor=factor)],
        sweep={"": {"threshold": "none"}},
    )


def changed(base: Scale, name: str, **process: Any) -> Training:
    """The progressive training with other options of `MatryoshkaDiffusion`."""
    return progressive(dataclasses.replace(base, process={**base.process, **process}), name)


def with_phases(base: Scale, name: str, change: Callable[[mdm.Phase], mdm.Phase]) -> Training:
    """The progressive training with other phases."""
    return progressive(dataclasses.replace(base, phases=[change(p) for p in base.phases]), name)


def with_low_steps(base: Scale, name: str, factor: float) -> Training:
    """The progressive training with a longer or shorter first phase; without one at factor 0."""
    if not factor:
        return at_once(base)
    first, *others = base.phases
    first = dataclasses.replace(first, steps=max(1, round(first.steps * factor)))
    return progressive(dataclasses.replace(base, phases=[first, *others]), name)


def between(levels: Sequence[mdm.LevelSpec]) -> list[mdm.LevelSpec]:
    """Two levels with a third of twice the lower size between them: the blocks of the outer level
    are divided at its resolution, as in the paper's networks of three levels."""
    inner, outer = levels
    *_, resolved = mdm.models.resolve.resolve(levels).levels
    size = 2 * inner.shape.height
    top = size // outer.patch
    above = [place for place, side in enumerate(resolved.resolutions) if side >= top]
    below = [place for place, side in enumerate(resolved.resolutions) if side <= top]

    def part(places: Sequence[int], **changes: Any) -> mdm.LevelSpec:
        lists = {
            name: [getattr(resolved, name)[place] for place in places]
            for name in ("channels", "blocks", "attention", "temporal_attention")
        }
        lists["blocks"][-1] = 1  # joins the two levels
        return dataclasses.replace(outer, **lists, **changes)

    return [inner, part(below, size=size), part(above)]


def three_levels(base: Scale, name: str = "levels-3", **process: Any) -> Training:
    """The progressive training with one more level, added together with the highest."""
    first, last = base.phases
    last = dataclasses.replace(last, levels=between(last.levels))
    scale = dataclasses.replace(base, phases=[first, last], process={**base.process, **process})
    return progressive(dataclasses.replace(scale, guided_levels=3), name)


def paper_output(level: mdm.LevelSpec) -> mdm.LevelSpec:
    """An outer level without a deviation, for which the paper's output has no place."""
    return dataclasses.replace(level, learned_deviation=False)


def with_levels(
    base: Scale, name: str, change: Callable[[mdm.LevelSpec], mdm.LevelSpec], **process: Any
) -> Training:
    """The progressive training with other outer levels."""

    def phase(given: mdm.Phase) -> mdm.Phase:
        inner, *outer = given.levels
        return dataclasses.replace(given, levels=[inner, *map(change, outer)])

    scale = dataclasses.replace(base, process={**base.process, **process})
    return with_phases(scale, name, phase)


def _time_width(base: Scale) -> dict[str, int]:
    """The nest's width of the time embedding, which follows its innermost channels."""
    return {"time_width": 4 * levels_of(base.phases[0])[0].channels[0]}


def _whole(base: Scale, **changes: Any) -> mdm.Phase:
    """The last phase as the only one: with the rate and the warm-up of the first."""
    first, last = base.phases[0], base.phases[-1]
    given = {"learning_rate": first.learning_rate, "warmup_steps": first.warmup_steps}
    return dataclasses.replace(last, inner_learning_rate=1.0, **{**given, **changes})


def without_nest(process: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `MatryoshkaDiffusion` without those that need a level below."""
    return {key: value for key, value in process.items() if key not in ("residual", "shift_power")}


def _alone(base: Scale, phase: mdm.Phase) -> Scale:
    """The scale of one level, with the noise schedule that the level has in the nest."""
    inner, outer = levels_of(base.phases[-1])[0], levels_of(phase)[-1]
    # SNR is divided by (ratio ^ power), and "-shift4" divides it by 4^2.
    power = base.process.get("shift_power", 2.0)
    shift = (outer.shape.height / inner.shape.height) ** (power / 2.0)
    schedule = f"{base.process.get('schedule', 'cosine')}-shift{shift:g}"
    process = {**without_nest(base.process), "schedule": schedule}
    return dataclasses.replace(base, phases=[phase], process=process, guided_levels=1)

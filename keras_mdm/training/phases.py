"""One phase of progressive training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.models.specs import parse_level
from keras_mdm.training.learning_rates import Warmup, WarmupCosine


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with a fixed set of levels.

    Args:
        levels: the levels trained, ascending, as in `build_nested_unet`. A phase may add several.
        steps: optimizer steps of the phase; or give `images`.
        images: images seen in the phase, instead of `steps`.
        batch_size: size of the global batch, over all replicas.
        learning_rate: rate after the warm-up.
        warmup_steps: steps of linear warm-up, for the variables that are new in this phase.
        final_learning_rate: `None` for a constant rate; else it falls along half a cosine to this
            share of `learning_rate` at the end of the phase.
        inner_learning_rate: factor on the rate of levels that earlier phases have trained.
        freeze: names of levels that are not trained in this phase.
        level_weights: weight of a level's loss by its name.
        mixed: shares of the highest level in mixed-resolution batches; not available yet.
        downsample: how lower levels are made of the data, `"area"` or `"bilinear"`.
        first_step: optimizer steps made in earlier phases; filled in by `fit_progressively`.

    Raises:
        ValueError: if a number is out of range, or a name is not among the levels.

    Example:

    >>> Phase([64, 256], steps=500_000, batch_size=1024).level_names
    ('64', '256')

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.3 and appendix B.
    """

    levels: Sequence[Any]
    steps: int | None = None
    images: int | None = None
    batch_size: int = dataclasses.field(default=1, kw_only=True)
    learning_rate: float = dataclasses.field(default=1e-4, kw_only=True)
    warmup_steps: int = dataclasses.field(default=0, kw_only=True)
    final_learning_rate: float | None = dataclasses.field(default=None, kw_only=True)
    inner_learning_rate: float = dataclasses.field(default=1.0, kw_only=True)
    freeze: Sequence[str] = dataclasses.field(default=(), kw_only=True)
    level_weights: Mapping[str, float] | None = dataclasses.field(default=None, kw_only=True)
    mixed: Mapping[str, float] | None = dataclasses.field(default=None, kw_only=True)
    downsample: str = dataclasses.field(default="area", kw_only=True)
    first_step: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self):
        batch_size = checks.integer("batch_size", self.batch_size, minimum=1)
        if (self.steps is None) == (self.images is None):
            raise checks.error(
                "a phase must have either `steps` or `images`",
                fix="pass one of the two",
                steps=self.steps,
                images=self.images,
            )
        if self.steps is None:
            images = checks.integer("images", self.images, minimum=1)
            object.__setattr__(self, "steps", -(-images // batch_size))
            object.__setattr__(self, "images", None)
        checks.integer("steps", self.steps, minimum=1)
        checks.real("learning_rate", self.learning_rate, minimum=0.0)
        checks.integer("warmup_steps", self.warmup_steps, minimum=0)
        checks.real("inner_learning_rate", self.inner_learning_rate, minimum=0.0)
        if self.final_learning_rate is not None:
            checks.real("final_learning_rate", self.final_learning_rate, minimum=0.0, maximum=1.0)
        checks.one_of("downsample", self.downsample, ("area", "bilinear"))
        if self.mixed is not None:
            raise checks.error(
                "mixed-resolution batches are not available yet",
                fix="leave `mixed` out: every sample is trained at every level",
                mixed=self.mixed,
            )
        if not isinstance(self.levels, Sequence) or isinstance(self.levels, str):
            raise checks.error(
                "`levels` must be a sequence", fix="write for example [64]", levels=self.levels
            )
        names = self.level_names
        checks.known_keys("freeze", self.freeze, names)
        if set(self.freeze) == set(names):
            raise checks.error(
                "at least one level of a phase must be trained",
                fix="leave one out of `freeze`",
                levels=names,
                freeze=tuple(self.freeze),
            )
        checks.known_keys("level_weights", self.level_weights or (), names)
        for level, weight in (self.level_weights or {}).items():
            checks.real(f"level_weights[{level!r}]", weight, minimum=0.0)

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels, ascending."""
        return tuple(parse_level(level).name for level in self.levels)

    def learning_rate_schedule(self) -> Warmup:
        """The phase's learning rate, for the optimizer that `make_model` compiles with."""
        if self.final_learning_rate is None:
            return Warmup(self.learning_rate, self.warmup_steps, start=self.first_step)
        return WarmupCosine(
            self.learning_rate,
            self.warmup_steps,
            max(self.steps, self.warmup_steps + 1),
            self.final_learning_rate,
            start=self.first_step,
        )

    def table_row(self) -> dict[str, Any]:
        """What identifies the phase in `run.json`."""
        row = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("images", "mixed", "levels"):
            row.pop(name)
        return {"levels": self.level_names, **row}


def number_phases(phases: Sequence[Phase]) -> list[Phase]:
    """Fill in how many steps come before every phase, and check that levels only join.

    Raises:
        ValueError: if there is no phase, or a phase drops a level of the one before.
    """
    if not phases or not all(isinstance(phase, Phase) for phase in phases):
        raise checks.error(
            "`phases` must be a non-empty list of Phase", fix="pass [Phase(...)]", phases=phases
        )
    numbered, first_step = [], 0
    for phase in phases:
        before = numbered[-1].level_names if numbered else ()
        if phase.level_names[: len(before)] != before:
            raise checks.error(
                "a phase must keep the levels of the phase before and may add outer ones",
                fix="order the phases from low to high resolution",
                before=before,
                levels=phase.level_names,
            )
        numbered.append(dataclasses.replace(phase, first_step=first_step))
        first_step += phase.steps
    return numbered

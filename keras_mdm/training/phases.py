"""One phase of progressive training."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion.pyramid import DOWNSAMPLING
from keras_mdm.models.specs import parse_level
from keras_mdm.optimizers.learning_rates import Warmup, WarmupCosine
from keras_mdm.training.mixing import (
    check_counts,
    check_shares,
    default_shares,
    group_sizes,
)
from keras_mdm.training.objective import check_level_weights


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with a fixed set of levels.

    Args:
        levels: the levels trained, ascending, as in `build_nested_unet`. A phase may add several.
        steps: optimizer steps of the phase; alternatively give `images`.
        images: images seen in the phase, instead of `steps`.
        batch_size: size of the global batch, over all replicas.
        learning_rate: rate after the warm-up.
        warmup_steps: steps of linear warm-up, for the variables that are new in this phase.
        final_learning_rate: `None` for a constant rate; else it falls along half a cosine to this
            share of `learning_rate` at the end of the phase.
        inner_learning_rate: factor on the rate of levels that were trained before, by earlier
            phases or in the model that the run starts from.
        freeze: names of levels that are not trained in this phase.
        level_weights: weights of the losses by level name, `"highest"` for the loss of the highest
            level alone, or a function from the progress in the phase (a scalar tensor in [0, 1]) to
            weights by name, such as `WeightRamp`.
        mixed: mixed-resolution batches: for every level, by name, the share of samples for which it
            is the highest. `True` is the release's 2:1 for the highest level, and so on below it;
            `False` trains every sample at every level. Shares are targets, see `groups`; whole
            numbers of samples that sum to the batch are taken as they are. Groups that would train
            nothing are left out: `True` with `level_weights="highest"` does not mix.
        downsample: how lower levels are made from the data, `"area"` or `"bilinear"`; the model's
            way unless given.
        first_step: optimizer steps made in earlier phases; filled in by `fit_progressively`.

    Raises:
        ValueError: if a number is out of range, or a name is not a level.

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
    level_weights: Mapping[str, float] | str | Callable[[Any], Mapping] | None = dataclasses.field(
        default=None, kw_only=True
    )
    mixed: Mapping[str, float] | bool = dataclasses.field(default=True, kw_only=True)
    downsample: str | None = dataclasses.field(default=None, kw_only=True)
    first_step: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self) -> None:
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
        checks.one_of("downsample", self.downsample, (None, *DOWNSAMPLING))
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
        check_level_weights(self.level_weights, names)
        if not isinstance(self.mixed, bool | Mapping):
            raise checks.error(
                "`mixed` must be True, False, or shares by level name",
                fix="write for example {'64': 1 / 3, '256': 2 / 3}",
                mixed=self.mixed,
            )
        if self._counts:
            check_counts(self._counts, names, batch_size)
        self.check_trained(self.level_weights)
        group_sizes(self.shares, batch_size)

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels, ascending."""
        return tuple(parse_level(level).name for level in self.levels)

    @property
    def shares(self) -> dict[str, float]:
        """Target shares of the samples by their highest level, ascending; see `groups`."""
        names = self.level_names
        if self.mixed is False:
            return {names[-1]: 1.0}
        if self.mixed is True:
            return default_shares(names[_untrained(self.level_weights, names) :])
        if counts := self._counts:
            return {level: counts[level] / self.batch_size for level in names if counts.get(level)}
        return check_shares(self.mixed, names)

    @property
    def groups(self) -> dict[str, int]:
        """Samples of a global batch by their highest level, ascending: the groups that
        `make_dataset` yields, see `keras_mdm.data.mixed_dataset`. One entry without mixing.

        The shares are rounded to multiples of one number that follows from the batch, so that they
        divide over replicas and micro-batches: see `mixing.group_sizes`.
        """
        if counts := self._counts:
            return {level: counts[level] for level in self.level_names if counts.get(level)}
        return group_sizes(self.shares, self.batch_size)

    @property
    def _counts(self) -> dict[str, int] | None:
        """`mixed`, if it holds whole numbers of samples."""
        if not isinstance(self.mixed, Mapping) or not all(map(checks.is_int, self.mixed.values())):
            return None
        return dict(self.mixed) if sum(self.mixed.values()) > 1 else None

    def check_trained(self, weights: Any) -> None:
        """Raise if all levels of a group have a loss of weight zero.

        Args:
            weights: level weights, as in the phase or the model.
        """
        names = self.level_names
        idle = [level for level in self.groups if names.index(level) < _untrained(weights, names)]
        if idle:
            raise checks.error(
                "every group of a mixed batch must have a level whose loss has a weight",
                fix="pass Phase(mixed=False), or shares of the levels that are trained",
                level_weights=weights,
                groups=self.groups,
                idle=idle,
            )

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
        """The row that identifies the phase in `run.json`."""
        row = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("images", "mixed", "levels"):
            row.pop(name)
        weights = self.level_weights
        if callable(weights):  # by name: the address of a function differs in the next process
            row["level_weights"] = getattr(weights, "__qualname__", repr(weights))
        return {"levels": self.level_names, **row, "groups": self.groups}


@keras.saving.register_keras_serializable("keras_mdm")
@dataclasses.dataclass(frozen=True)
class WeightRamp:
    """Level weights that move from one set to another while a phase is trained.

    Args:
        start: weights at the start of the phase, by level name; 1 for missing levels.
        end: weights at the end.
        until: share of the phase after which `end` is reached.

    Call arguments:
        progress: scalar in [0, 1], a number or a tensor.

    Returns:
        dict of weights by level name.

    Raises:
        ValueError: if a weight is negative or `until` is not inside (0, 1].

    Example:

    >>> weights = WeightRamp({"256": 0.0}, {"256": 1.0}, until=0.5)(0.25)
    >>> float(weights["256"])
    0.5

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 6 (smooth transitions between phases).
    """

    start: Mapping[str, float]
    end: Mapping[str, float]
    until: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            for level, weight in getattr(self, name).items():
                checks.real(f"{name}[{level!r}]", weight, minimum=0.0)
        checks.real("until", self.until, minimum=1e-9, maximum=1.0)

    def __call__(self, progress: Any) -> dict[str, Any]:
        share = ops.minimum(ops.cast(progress, "float32") / self.until, 1.0)
        return {
            level: (1.0 - share) * self.start.get(level, 1.0) + share * self.end.get(level, 1.0)
            for level in sorted({*self.start, *self.end})
        }

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"start": dict(self.start), "end": dict(self.end), "until": self.until}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "WeightRamp":
        """Rebuild the weights from `get_config`."""
        return cls(**config)


def _untrained(weights: Any, levels: Sequence[str]) -> int:
    """Number of levels, from the lowest, before the first whose loss has a weight."""
    if callable(weights) or weights is None:
        return 0
    if isinstance(weights, str):  # "highest"
        return len(levels) - 1
    given = [weights.get(level, 1.0) > 0.0 for level in levels]
    return given.index(True) if True in given else 0


def number_phases(phases: Sequence[Phase]) -> list[Phase]:
    """Fill in how many steps precede every phase, and check that none drops levels.

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
                "a phase must keep the levels of the previous phase and may add outer ones",
                fix="order the phases from low to high resolution",
                before=before,
                levels=phase.level_names,
            )
        numbered.append(dataclasses.replace(phase, first_step=first_step))
        first_step += phase.steps
    return numbered

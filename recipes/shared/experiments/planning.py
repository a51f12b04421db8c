"""What a training is, and how far a budget of FLOPs takes it."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras_mdm as mdm
from shared.scale import Scale

CHECKPOINTS = (0.4, 0.6, 0.8, 1.0)
# FLOPs of a step, by what they follow from.
_counted: dict[str, int] = {}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A model of a training, which is trained alone.

    Args:
        scale: its phases and numbers.
        sees: size of the smaller picture that it enlarges, if it is an upsampler.
        network: options of `build_nested_unet` besides those of the scale.
        factor: of the autoencoder whose codes it makes, if it is a latent model.
    """

    scale: Scale
    sees: int | None = None
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    factor: int = 1

    def picture_size(self, level: str) -> int:
        """The size of the pictures of a level."""
        return int(level) * self.factor

    def make_unet(self, phase: mdm.Phase, conditions: Mapping[str, Any], seed: int) -> Any:
        """The network of a phase."""
        given = {**conditions, **self.scale.network, **self.network}
        return mdm.build_nested_unet(phase.levels, seed=seed, **given)


@dataclasses.dataclass(frozen=True)
class Training:
    """One way to spend the budget.

    Args:
        name: in the ledger and in the name of its folder; equal names are trained once for all
            experiments.
        stages: its models, in the order in which they are trained.
        checkpoints: shares of the budget at which it is measured, ascending; the last is 1.
        sweep: options of `generate` to try at the last checkpoint, by name; the best counts.
        sweep_early: names of those that are tried at earlier checkpoints.
    """

    name: str
    stages: Sequence[Stage]
    sweep: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=lambda: {"": {}})
    sweep_early: Sequence[str] = ("",)
    checkpoints: Sequence[float] = CHECKPOINTS

    def digest(self) -> str:
        """Changes whenever the training does, so that results of another form are not taken."""
        parts = []
        for stage in self.stages:
            scale = stage.scale
            levels = [dataclasses.asdict(level) for level in levels_of(scale.phases[-1])]
            rows = [phase.table_row() for phase in scale.phases]
            optimizer = getattr(scale.optimizer, "__name__", repr(scale.optimizer))
            options = [scale.network, stage.network, scale.process, optimizer]
            parts.append([levels, rows, *options, *([stage.factor] if stage.factor > 1 else [])])
        text = json.dumps([parts, self.sweep, self.checkpoints], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A phase with what it costs.

    Args:
        phase: the phase, with the steps that the budget allows.
        flop: of one step, forward and backward.
        before: spent before the phase begins, in all stages.
    """

    phase: mdm.Phase
    flop: int
    before: int

    @property
    def after(self) -> int:
        """Spent at the end of the phase."""
        return self.before + self.phase.steps * self.flop

    def step_at(self, spent: float) -> int | None:
        """The step of this phase at which so much has been spent, if it is one of them."""
        step = math.ceil(round((spent - self.before) / self.flop, 6))
        return step if 0 < step <= self.phase.steps else None


def plan(
    training: Training, conditions: Mapping[str, Any], *, tokens: int, budget: float | None
) -> list[list[Planned]]:
    """The phases of every stage, the last of which ends where the budget does.

    Args:
        training: the training, with phases of the wanted lengths.
        conditions: options of the network that follow from the data.
        tokens: of a text.
        budget: FLOPs of the whole training; the phases as they are without one.

    Raises:
        ValueError: if the budget is spent before the last phase begins.
    """
    made, spent = [], 0
    for place, stage in enumerate(training.stages):
        planned = []
        for number, phase in enumerate(stage.scale.phases):
            flop = _step_flop(stage, phase, conditions, max(1, tokens))
            last = place == len(training.stages) - 1 and number == len(stage.scale.phases) - 1
            if last and budget is not None:
                left = round((budget - spent) / flop)
                if left < 1:
                    raise ValueError(
                        "the phases before the last must leave some of the budget. Received: "
                        f"{training.name} with {spent / 1e12:.3g} TFLOP before its last phase, of "
                        f"{budget / 1e12:.3g}. To fix it: pass a larger --steps-scale"
                    )
                phase = dataclasses.replace(phase, steps=left)
            planned.append(Planned(phase, flop, spent))
            spent = planned[-1].after
        made.append(planned)
    return made


def _step_flop(stage: Stage, phase: mdm.Phase, conditions: Mapping[str, Any], tokens: int) -> int:
    """FLOPs of a step. Variants have most phases in common: each network is counted once."""
    options = (stage.scale.network, stage.network, conditions)
    key = repr((levels_of(phase), phase.groups, options, tokens))
    if key not in _counted:
        _counted[key] = mdm.costs.step_flop(
            phase, lambda given: stage.make_unet(given, conditions, 0), text_tokens=tokens
        )
    return _counted[key]


def levels_of(phase: mdm.Phase) -> Sequence[mdm.LevelSpec]:
    """The levels of a phase with all their numbers."""
    return mdm.models.resolve.resolve(phase.levels).levels

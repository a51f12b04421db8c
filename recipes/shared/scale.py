"""How large a training is: the numbers of a recipe."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras_mdm as mdm


@dataclasses.dataclass(frozen=True)
class Scale:
    """The numbers of a training.

    Args:
        phases: the phases in order, with their steps at --steps-scale 1.
        network: options of `build_nested_unet` besides the levels and the conditions of the data.
        process: options of `MatryoshkaDiffusion`: schedule, loss, threshold, averages.
        guided_levels: number of levels, from the innermost, that get guidance. It affects what is
            drawn, which low levels decide; at the higher ones of a small model without a learned
            deviation it would only amplify the difference of two estimates to a grain on flat
            areas.
        sampling: options of `generate`.
        optimizer: makes the optimizer from a learning rate; Adam as in appendix B unless given.
        tokens: length of a prompt; 0 for networks without text.
        checkpoint_every: steps between checkpoints.
        sample_every: steps between drawings.
        validate_every: steps between losses on data that is not trained on, unless
            --validate-every says otherwise; 0 for none.
        keep_every: steps between checkpoints that are kept for good.
        micro_batches: number of parts of a replica's batch, or a function of the phase; unless
            --micro-batches says otherwise.
        recompute: levels whose blocks are computed again in the backward pass, in all phases that
            have them; unless --recompute says otherwise.
        buckets: further sizes of the highest level that batches may have, `(height, width)`.
        noted: further options of `generate` to note in the run, such as the output of a model of
            codes.
    """

    phases: Sequence[mdm.Phase]
    network: Mapping[str, Any]
    process: Mapping[str, Any]
    guided_levels: int
    sampling: Mapping[str, Any]
    tokens: int
    checkpoint_every: int
    sample_every: int
    optimizer: Callable[..., mdm.optimizers.Optimizer] = mdm.optimizers.Adam
    keep_every: int | None = None
    validate_every: int = 0
    micro_batches: int | Callable[[mdm.Phase], int] = 1
    recompute: Sequence[str] = ()
    buckets: Sequence[tuple[int, int]] = ()
    noted: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def buckets_of(self, phase: mdm.Phase) -> list[tuple[int, int]]:
        """The buckets at the highest level of a phase."""
        if not self.buckets:
            return []
        ratio = int(self.phases[-1].level_names[-1]) // int(phase.level_names[-1])
        return [(height // ratio, width // ratio) for height, width in self.buckets]


def paper_level(level: Any) -> Any:
    """An outer level that sees its own noisy picture alone, without a deviation, as the paper's:
    what a level given by its size alone is."""
    if not isinstance(level, mdm.LevelSpec):
        return level
    return dataclasses.replace(level, learned_deviation=False, sees_below=False)


def with_paper_levels(scale: Scale) -> Scale:
    """A scale whose outer levels predict v itself, as in the paper, and nothing relative to the
    level below: what they need if that level has no loss."""

    def phase(given: mdm.Phase) -> mdm.Phase:
        inner, *outer = given.levels
        return dataclasses.replace(given, levels=[inner, *map(paper_level, outer)])

    process = {**scale.process, "residual": False}
    return dataclasses.replace(scale, phases=[phase(p) for p in scale.phases], process=process)

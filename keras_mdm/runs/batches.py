"""What the data of a phase must yield: groups, batches, and data for validation."""

from collections.abc import Mapping

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.costs.describe import DEFAULT_TEXT_TOKENS
from keras_mdm.runs.validation import require_finite
from keras_mdm.training import objective
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion
from keras_mdm.training.first_look import look_at
from keras_mdm.training.phases import Phase


def check_groups_of(dataset: tf.data.Dataset, phase: Phase) -> None:
    """Raise unless a dataset yields the groups of its phase."""
    spec, groups = dataset.element_spec, phase.groups
    nested = isinstance(spec, Mapping) and all(isinstance(v, Mapping) for v in spec.values())
    found = spec if nested else {phase.level_names[-1]: spec}
    sizes = {
        level: next(iter(batch.values())).shape[0] if isinstance(batch, Mapping) else None
        for level, batch in found.items()
    }
    fits = sizes.keys() == groups.keys() and all(
        rows in (None, groups[level]) for level, rows in sizes.items()
    )
    if not fits:
        raise checks.error(
            f"make_dataset must yield batches of {groups} samples by their highest level",
            fix="make one dataset per entry of phase.groups and join them with "
            "keras_mdm.data.mixed_dataset, or pass Phase(mixed=False)",
            groups=sizes,
        )


def check_batch(
    number: int,
    phase: Phase,
    model: MatryoshkaDiffusion,
    dataset: tf.data.Dataset,
    *,
    fix: str = "let make_dataset return an endless dataset",
) -> None:
    """Draw one batch of a phase and prepare a sample of every group as training would.

    Args:
        number: number of the phase.
        phase: the phase.
        model: its model; weights are not needed.
        dataset: its batches.
        fix: advice if there are none.
    """
    batch = next(iter(dataset), None)
    if batch is None:
        raise checks.error(
            f"the data of phase {number} must have a batch",
            fix=fix,
            batches=0,
        )
    look_at(model, batch)
    nested = all(isinstance(value, Mapping) for value in batch.values())
    groups = batch if nested else {phase.level_names[-1]: batch}
    for level, group in groups.items():
        first = {name: tf.convert_to_tensor(value)[:1] for name, value in group.items()}
        objective.prepare_group(model, level, first)


def check_validation(
    number: int, phase: Phase, model: MatryoshkaDiffusion, dataset: tf.data.Dataset
) -> None:
    """Raise unless the losses of a phase can be computed on a dataset, after drawing one batch."""
    require_finite(dataset)
    check_batch(number, phase, model, dataset, fix="let `validation` return at least one batch")


def text_tokens(dataset: tf.data.Dataset) -> int:
    """Number of tokens of the prompts in a dataset, as far as it is fixed."""
    texts = [spec for spec in tf.nest.flatten(dataset.element_spec) if spec.shape.rank == 3]
    return next((spec.shape[1] for spec in texts if spec.shape[1]), DEFAULT_TEXT_TOKENS)

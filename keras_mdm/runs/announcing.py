"""What TensorBoard shows of a run besides curves: its arguments and its phases."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from keras_mdm.callbacks import TensorBoardLogger
from keras_mdm.training.phases import Phase

COLUMNS = ("levels", "steps", "groups", "learning_rate")


def announce(
    logger: TensorBoardLogger,
    phases: Sequence[Phase],
    number: int,
    arguments: Mapping[str, Any] | None,
) -> None:
    """Write the texts, and mark the phase in the curve `run/phase`.

    Args:
        logger: of the phase.
        phases: all of the run.
        number: of the one that trains now, from 1.
        arguments: of the run.
    """
    writer, step = logger.writer, logger.step
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    writer.text(step, "run/arguments", table(("argument", "value"), list(given.items())))
    rows = [
        (place, *(phase.table_row()[column] for column in COLUMNS))
        for place, phase in enumerate(phases, start=1)
    ]
    writer.text(step, "run/phases", table(("phase", *COLUMNS), rows))
    writer.scalars(step, {"run/phase": float(number)})
    writer.hyperparameters(given)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.replace("|", "\\|").replace("\n", " ")

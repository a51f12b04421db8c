"""An average of any width, made from the checkpoints of a run."""

from pathlib import Path

import numpy as np

from keras_mdm import checks
from keras_mdm.averages.power_ema import combine
from keras_mdm.runs import checkpoints


def reconstruct(
    directory: str | Path, *, width: float, step: int | None = None
) -> tuple[dict[str, np.ndarray], float]:
    """Make the average of any width from the checkpoints of a phase.

    Args:
        directory: the checkpoints of a phase; `keep_every` of `fit_progressively` keeps enough of
            them.
        width: relative width of the wanted average.
        step: steps of the phase at its end; those of the last checkpoint unless given.

    Returns:
        ({variable path: float32 array}, relative distance between the profile made from the stored
        averages and the wanted one: the error of the reconstruction).

    Raises:
        ValueError: if no checkpoint holds power-function averages, or the step is beyond the last.

    Example:

    ```python
    arrays, distance = reconstruct("runs/x/checkpoints/phase-2", width=0.15)
    model.set_average(arrays)
    ```

    Reference: Karras et al. 2024 (arXiv 2312.02696), section 3.2.
    """
    stored, first_step, last = [], 0, 0
    for path in checkpoints.list_checkpoints(directory):
        if checkpoints.find_damage(path, contents=False) is not None:
            continue
        groups, state = checkpoints.load(path)
        last = checkpoints.step_of(path)
        made = int(state.get("ema_age", groups["optimizer"]["iterations"]))
        first_step = made - last  # of the phase
        stored += [
            (made, float(name.removeprefix("ema_")), arrays)
            for name, arrays in groups.items()
            if name.startswith("ema_")
        ]
    if not stored:
        raise checks.error(
            "the checkpoints must hold power-function averages",
            fix="train with MatryoshkaDiffusion(power_emas=(0.05, 0.1))",
            directory=str(directory),
        )
    step = last if step is None else checks.integer("step", step, minimum=1)
    if step > last:
        raise checks.error(
            f"`step` must be at most {last}, the step of the last checkpoint",
            fix="leave it out",
            step=step,
        )
    names = [key.removeprefix("average/") for key in stored[0][2] if key.startswith("average/")]
    found, distance = {}, 0.0
    for name in names:
        # A weight counts its updates from the step at which it joined.
        start = int(stored[0][2][f"start/{name}"])
        ages = [(made - start, size) for made, size, _ in stored]
        weights, missed = combine(ages, step=first_step + step - start, width=width)
        distance = max(distance, missed)
        parts = zip(weights, stored, strict=True)
        total = sum(weight * arrays[f"average/{name}"] for weight, (_, _, arrays) in parts)
        found[name] = np.asarray(total, "float32")
    return found, distance

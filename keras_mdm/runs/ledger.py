"""The ledger of a run: which phases are done, what each began with, and where the run continues.

`run.json` holds it under "ledger", with one record per phase that was begun:

- `steps`: of the newest checkpoint that was written,
- `state`: "running" or "done",
- `from`: the checkpoint or the model that the phase began with,
- `segments`: `[step, data step, batch size]` of every stretch with one batch size; where the batch
  changes, the data continues at the same sample.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.runs import checkpoints
from keras_mdm.runs.directory import RunDirectory, as_json, flat
from keras_mdm.training.phases import Phase, number_phases

# What may change in the running phase on request; the levels that it trains may not.
EXTENDABLE = (
    *("steps", "batch_size", "groups", "learning_rate", "warmup_steps", "final_learning_rate"),
    *("inner_learning_rate", "level_weights", "freeze"),
)


@dataclasses.dataclass(frozen=True)
class Resume:
    """Where a run continues.

    Args:
        number: number of the next phase to train, from 1; one more than the last if all are done.
        checkpoint: its newest complete checkpoint; `None` if the phase begins.
        source: for a phase that begins, the last checkpoint of the phase before; `None` for the
            first.
    """

    number: int
    checkpoint: Path | None
    source: Path | None

    @property
    def step(self) -> int:
        """Steps of the phase made so far."""
        return 0 if self.checkpoint is None else checkpoints.step_of(self.checkpoint)


def plan(
    run: RunDirectory,
    phases: Sequence[Phase],
    *,
    extend: bool = False,
    restart_phase: int | None = None,
) -> tuple[list[Phase], Resume]:
    """Compare the request with what was done, and find where to continue. Writes nothing.

    Args:
        run: the directory.
        phases: the phases requested.
        extend: whether the running phase may change.
        restart_phase: begin this phase again from the end of the one before.

    Returns:
        The phases, numbered, with the groups that a run of an earlier version was started with; and
        where to continue.

    Raises:
        ValueError: if something has changed that must not, or something needed is missing.
    """
    phases = number_phases(phases)
    content = run.read()
    begun = _begun(run, content)
    current = begun[-1] if begun else 0
    if restart_phase is not None:
        checks.integer("restart_phase", restart_phase, minimum=1)
        if restart_phase > max(1, current):
            raise checks.error(
                "only a phase that has begun can be restarted",
                fix="leave restart_phase out; a phase that has not begun starts without it",
                restart_phase=restart_phase,
                begun=begun,
            )
        current = restart_phase - 1  # later phases count as not begun
    rows = content["phases"] if content else []
    if current > len(phases):
        raise checks.error(
            "phases that have begun must stay in the list",
            fix="pass all phases, including the finished ones",
            run_dir=str(run.path),
            begun=current,
            phases=len(phases),
        )
    phases = _as_started(phases, rows[:current])
    made = _steps_made(run, content, current) if current else 0
    for number in range(1, current + 1):
        changed = _differences(rows[number - 1], phases[number - 1])
        _refuse(run, number, changed, current=current, made=made, extend=extend, phases=phases)
    return phases, _resume(run, phases, current, made, content)


def note_start(
    run: RunDirectory, number: int, phase: Phase, source: str | None, trained: Sequence[str]
) -> None:
    """Write down that a phase begins, with the levels that were trained before."""
    run.note_phase(
        number,
        {
            "state": "running",
            "steps": 0,
            "from": source,
            "trained_levels": list(trained),
            "segments": [[0, 0, phase.batch_size]],
        },
    )


def data_step(run: RunDirectory, number: int, phase: Phase, step: int) -> int:
    """Return the step of the data set that belongs to a step of a phase.

    The two are the same unless the batch size changed in between: the data then continues where
    it was, without reading a sample twice (less than a batch may be left out).

    Args:
        run: the directory.
        number: number of the phase.
        phase: the phase.
        step: steps made.
    """
    segments = _segments(run.phase_record(number), phase)
    start, data, _ = [row for row in segments if row[0] <= step][-1]
    return data + step - start


def note_changes(
    run: RunDirectory, number: int, phase: Phase, step: int, differences: Sequence[str]
) -> None:
    """Note what changes from a step on, and where the data continues."""
    record = run.phase_record(number)
    segments = [row for row in _segments(record, phase) if row[0] <= step]
    start, data, batch = segments[-1]
    if batch != phase.batch_size:
        seen = (data + step - start) * batch
        moved = [step, -(-seen // phase.batch_size), phase.batch_size]
        segments = [row for row in segments if row[0] != step] + [moved]
    run.note_phase(number, {**record, "state": "running", "segments": segments})
    run.note("changes", {"phase": number, "step": step, "changed": list(differences)})


def changes(run: RunDirectory, number: int, phase: Phase) -> list[str]:
    """Differences between a phase and its row in `run.json`, as sentences."""
    rows = (run.read() or {"phases": []})["phases"]
    return _differences(rows[number - 1], phase) if number <= len(rows) else []


def _segments(record: Mapping[str, Any] | None, phase: Phase) -> list[list[int]]:
    return [*((record or {}).get("segments") or [[0, 0, phase.batch_size]])]


def _begun(run: RunDirectory, content: Mapping[str, Any] | None) -> list[int]:
    """Numbers of the phases that were begun, ascending."""
    found = {int(number) for number in (content or {}).get("ledger", {})}
    if content is not None:  # runs of earlier versions have no ledger
        for number in range(1, len(content["phases"]) + 1):
            if checkpoints.list_checkpoints(run.checkpoints(number)):
                found.add(number)
    return sorted(found)


def _steps_made(run: RunDirectory, content: Mapping[str, Any], number: int) -> int:
    """Steps of the newest checkpoint that a phase ever had, as far as known."""
    noted = content.get("ledger", {}).get(str(number), {}).get("steps", 0)
    whole = [
        checkpoints.step_of(path)
        for path in checkpoints.list_checkpoints(run.checkpoints(number))
        if checkpoints.find_damage(path, contents=False) is None
    ]
    return max([noted, *whole])


def _as_started(phases: Sequence[Phase], rows: Sequence[Mapping[str, Any]]) -> list[Phase]:
    """Phases as a run of an earlier version began with: shares were rounded differently, and the
    phase, not the model, chose how data is downsampled."""
    found = list(phases)
    for place, row in enumerate(rows):
        phase = found[place]
        if phase.downsample is None and row.get("downsample"):
            found[place] = phase = dataclasses.replace(phase, downsample=row["downsample"])
        differing = {text.split(":")[0] for text in _differences(row, phase)}
        groups = {f"groups.{level}" for level in phase.groups}
        if differing and differing <= groups and set(row["groups"]) == set(phase.groups):
            found[place] = dataclasses.replace(phase, mixed=dict(row["groups"]))
    return found


def _differences(row: Mapping[str, Any], phase: Phase) -> list[str]:
    """Differences between a row of `run.json` and a phase."""
    before, now = flat(dict(row)), flat(as_json(phase.table_row()))
    return [
        f"{key}: {before.get(key)!r} before, {now.get(key)!r} now"
        for key in sorted((before.keys() | now.keys()) - {"first_step"})  # it is derived
        if before.get(key) != now.get(key)
    ]


def _refuse(
    run: RunDirectory,
    number: int,
    changed: Sequence[str],
    *,
    current: int,
    made: int,
    extend: bool,
    phases: Sequence[Phase],
) -> None:
    """Raise if a phase that has begun changes in a way that is not allowed."""
    phase = phases[number - 1]
    if not changed:
        return
    received = {"run_dir": str(run.path), "differences": [f"phase {number}.{c}" for c in changed]}
    if number < current:
        raise checks.error(
            f"phase {number} is finished and phase {current} was grown from it, so it must "
            "stay as it was",
            fix="restore what differs (phases that have not begun may change), or start over "
            "with fresh=True (--fresh of a recipe), which moves the run aside",
            **received,
        )
    fixed = [c for c in changed if c.split(":")[0].split(".")[0] not in EXTENDABLE]
    if fixed:
        raise checks.error(
            f"phase {number} has made {made} steps, so only these may change: "
            f"{', '.join(EXTENDABLE)}",
            fix="restore the others, or start over with fresh=True (--fresh of a recipe)",
            **received,
        )
    if not extend:
        raise checks.error(
            f"phase {number} has made {made} steps, and the request would change it",
            fix="pass extend=True (--extend of a recipe) to continue with the change, restore "
            "what differs, or start over with fresh=True (--fresh), which moves the run "
            "aside",
            **received,
        )
    if phase.steps < made:
        raise checks.error(
            f"phase {number} must have at least the {made} steps that it has already made",
            fix="pass more steps",
            steps=phase.steps,
        )


def _resume(
    run: RunDirectory,
    phases: Sequence[Phase],
    current: int,
    made: int,
    content: Mapping[str, Any] | None,
) -> Resume:
    if not current:
        return Resume(1, None, None)
    newest = checkpoints.newest_valid(run.checkpoints(current))
    if newest is None and made:
        if current == len(phases) and _is_done(run, content, current) and run.model_is_whole():
            return Resume(current + 1, None, None)  # checkpoints were deleted; the model is there
        raise checks.error(
            f"phase {current} has made {made} steps, so it needs one of its checkpoints to "
            "continue",
            fix="copy one back; restart the phase from the end of the previous one with "
            f"restart_phase={current} (--restart-phase {current} of a recipe); or start "
            "over with fresh=True (--fresh)",
            directory=str(run.checkpoints(current)),
            found={
                p.name: checkpoints.find_damage(p)
                for p in checkpoints.list_checkpoints(run.checkpoints(current))
            },
        )
    step = 0 if newest is None else checkpoints.step_of(newest)
    if step > phases[current - 1].steps:
        raise checks.error(
            f"phase {current} must not have made more steps than its {phases[current - 1].steps}",
            fix="remove the checkpoint if it belongs to another run, or choose another directory",
            checkpoint=str(newest),
            steps=step,
        )
    if step < made:
        warnings.warn(
            f"Phase {current} continues from step {step} instead of {made}: the newer "
            "checkpoints are missing or damaged",
            stacklevel=3,
        )
    if step == phases[current - 1].steps and current < len(phases):
        return Resume(current + 1, None, newest)
    source = None
    if newest is None and current > 1:
        source = checkpoints.newest_valid(run.checkpoints(current - 1))
        wanted = phases[current - 2].steps
        if source is None or checkpoints.step_of(source) != wanted:
            raise checks.error(
                f"phase {current} starts from the last checkpoint of phase {current - 1}",
                fix="copy it back, or train that phase again: "
                f"restart_phase={current - 1} (--restart-phase {current - 1} of a recipe)",
                directory=str(run.checkpoints(current - 1)),
                newest=str(source),
            )
    return Resume(current, newest, source)


def _is_done(run: RunDirectory, content: Mapping[str, Any] | None, number: int) -> bool:
    return ((content or {}).get("ledger", {}).get(str(number)) or {}).get("state") == "done"

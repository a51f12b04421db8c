"""The training of one stage: a run of `fit_progressively` that is measured on the way."""

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

import keras_mdm as mdm
from shared import training
from shared.experiments.beginning import begin
from shared.experiments.ledger import write
from shared.experiments.planning import Planned, Stage

CLOCK = "clock.json"


class Clock:
    """Seconds that the steps of a stage take: without tracing, measuring, and what is stopped.

    The mean over the steps of a phase that were timed times their number, so that it does not
    matter which steps were repeated after a stop.

    Args:
        run_dir: of the stage.
    """

    def __init__(self, run_dir: Path):
        self.file = run_dir / CLOCK
        self.timed: dict[str, list[float]] = {}
        if self.file.exists():
            self.timed = json.loads(self.file.read_text())

    def add(self, number: int, seconds: float) -> None:
        """Time one step of a phase."""
        steps, whole = self.timed.get(str(number), (0, 0.0))
        self.timed[str(number)] = [steps + 1, whole + seconds]

    def save(self) -> None:
        """Write what was timed."""
        write(self.file, json.dumps(self.timed))

    def seconds(self, number: int, steps: int) -> float | None:
        """Of so many steps of a phase; `None` if none was timed."""
        timed, whole = self.timed.get(str(number), (0, 0.0))
        return whole / timed * steps if timed else None


class Deadline(keras.callbacks.Callback):
    """Ends a run in time, with a checkpoint.

    Args:
        deadline: by `time.monotonic`; `None` for none.
    """

    def __init__(self, deadline: float | None):
        super().__init__()
        self.deadline = deadline

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """As a signal from outside would."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            signal.raise_signal(signal.SIGTERM)


class Watch(keras.callbacks.Callback):
    """Times the steps of a phase, and measures at some of them.

    Args:
        clock: of the stage.
        number: of the phase.
        first: steps that were made before.
        due: function of what is due after each of these steps, by step.
    """

    def __init__(
        self,
        clock: Clock,
        number: int,
        first: int,
        due: Mapping[int, Callable[[], Any]],
    ):
        super().__init__()
        self.clock, self.number, self.step = clock, number, first
        self.due, self._traced = due, False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """What was due when the run was stopped, just after a checkpoint."""
        self._measure()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note when the step begins."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Time the step, except the first, which traces."""
        if self._traced:
            self.clock.add(self.number, time.perf_counter() - self._began)
        self._traced = True
        self.step += 1
        self._measure()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Keep the times."""
        self.clock.save()

    def _measure(self) -> None:
        if self.step in self.due:
            self.clock.save()
            self.due[self.step]()


def fit(
    stage: Stage,
    planned: Sequence[Planned],
    data: Any,
    run_dir: Path,
    *,
    seed: int,
    due: Callable[[mdm.MatryoshkaDiffusion, int, Clock], Mapping[int, Callable[[], Any]]],
    common: Path | None = None,
    deadline: float | None = None,
    strategy: Any = None,
) -> mdm.MatryoshkaDiffusion:
    """Train a stage to its end, or continue.

    Args:
        stage: the stage.
        planned: its phases.
        data: the data, `Study`.
        run_dir: of the run.
        seed: of initial values, order, noise and times.
        due: function (model, number of the phase, clock) -> what is due, by step.
        common: directory of first phases, which are trained once for all trainings that have
            them; `None` if the first phase is measured on the way.
        deadline: see `Deadline`.
        strategy: the distribution strategy.

    Returns:
        The trained model.
    """
    if common is not None:
        given: dict[str, Any] = {"seed": seed, "deadline": deadline, "strategy": strategy}

        def train(part: Stage, first: Sequence[Planned], directory: Path) -> Any:
            return fit(part, first, data, directory, due=lambda *_: {}, **given)

        begin(stage, planned, run_dir, common, seed, train)
    scale = stage.scale
    phases = [each.phase for each in planned]
    clock = Clock(run_dir)

    def make_model(phase: mdm.Phase) -> mdm.MatryoshkaDiffusion:
        unet = stage.make_unet(phase, data.conditions, seed)
        made = training.built(unet, phase, scale, data.encoder, seed)
        parts = scale.micro_batches
        parts = parts(phase) if callable(parts) else parts
        return training.compiled(made, phase, scale, micro_batches=parts, recompute=scale.recompute)

    def callbacks(context: mdm.PhaseContext) -> list[keras.callbacks.Callback]:
        found = due(context.model, context.number, clock)
        watch = Watch(clock, context.number, context.initial_step, found)
        return [watch, Deadline(deadline)]

    return mdm.fit_progressively(
        phases,
        make_model,
        data.datasets(seed, sees=stage.sees),
        run_dir=run_dir,
        data=data.identity,
        callbacks=callbacks,
        strategy=strategy,
        checkpoint_every=scale.checkpoint_every,
        sampling={key: value for key, value in scale.sampling.items() if key != "batch_size"},
    )

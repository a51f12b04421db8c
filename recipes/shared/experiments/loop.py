"""The loop of every experiment: for each seed and variant train, and measure on the way.

What is finished is in the ledger and is not repeated; a training that was stopped continues from
its newest checkpoint. A training that several experiments have is made once.
"""

import argparse
import dataclasses
import gc
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import keras_mdm as mdm
from shared.autoencoding import AutoencoderScale
from shared.experiments import codes, setting, study
from shared.experiments.fitting import Clock, fit
from shared.experiments.ledger import Ledger
from shared.experiments.measuring import BlockColours, Measure
from shared.experiments.planning import Planned, Training, plan
from shared.experiments.trainings import progressive
from shared.scale import Scale

TRAININGS, COMMON = "trainings", "first-phases"
SHOWN = 16


@dataclasses.dataclass(frozen=True)
class Variant:
    """A line of a figure.

    Args:
        name: in tables and ledger.
        training: what is trained.
        what: in words, for the legend.
    """

    name: str
    training: Training
    what: str


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment: its variants, and where they are measured.

    Args:
        name: in the ledger and of its files.
        title: of the figure.
        variants: function of the base scale.
        base: the small scale that variants change, and that sets the budget.
        paper: the paper's.
        then: function (loop, variants) called when all is trained.
        report: function (ledger, directory) called besides the usual tables and figures.
        autoencoders: of latent models, by factor.
    """

    name: str
    title: str
    variants: Callable[[Scale], Sequence[Variant]]
    base: Scale
    paper: Scale
    then: Callable[["Loop", Sequence[Variant]], None] | None = None
    report: Callable[[Ledger, Path], None] | None = None
    autoencoders: Mapping[int, AutoencoderScale] = dataclasses.field(default_factory=dict)


class Loop:
    """Trains and measures what the ledger lacks."""

    def __init__(
        self,
        experiment: Experiment,
        asked: setting.Setting,
        base: Scale,
        data: study.Study,
        directory: Path,
        ledger: Ledger,
        arguments: argparse.Namespace,
        strategy: Any,
    ):
        self.experiment, self.asked, self.base, self.data = experiment, asked, base, data
        self.directory, self.ledger, self.strategy = directory, ledger, strategy
        self.seeds = range(arguments.seeds)
        self.deadline = arguments.minutes and time.monotonic() + 60.0 * arguments.minutes
        highest = int(base.phases[-1].level_names[-1])
        small = asked.scale == "small"
        sampling = {**base.sampling, "steps": asked.sampling_steps}
        sampling |= {"guidance_scale": asked.guidance}
        self.measure = Measure(
            data.source.images[highest],
            data.subjects(asked.pictures),
            mdm.evaluation.EfficientNetLite0() if small else BlockColours(),
            sampling,
        )
        self._studies = {1: data}
        planned = self._plan(progressive(base), None)
        self.budget = float(planned[-1][-1].after)

    def make(self, variants: Sequence[Variant]) -> None:
        """All variants, seed after seed, so that a stopped experiment compares all of them."""
        plans = {each.name: self._plan(each.training, self.budget) for each in variants}
        print(f"{self.experiment.name}: {self.budget / 1e12:.4g} TFLOP per training", flush=True)
        for seed in self.seeds:
            for variant in variants:
                self._take_known(variant, seed)
                if self._missing(variant, seed, plans[variant.name]):
                    self.require_time()
                    self._train(variant, seed, plans[variant.name])

    def require_time(self) -> None:
        """End if the time of `--minutes` is over, as a training does."""
        if self.deadline and time.monotonic() > self.deadline:
            print("The time is over. The same command continues.", flush=True)
            raise SystemExit(0)

    def model_file(self, training: Training, seed: int) -> Path:
        """The finished model of a training, that of its last stage."""
        stage = f"stage-{len(training.stages)}"
        return self.directory / TRAININGS / training.name / f"seed-{seed}" / stage / "model.keras"

    def _data(self, factor: int) -> study.Study:
        """The pictures, or their codes by the autoencoder of a factor, which is trained first."""
        if factor not in self._studies:
            scale, highest = self.experiment.autoencoders[factor], max(self.data.source.images)
            if self.asked.scale != "small":
                replicas = getattr(self.strategy, "num_replicas_in_sync", 1)
                scale = codes.miniature(scale, replicas)
            run_dir = self.directory / TRAININGS / f"autoencoder-f{factor}"
            pictures = self.data.source.images[highest]
            print(f"autoencoder of factor {factor}", flush=True)
            codec = codes.trained(
                scale, pictures, self.data.identity, run_dir, self.strategy, self.deadline
            )
            codes.measure(codec, pictures, self.measure, run_dir)
            self._studies[factor] = codes.encoded(self.data, highest, codec)
        return self._studies[factor]

    def _plan(self, training: Training, budget: float | None) -> list[list[Planned]]:
        conditions = self.data.conditions
        return plan(training, conditions, tokens=self.base.tokens, budget=budget)

    def _points(
        self, training: Training, planned: Sequence[Sequence[Planned]]
    ) -> dict[float, tuple[int, int, int]]:
        """(stage, phase, step) of every checkpoint at which the highest level can be drawn."""
        highest = int(self.base.phases[-1].level_names[-1])
        found, last = {}, len(planned) - 1
        for share in training.checkpoints:
            for number, each in enumerate(planned[last], start=1):
                step = each.step_at(share * self.budget)
                if share == 1.0 and number == len(planned[last]):
                    step = each.phase.steps  # whole steps: the budget is met within half a step
                size = training.stages[last].picture_size(each.phase.level_names[-1])
                if step is not None and size == highest:
                    found[share] = (last, number, step)
                    break
        return found

    def _missing(
        self, variant: Variant, seed: int, planned: Sequence[Sequence[Planned]]
    ) -> list[float]:
        name = self.experiment.name
        return [
            share
            for share in self._points(variant.training, planned)
            if (name, variant.name, seed, share) not in self.ledger
        ]

    def _take_known(self, variant: Variant, seed: int) -> None:
        """Take over what another experiment measured of the same training."""
        name = self.experiment.name
        for record in list(self.ledger):  # as it grows
            if (record["training"], record["seed"]) != (variant.training.name, seed):
                continue
            if record["digest"] != variant.training.digest():
                raise ValueError(
                    "trainings of one name must be the same in all experiments of a directory. "
                    f"Received: {variant.training.name!r} of {variant.name!r}, measured in another "
                    "form before. To fix it: pass another --run-dir"
                )
            self.ledger.add({**record, "experiment": name, "variant": variant.name})

    def _train(self, variant: Variant, seed: int, planned: Sequence[Sequence[Planned]]) -> None:
        training = variant.training
        points = self._points(training, planned)
        place = self.directory / TRAININGS / training.name / f"seed-{seed}"
        print(f"\n{variant.name}, seed {seed}", flush=True)
        models: list[Any] = []
        clocks: list[Clock] = []
        seen: list[np.ndarray] = []  # what the upsampler enlarges, drawn once

        def record(share: float, model: Any, clock: Clock) -> None:
            """Measure a checkpoint, unless that was done."""
            key = (self.experiment.name, variant.name, seed, share)
            if key in self.ledger:
                return
            stage, number, step = points[share]
            seconds = _seconds(planned, [*clocks[:stage], clock], points[share])
            at = planned[stage][number - 1]
            self.ledger.add(
                {
                    **dict(zip(("experiment", "variant", "seed", "checkpoint"), key, strict=True)),
                    "training": training.name,
                    "digest": training.digest(),
                    "step": step,
                    "flop": at.before + step * at.flop,
                    "seconds": seconds and round(seconds, 2),
                    **self._measured(training, [*models[:stage], model], seen, share, place),
                }
            )

        for number, (stage, own) in enumerate(zip(training.stages, planned, strict=True)):
            run_dir = place / f"stage-{number + 1}"

            def due(
                model: Any, phase: int, clock: Clock, number: int = number
            ) -> dict[int, Callable[[], Any]]:
                found: dict[int, list[float]] = {}
                for share, (stage, part, step) in points.items():
                    # The last one when its model is written: what is measured is there.
                    if (stage, part) == (number, phase) and share != 1.0:
                        found.setdefault(step, []).append(share)
                return {
                    step: lambda shares=shares: [record(each, model, clock) for each in shares]
                    for step, shares in found.items()
                }

            measured = any(point[:2] == (number, 1) for point in points.values())
            model = fit(
                stage,
                own,
                self._data(stage.factor),
                run_dir,
                seed=seed,
                due=due,
                common=None if measured else self.directory / TRAININGS / COMMON,
                deadline=self.deadline,
                strategy=self.strategy,
            )
            models.append(model)
            clocks.append(Clock(run_dir))
        record(1.0, models[-1], clocks[-1])
        lost = self._missing(variant, seed, planned)
        if lost:
            raise ValueError(
                f"a training must be measured on its way. Received: {place}, which has ended, and "
                f"no results at {lost} of the budget. To fix it: remove the folder; it is trained "
                "again"
            )
        for number in range(len(models)):
            _tidy(place / f"stage-{number + 1}")
        del model
        models.clear()
        gc.collect()

    def _measured(
        self,
        training: Training,
        models: Sequence[Any],
        seen: list[np.ndarray],
        share: float,
        place: Path,
    ) -> dict[str, Any]:
        """The distance, the best of a sweep."""
        names = list(training.sweep) if share == 1.0 else list(training.sweep_early)
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            options = dict(training.sweep[name])
            if len(models) > 1:
                mdm.Cascade(*models)  # raises unless they fit each other
                seen[:] = seen or [self.measure.draw(models[0])]
                options["low_res"] = seen[0]
            drawn = models[-1]
            if training.stages[-1].factor > 1:
                codec = self._data(training.stages[-1].factor).codec
                drawn = mdm.latents.LatentDiffusion(drawn, codec)
            images = self.measure.draw(drawn, stage=len(models) - 1, **options)
            found[name] = self.measure(images)
            _write_page(images, place / f"{share:g}{name and '-'}{name.replace(' ', '-')}.png")
        best = min(found, key=lambda name: found[name]["kid"])
        values = {name or "kid": [each["kid"], each["kid_error"]] for name, each in found.items()}
        print(f"{share:g} of the budget: {values}", flush=True)
        swept = {"best": best, "sweep": values} if len(found) > 1 else {}
        return {**found[best], **swept}


def _seconds(
    planned: Sequence[Sequence[Planned]], clocks: Sequence[Clock], point: tuple[int, int, int]
) -> float | None:
    """Seconds of training up to a checkpoint; `None` if a phase was too short to be timed."""
    stage, number, step = point
    whole = 0.0
    for place, clock in enumerate(clocks):
        for part, each in enumerate(planned[place], start=1):
            if (place, part) > (stage, number):
                break
            steps = step if (place, part) == (stage, number) else each.phase.steps
            seconds = clock.seconds(part, steps)
            if seconds is None:
                return None
            whole += seconds
    return whole


def _tidy(run_dir: Path) -> None:
    """Keep the model and the record of a finished run; its checkpoints take gigabytes."""
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    for file in run_dir.glob("phase-*.keras"):
        file.unlink()


def _write_page(images: np.ndarray, path: Path) -> None:
    """The first pictures, eight in a row."""
    shown = images[:SHOWN]
    rows = [np.concatenate(list(shown[first : first + 8]), 1) for first in range(0, SHOWN, 8)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)

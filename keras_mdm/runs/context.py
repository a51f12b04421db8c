"""What the parts of a run are told: the phase in training, and the options of the run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks, distribute
from keras_mdm.callbacks import TensorBoardLogger
from keras_mdm.callbacks.signals import OrderlyStop
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion
from keras_mdm.training.phases import Phase

MakeModel = Callable[[Phase], MatryoshkaDiffusion]
MakeDataset = Callable[[Phase, int], tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class PhaseContext:
    """What a function that makes callbacks is told.

    Args:
        number: number of the phase, from 1.
        phase: the phase.
        model: its compiled model.
        run: the run directory.
        initial_step: steps of the phase made in an earlier process.
        logger: writes to TensorBoard; its `writer` takes pictures. (`None` on workers that do not
            write, for which no callbacks are made.)
    """

    number: int
    phase: Phase
    model: MatryoshkaDiffusion
    run: RunDirectory
    initial_step: int
    logger: TensorBoardLogger | None

    @property
    def global_step(self) -> int:
        """Optimizer steps of the whole run before this call."""
        return self.phase.first_step + self.initial_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of `fit_progressively`, under the same names."""

    start: MatryoshkaDiffusion | None
    data: Mapping[str, Any] | None
    callbacks: Callable[[PhaseContext], Sequence[keras.callbacks.Callback]] | None
    validation: Callable[[Phase], tf.data.Dataset] | None
    validate_every: int | None
    check: Callable[[Phase, MatryoshkaDiffusion], None] | None
    check_memory: bool
    checkpoint_every: int
    keep_last: int
    keep_every: int | None
    keep_moments: bool
    log_every: int
    skipped_limit: int
    arguments: Mapping[str, Any] | None
    sampling: Mapping[str, Any] | None
    progress: bool

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_last", "log_every", "skipped_limit"):
            checks.integer(name, getattr(self, name), minimum=1)
        if not isinstance(self.sampling, Mapping | None):
            raise checks.error(
                "`sampling` must map options of generate to their values",
                fix='pass for example {"steps": 25, "guidance_scale": 3.0}',
                sampling=self.sampling,
            )
        if self.validate_every is not None:
            checks.integer("validate_every", self.validate_every, minimum=1)
            if self.validation is None:
                raise checks.error(
                    "`validate_every` needs data to compute losses on",
                    fix="pass validation, a function (phase) -> finite dataset",
                    validate_every=self.validate_every,
                )


@dataclasses.dataclass(frozen=True)
class Worker:
    """One process of a run.

    Args:
        run: the directory that all workers share.
        strategy: the distribution strategy.
        stop: knows whether an orderly end was requested.
        options: of the run.
    """

    run: RunDirectory
    strategy: tf.distribute.Strategy
    stop: OrderlyStop
    options: RunOptions

    @property
    def is_chief(self) -> bool:
        """Whether this is the only worker that writes."""
        return distribute.is_chief(self.strategy)

    def wait(self) -> None:
        """Wait until all workers are here."""
        distribute.barrier(self.strategy)

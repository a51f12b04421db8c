"""The callback that measures drawn pictures against real ones during training."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback

if TYPE_CHECKING:  # the feature networks are not imported before somebody measures
    from keras_mdm.callbacks.tensorboard import EventWriter
    from keras_mdm.evaluation import Report, Request


class Distances(StepCallback):
    """Evaluate the model at intervals: `keras_mdm.evaluation.evaluate` with a few pictures.

    Every evaluation draws the same prompts from the same noise, so two of them differ only by the
    weights.

    Args:
        reference: real pictures by level as for `evaluate`; their statistics are computed once.
        request: what to draw.
        every: evaluate when a multiple of this many steps is reached.
        features: a feature network; `EfficientNetLite0` by default, for clips on their frames.
        measures: names of measures as for `evaluate`.
        few: accept fewer pictures than a measure needs.
        writer: an `EventWriter`: curves `evaluation/SUBJECT/MEASURE`.
        note: called with a record of every evaluation, such as
            `lambda record: context.run.note("evaluation", record)` in a run.
        first_step: optimizer steps before the phase, for the curves.
        initial_step: see `StepCallback`.

    Raises:
        ValueError: if there are too few pictures for a measure.

    Example:

    ```python
    request = evaluation.Request(256, prompts=prompts, options={"steps": 25})
    callbacks = [Distances({"64": real}, request, every=5000, writer=logger.writer)]
    ```

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix E (FID and CLIP score in training).
    """

    chief_only = True

    def __init__(
        self,
        reference: Mapping[str, Any],
        request: "Request",
        every: int,
        *,
        features: Any = None,
        measures: Sequence[str] = ("kernel",),
        few: bool = False,
        writer: "EventWriter | None" = None,
        note: Callable[[dict[str, Any]], Any] | None = None,
        first_step: int = 0,
        initial_step: int = 0,
    ):
        from keras_mdm.evaluation import EfficientNetLite0, measured, network_of

        super().__init__(initial_step=initial_step)
        self.every = checks.integer("every", every, minimum=1)
        self.request, self.few, self.measures = request, few, tuple(measures)
        self.features = features or EfficientNetLite0()
        self.reference = {
            level: measured(network_of(self.features, level), given)
            for level, given in reference.items()
        }
        self.writer, self.note, self.first_step = writer, note, first_step

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if self.crossed(self.every, previous_step):
            self.measure()

    def measure(self) -> "Report":
        """Draw and measure now, and write the numbers."""
        from keras_mdm.evaluation import evaluate

        with tempfile.TemporaryDirectory() as directory:
            report = evaluate(
                self.model,
                self.reference,
                request=self.request,
                directory=directory,
                features=self.features,
                measures=self.measures,
                few=self.few,
                progress=False,
            )
        numbers = {f"{row.subject}/{row.measure}": row.value for row in report.rows}
        step = self.first_step + self.step
        if self.writer is not None:
            curves = {f"evaluation/{name}": value for name, value in numbers.items()}
            self.writer.scalars(step, curves)
        if self.note is not None:
            self.note({"step": step, "features": report.about["features"], **numbers})
        return report

"""Curves that show where the loss comes from, and how far the averages are from the weights."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback
from keras_mdm.callbacks.tags import tagged
from keras_mdm.callbacks.tensorboard import EventWriter

QUARTERS = 4


class Diagnostics(StepCallback):
    """Writes the loss of every level by noise quarter, and the gap of the averages, to TensorBoard.

    The losses are those of the averaged weights on one batch, always with the same noise and times,
    so that all points compare. `loss_by_noise/64/quarter 1` has the least noise, `quarter 4` the
    most. `optimizer/ema_gap` is the distance of the averages from the weights, relative to the
    weights.

    Args:
        batch: dict of tensors as for training, without mixing; a multiple of four samples,
            preferably of data that is not trained on.
        writer: an `EventWriter`, such as `TensorBoardLogger(...).writer`.
        every: steps between two points.
        initial_step: as in `StepCallback`.

    Raises:
        ValueError: if the number of samples is not a multiple of four.

    Example:

    ```python
    batch = next(iter(dataset))
    callbacks = [Diagnostics(batch, logger.writer, every=500)]
    ```
    """

    chief_only = True

    def __init__(
        self,
        batch: Mapping[str, Any],
        writer: EventWriter,
        *,
        every: int = 500,
        initial_step: int = 0,
    ):
        super().__init__(initial_step=initial_step)
        self.batch = {name: tf.convert_to_tensor(value) for name, value in batch.items()}
        self.rows = int(next(iter(self.batch.values())).shape[0])
        if not self.rows or self.rows % QUARTERS:
            raise checks.error(
                "the batch must have a multiple of four samples, for four quarters of the noise",
                fix="pass for example 32 samples",
                rows=self.rows,
            )
        self.writer = writer
        self.every = checks.integer("every", every, minimum=1)
        self._measure: Any = None
        self._version: int | None = None  # of the network that was traced

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if self.crossed(self.every, previous_step):
            self.writer.scalars(self.step, tagged(self.measure()))

    def measure(self) -> dict[str, float]:
        """Measure now; return `loss_LEVEL/noise_QUARTER` and `ema_gap`."""
        self.model.refresh(contents=False)
        if self._measure is None or self._version != self.model.network_version:
            self._version = self.model.network_version
            self._measure = tf.function(self._traced, autograph=False)
        return {name: float(value) for name, value in self._measure().items()}

    def _traced(self) -> dict[str, tf.Tensor]:
        model = self.model
        x0, conditions = model.prepare(self.batch)
        samples = tf.range(self.rows, dtype=tf.int64)
        eps = model.draw_noise("diagnostics", 0, samples, x0)
        num_steps = model.process.schedules[model.unet.levels[0]].num_steps
        # Evenly over all times, ascending, so that each quarter of the rows is one of the noise.
        places = (tf.range(self.rows, dtype=tf.float32) + 0.5) / self.rows
        index = 1 + tf.cast(tf.floor(places * num_steps), tf.int32)
        by_level = model.level_losses(model.network("ema"), x0, eps, index, conditions)
        found = {}
        for level, losses in by_level.items():
            quarters = tf.reduce_mean(tf.reshape(losses, (QUARTERS, -1)), axis=1)
            for number in range(QUARTERS):
                found[f"loss_{level}/noise_{number + 1}"] = quarters[number]
        weights = [tf.cast(v.value, tf.float32) for v in model.ema.variables]
        averages = [tf.convert_to_tensor(average.value) for average in model.ema.averages]
        gap = tf.linalg.global_norm([a - w for a, w in zip(averages, weights, strict=True)])
        found["ema_gap"] = gap / tf.linalg.global_norm(weights)
        return found

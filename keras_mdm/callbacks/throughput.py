"""Training speed."""

import collections
import time
from collections.abc import Callable
from typing import Any

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback


class Throughput(StepCallback):
    """Put "images_per_second" and "tflops" into the logs, measured over a sliding window.

    Put it first in the list of callbacks, so that the others see its values. The first execution,
    which compiles, is not in the window.

    Args:
        batch_size: pictures or clips per optimizer step, over all replicas and micro-batches.
        flop_per_step: arithmetic of an optimizer step over all replicas, such as that from
            `keras_mdm.describe.count_step_flop`; without it there is no "tflops".
        window: number of executions to average over.
        initial_step: see `StepCallback`.
        clock: function that gives seconds.

    Example:

    ```python
    model.fit(dataset, callbacks=[Throughput(batch_size=512), ProgressBar(total=10_000)])
    ```
    """

    def __init__(
        self,
        batch_size: int,
        *,
        flop_per_step: float | None = None,
        window: int = 50,
        initial_step: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        super().__init__(initial_step=initial_step)
        self.batch_size = checks.integer("batch_size", batch_size, minimum=1)
        if flop_per_step is not None:
            checks.real("flop_per_step", flop_per_step, minimum=0.0)
        self.flop_per_step = flop_per_step
        self._clock = clock
        window = checks.integer("window", window, minimum=1)
        self._ends: collections.deque[tuple[float, int]] = collections.deque(maxlen=window + 1)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        # Validation and checkpoints between epochs are not training.
        self._ends.clear()

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        self._ends.append((self._clock(), self.step))
        (first_time, first_step), (last_time, last_step) = self._ends[0], self._ends[-1]
        if last_time > first_time:
            steps_per_second = (last_step - first_step) / (last_time - first_time)
            logs["images_per_second"] = steps_per_second * self.batch_size
            if self.flop_per_step is not None:
                logs["tflops"] = steps_per_second * self.flop_per_step / 1e12

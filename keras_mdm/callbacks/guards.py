"""What ends a run early: steps that stay broken, and a request from outside."""

import shlex
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from keras_mdm import checks
from keras_mdm.callbacks.steps import StepCallback


class NonFiniteGuard(StepCallback):
    """Ends a run when too many steps in a row were skipped because they were not finite.

    Skipped steps change nothing, so the weights and the last checkpoint are those before.

    Args:
        limit: skipped steps in a row that end the run.
        initial_step: as in `StepCallback`.

    Raises:
        RuntimeError: while training, once the limit is reached.

    Example:

    >>> model.fit(dataset, callbacks=[NonFiniteGuard(limit=20)])
    """

    def __init__(self, limit: int = 10, *, initial_step: int = 0):
        super().__init__(initial_step=initial_step)
        self.limit = checks.integer("limit", limit, minimum=1)

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        skipped = int(logs.get("skipped_in_a_row", 0))
        if skipped >= self.limit:
            raise RuntimeError(
                f"The loss or its gradient was not finite in {skipped} steps in a row, up to step "
                f"{self.step}; the weights and the last checkpoint are those before. To go on: "
                "lower the learning rate, clip harder, or look for broken data."
            )


class StopOnSignal(StepCallback):
    """On SIGTERM ends the run after the step at hand: a checkpoint, exit code 0, how to go on.

    Of several workers each may get the signal; they tell each other with the values of the next
    step and end together after it.

    Args:
        write: function (step) that writes a checkpoint; called on every worker.
        signals: numbers of the signals.
        initial_step: as in `StepCallback`.

    Raises:
        SystemExit: while training, with code 0, after a signal.
    """

    def __init__(
        self,
        write: Callable[[int], Any],
        *,
        signals: tuple[int, ...] = (signal.SIGTERM,),
        initial_step: int = 0,
    ):
        super().__init__(initial_step=initial_step)
        self._write, self._signals = write, signals
        self._before: dict[int, Any] = {}
        self._caught: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            for number in self._signals:
                self._before[number] = signal.signal(number, self._catch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.restore()

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _catch(self, number: int, frame: Any) -> None:
        # Only noted: a handler may run in the middle of anything.
        self._caught = number

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._caught is not None and self._together:
            self.model.stop_request.assign(1.0)

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        stop = logs["stop_request"] > 0.0 if self._together else self._caught is not None
        if not stop:
            return
        self._write(self.step)
        self.restore()
        name = "a signal" if self._caught is None else signal.Signals(self._caught).name
        words = [word for word in sys.argv if word != "--fresh"]
        print(
            f"\nStopped by {name}; a checkpoint is written. To go on: "
            f"{shlex.join([sys.executable, *words])}",
            flush=True,
        )
        raise SystemExit(0)

    @property
    def _together(self) -> bool:
        """Whether the values of a step say what other workers want."""
        return getattr(self.model, "stop_request", None) is not None

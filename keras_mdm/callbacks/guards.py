"""What ends a run early: steps that stay non-finite, and a request from outside."""

from collections.abc import Callable
from typing import Any

from keras_mdm import checks
from keras_mdm.callbacks.signals import OrderlyStop
from keras_mdm.callbacks.steps import StepCallback


class NonFiniteGuard(StepCallback):
    """Ends a run when too many steps in a row were skipped because they were not finite.

    Skipped steps change nothing, so the weights and the last checkpoint are from before them.

    Args:
        limit: number of skipped steps in a row that ends the run.
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
                f"The loss or its gradient was not finite for {skipped} steps in a row, up to "
                f"step {self.step}; the weights and the last checkpoint are from before them. "
                "To continue, lower the learning rate, clip harder, or look for broken data."
            )


class StopOnSignal(StepCallback):
    """On SIGTERM and SIGINT ends the run after the current step: writes a checkpoint, prints how to
    continue, exits with code 0.

    Each of several workers may get the signal; they tell each other with the values of the next
    step and end together after it. See `OrderlyStop` for input that stalls and steps that hang.

    Put it first in the list of callbacks: it then knows when a step is over while others still draw
    or write, and waits for them before it ends the run. Between two steps they must leave the
    weights as they are.

    Args:
        write: function (step) that writes a checkpoint; called on every worker.
        rescue: the same for a training that waits for something other than a step: called in
            another thread, and must not wait for other workers; `write` unless given.
        newest: function () -> the newest checkpoint, for the message when none can be written.
        stop: the `OrderlyStop` of the whole run; one for the training unless given.
        initial_step: as in `StepCallback`.

    Raises:
        SystemExit: while training, with code 0, after a signal.
    """

    def __init__(
        self,
        write: Callable[[int], Any],
        *,
        rescue: Callable[[int], Any] | None = None,
        newest: Callable[[], Any] | None = None,
        stop: OrderlyStop | None = None,
        initial_step: int = 0,
    ):
        super().__init__(initial_step=initial_step)
        self._write, self._rescue, self._newest = write, rescue or write, newest
        self._stop, self._shared = stop or OrderlyStop(), stop is not None
        self._saved = self.step
        self._in_step = self._agreed = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not self._shared:
            self._stop.arm()
        self._stop.attach(self)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._asked:
            self._end()
        self.restore()

    def restore(self) -> None:
        """Restore the earlier signal handlers; those of a whole run stay."""
        self._stop.attach(None)
        if not self._shared:
            self._stop.disarm()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._asked:
            self._end()
        if self._stop.caught is not None and self._together:
            self.model.stop_request.assign(1.0)
        self._in_step = True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._in_step = False

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        self._agreed = self._together and logs["stop_request"] > 0.0

    def _end(self) -> None:
        how = "there was nothing new to save"
        if self.unsaved:
            how = "a checkpoint is written"
            with self._stop.writing():
                self._write(self.step)
        self.restore()
        raise self._stop.ended(how)

    @property
    def _asked(self) -> bool:
        """Whether to end here; several workers decide at the same step."""
        return self._agreed if self._together else self._stop.caught is not None

    @property
    def _together(self) -> bool:
        """Whether the values of a step tell what other workers want."""
        return getattr(self.model, "stop_request", None) is not None

    # `OrderlyStop` asks for these from its own thread.

    @property
    def unsaved(self) -> bool:
        """Whether steps were made here that no checkpoint may hold yet."""
        return self.step != self._saved

    @property
    def between_steps(self) -> bool:
        """Whether the state is that of the last step: callbacks run, or a batch is awaited."""
        return not self._in_step or getattr(self.model, "fetching", False)

    def rescue(self) -> None:
        """Write a checkpoint of the last step."""
        self._rescue(self.step)

    def newest(self) -> Any:
        """The newest checkpoint."""
        return self._newest() if self._newest is not None else None

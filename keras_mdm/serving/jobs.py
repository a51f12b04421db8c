"""A job: one picture that a client waits for, seen from several threads."""

import dataclasses
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

WAITING, DRAWING = "waiting", "drawing"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Preview:
    """What a picture looks like after some of its steps.

    Args:
        done: steps taken.
        steps: of all.
        level: name of the level that is shown.
        picture: uint8 `([T,] H, W, C)`.
    """

    done: int
    steps: int
    level: str
    picture: np.ndarray


class Job:
    """One order and what has become of it.

    Args:
        order: what a painter draws.
        seconds: a clock.
    """

    def __init__(self, order: Any, *, seconds: Callable[[], float] = time.monotonic):
        self.id = secrets.token_hex(8)
        self.number = next(_numbers)
        self.order = order
        self.state = WAITING
        self.preview: Preview | None = None
        self.pictures: dict[str, np.ndarray] = {}
        self.notes: tuple[str, ...] = ()
        self.status, self.problem = 200, ""
        self.retry_after: float | None = None
        self.begun: float | None = None
        self.ended: float | None = None
        self._seconds = seconds
        self.made = self.asked = seconds()
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in OVER

    def touch(self) -> None:
        """Somebody still wants it."""
        self.asked = self._seconds()

    def begin(self) -> bool:
        """It is drawn from now on; False if it was over before."""
        with self._lock:
            if self.over:
                return False
            self.state, self.begun = DRAWING, self._seconds()
            return True

    def show(self, done: int, steps: int, levels: Mapping[str, np.ndarray]) -> None:
        """Keep the preview of a step, of a low level first.

        Args:
            done: steps taken.
            steps: of all.
            levels: estimates by level name, ascending.
        """
        names = list(levels)
        level = names[min(len(names) - 1, len(names) * done // (steps + 1))]
        self.preview = Preview(done, steps, level, levels[level])

    def finish(self, pictures: Mapping[str, np.ndarray], notes: tuple[str, ...] = ()) -> None:
        """It is drawn."""
        self._end(DONE, pictures=dict(pictures), notes=notes)

    def fail(self, status: int, problem: str, retry_after: float | None = None) -> None:
        """It cannot be drawn.

        Args:
            status: of HTTP.
            problem: one sentence for the client.
            retry_after: seconds after which to try again, if that may help.
        """
        self._end(FAILED, status=status, problem=problem, retry_after=retry_after)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._end(CANCELLED, status=410, problem="the job was cancelled")

    def when_over(self, call: Callable[[], None]) -> None:
        """Call a function once it is over, at once if it is; from any thread."""
        with self._lock:
            if not self.over:
                self._calls.append(call)
                return
        call()

    def _end(self, state: str, **values: Any) -> None:
        with self._lock:
            if self.over:
                return
            vars(self).update(values, preview=None, ended=self._seconds())
            self.state = state
            calls, self._calls = self._calls, []
        for call in calls:
            call()

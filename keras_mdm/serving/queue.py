"""One queue and one sampling thread: requests that may share a batch are drawn together."""

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.serving.jobs import Job
from keras_mdm.serving.limits import Limits, Refused

_LOG = logging.getLogger(__name__)
# Share of the newest batch in the mean of the seconds that a picture takes.
_NEWEST = 0.3
# How often the thread looks for jobs that nobody asks for any more.
_LOOK = 1.0


class _Stopped(Exception):
    """Nobody wants the running batch any more."""


class SamplingQueue:
    """Draws the pictures of jobs, one batch at a time, in the order in which they came.

    A batch is the oldest job and those behind it with the same key. The thread is the only one that
    draws. A job that is cancelled leaves the queue, and a batch whose jobs are all cancelled ends
    after its step.

    Args:
        painter: draws; see `Painter`.
        limits: of the server.
        observe: called with the name of an event and a number: "waiting", "drawing",
            "seconds_waiting", "seconds_drawing", "batch", and "done", "failed", "cancelled",
            "refused".

    Example:

    >>> queue = SamplingQueue(painter, Limits())  # doctest: +SKIP
    >>> queue.start()  # doctest: +SKIP
    """

    def __init__(
        self,
        painter: Any,
        limits: Limits,
        observe: Callable[[str, float], None] = lambda name, value: None,
    ):
        self.painter, self.limits = painter, limits
        self.ready = False
        self.failure: Exception | None = None  # which ended the sampling
        self._observe = observe
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: list[Job] = []
        self._kept: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._picture = 1.0  # seconds that one picture takes in its batch
        self._thread = threading.Thread(target=self._work, name="sampling", daemon=True)

    def start(self, warm_up: str = "plain") -> None:
        """Start the sampling thread.

        Args:
            warm_up: which graphs to trace before the first request: "none", "plain" or "all".
        """
        self._warm_up = checks.one_of("warm_up", warm_up, ("none", "plain", "all"))
        self._thread.start()

    def submit(self, order: Any, *, keep: bool = False) -> Job:
        """Put an order behind the others.

        Args:
            order: from the painter.
            keep: whether the job can be found by its id, also after its end.

        Raises:
            Refused: if too many wait (429), or the server is stopping (503).
        """
        job = Job(order)
        with self._changed:
            if self._deadline is not None:
                raise Refused(503, _stopping(), 5.0)
            if len(self._waiting) >= self.limits.queue:
                self._observe("refused", 1)
                raise Refused(
                    429,
                    checks.error(
                        f"at most {self.limits.queue} requests may wait",
                        fix="send it again later",
                        waiting=len(self._waiting),
                    ),
                    max(1.0, self._picture * len(self._waiting)),
                )
            self._waiting.append(job)
            if keep:
                self._kept[job.id] = job
                self._forget()
            self._tell()
        job.when_over(lambda: self._observe(job.state, 1))
        return job

    def find(self, name: str) -> Job | None:
        """A kept job by its id."""
        with self._changed:
            return self._kept.get(name)

    def position(self, job: Job) -> int | None:
        """Number of jobs that are drawn before one that waits, `None` if it does not wait."""
        with self._changed:
            ahead = [each.number for each in self._waiting]
        return ahead.index(job.number) if job.number in ahead else None

    def cancel(self, job: Job) -> None:
        """Give a job up: its place in the queue is free at once, or after the running step."""
        job.cancel()
        with self._changed:
            self._drop_cancelled()
            self._tell()

    def counts(self) -> dict[str, int]:
        """How many jobs wait and how many are drawn."""
        with self._changed:
            running = sum(not job.over for job in self._running)
            return {"waiting": len(self._waiting), "drawing": running}

    def close(self) -> None:
        """Refuse what waits (503), and give the running batch the grace period to end.

        Safe in a signal handler's thread: it returns at once; `join` waits.
        """
        with self._changed:
            if self._deadline is None:
                self._deadline = time.monotonic() + self.limits.grace
            given_up, self._waiting = list(self._waiting), collections.deque()
            self._tell()
        for job in given_up:
            job.fail(503, _stopping(), 5.0)

    @property
    def state(self) -> str:
        """ "ok", "starting" until graphs are traced, or "stopping"."""
        if self._deadline is not None:
            return "stopping"
        return "ok" if self.ready else "starting"

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the sampling thread has ended; returns whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def wait_ready(self) -> bool:
        """Wait until graphs are traced, or the server stops; returns whether they are."""
        with self._changed:
            while not self.ready and self._deadline is None:
                self._changed.wait(_LOOK)
        return self.ready

    # The sampling thread

    def _work(self) -> None:
        try:
            with self.painter.at_work():
                self._prepare()
                while batch := self._next():
                    self._paint(batch)
                    with self._changed:
                        self._running = []
                        self._tell()
        except Exception as problem:  # else clients would wait for ever
            self.ready, self.failure = False, problem
            self.close()
            for job in self._running:
                job.fail(500, f"sampling ended: {type(problem).__name__}: {problem}")

    def _prepare(self) -> None:
        """Trace graphs with pictures that nobody sees."""
        for order in self.painter.rehearsal(self._warm_up):
            try:
                self.painter.paint([order], self._watch([]))
            except _Stopped:
                return
        self.ready = True

    def _next(self) -> list[Job]:
        """Wait for the next batch; empty when the server is stopping."""
        with self._changed:
            while self._deadline is None:
                self._give_up_abandoned()
                self._drop_cancelled()
                if not self._waiting:
                    self._changed.wait(_LOOK)
                    continue
                self._running = self._taken()
                self._tell()
                if self._running:  # none, if all were cancelled in this moment
                    return self._running
        return []

    def _taken(self) -> list[Job]:
        """The oldest job and those that may share its batch, out of the queue."""
        key = self.painter.key(self._waiting[0].order)
        batch = [job for job in self._waiting if self.painter.key(job.order) == key]
        batch = batch[: self.limits.batch]
        numbers = {job.number for job in batch}
        self._waiting = collections.deque(j for j in self._waiting if j.number not in numbers)
        return [job for job in batch if job.begin()]

    def _paint(self, batch: Sequence[Job]) -> None:
        batch = [job for job in batch if not job.over]
        if not batch:
            return
        began = time.monotonic()
        for job in batch:
            self._observe("seconds_waiting", began - job.made)
        try:
            drawn = self.painter.paint([job.order for job in batch], self._watch(batch))
        except _Stopped:
            for job in batch:
                job.fail(503, _stopping(), 5.0)  # those that were cancelled stay so
            return
        except Exception as problem:
            self._failed(batch, problem)
            return
        seconds = time.monotonic() - began
        self._observe("seconds_drawing", seconds)
        self._observe("batch", len(batch))
        self._picture += _NEWEST * (seconds / len(batch) - self._picture)
        for job, (pictures, notes) in zip(batch, drawn, strict=True):
            job.finish(pictures, notes)

    def _failed(self, batch: Sequence[Job], problem: Exception) -> None:
        """A batch could not be drawn: try one by one, so that no job fails for another."""
        if len(batch) > 1:
            for job in batch:
                self._paint([job])
            return
        if isinstance(problem, ValueError):
            batch[0].fail(422, str(problem))
            return
        _LOG.error("a picture could not be drawn", exc_info=problem)
        first = str(problem).strip().partition("\n")[0][:200]
        batch[0].fail(500, f"the picture could not be drawn: {type(problem).__name__}: {first}")

    def _watch(self, batch: Sequence[Job]) -> Callable[[int, int, Mapping[str, np.ndarray]], None]:
        """What a painter calls after every step, with the estimates of all rows."""

        def on_step(done: int, steps: int, levels: Mapping[str, np.ndarray]) -> None:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise _Stopped
            with self._changed:
                self._give_up_abandoned()
            if batch and all(job.over for job in batch):
                raise _Stopped
            for row, job in enumerate(batch):
                if not job.over:
                    job.show(done, steps, {level: rows[row] for level, rows in levels.items()})

        return on_step

    # With the lock held

    def _give_up_abandoned(self) -> None:
        """Cancel kept jobs that nobody has asked for lately."""
        oldest = time.monotonic() - self.limits.patience
        for job in self._kept.values():
            if not job.over and job.asked < oldest:
                job.cancel()

    def _drop_cancelled(self) -> None:
        self._waiting = collections.deque(job for job in self._waiting if not job.over)

    def _forget(self) -> None:
        """Forget the oldest finished jobs beyond the limit."""
        over = [name for name, job in self._kept.items() if job.over]
        for name in over[: max(0, len(over) - self.limits.kept)]:
            del self._kept[name]

    def _tell(self) -> None:
        self._observe("waiting", len(self._waiting))
        self._observe("drawing", sum(not job.over for job in self._running))
        self._changed.notify_all()


def _stopping() -> str:
    return "the server is stopping; send the request again when it is back"

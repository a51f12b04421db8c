"""Signals that ask a process to end: noted at once, and obeyed where nothing is lost.

Python runs its signal handlers in the main thread, between two instructions. While that thread is
inside TensorFlow, waiting for a batch that does not come, none runs. So a separate thread hears of
signals from the system, and ends the process when the main thread does not.
"""

import atexit
import contextlib
import os
import select
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from keras_mdm import checks
from keras_mdm.continuing import to_continue

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds after a signal. From the deadline on, a training that waits for something other than a
# step is ended from outside; at the limit everything is. Senders of signals often kill after 30.
DEADLINE, LIMIT = 15.0, 28.0
# Seconds for the main thread if there is nothing to save, or the keys were pressed twice.
_GRACE = 2.0
_POLL = 0.1

_armed: list["OrderlyStop"] = []


class Training(Protocol):
    """What `OrderlyStop` asks of the running training."""

    @property
    def unsaved(self) -> bool:
        """Whether steps were made that no checkpoint holds."""

    @property
    def between_steps(self) -> bool:
        """Whether the state is that of the last step, and stays so while the main thread waits."""

    def rescue(self) -> None:
        """Write a checkpoint, from another thread and without other workers."""

    def newest(self) -> Any:
        """The newest checkpoint."""


class OrderlyStop:
    """Ends a process on SIGTERM and SIGINT so that nothing is lost; one object for a whole run.

    While armed, it only notes signals. `check` and `StopOnSignal` then end the process, at places
    where everything is on disk, with code 0 and the command to continue. If the main thread reaches
    no such place, because the input stalls or a picture takes long to draw, another thread writes
    the checkpoint after `deadline` seconds and ends the process, also with code 0. If a step or a
    file is not finished within `limit` seconds, the process ends as the signal would have ended it,
    with code 128 + its number, and names the newest checkpoint. A second SIGINT ends it at once.

    Signals that the process ignores, such as SIGINT in the background of a shell, stay ignored.
    Outside the main thread, where Python does not allow signal handlers, this class does nothing.

    Args:
        signals: their numbers.
        deadline: seconds.
        limit: seconds.
        agree: for several workers: function (whether a signal came here) -> whether one came to any
            of them. All must call `check` at the same places.

    Example:

    ```python
    with OrderlyStop() as stop:
        model = build()
        stop.check()
        model.fit(dataset, callbacks=[StopOnSignal(write_checkpoint, stop=stop)])
        with stop.writing():
            model.save("model.keras")
        stop.check()
    ```
    """

    def __init__(
        self,
        *,
        signals: Sequence[int] = SIGNALS,
        deadline: float = DEADLINE,
        limit: float = LIMIT,
        agree: Callable[[bool], bool] | None = None,
    ):
        self._numbers = tuple(signals)
        self.deadline = checks.real("deadline", deadline, minimum=0.0)
        self.limit = checks.real("limit", limit, minimum=self.deadline)
        self._agree = agree
        self.caught: int | None = None
        self._training: Training | None = None
        self._writing = 0
        self._handled = False
        self._hold = self._interrupted = False
        # Used by the thread alone: when it heard of the first signal and of a further SIGINT, how
        # many of the signals it sent itself, and whether it writes a checkpoint.
        self._since = self._again = 0.0
        self._own, self._rescuing = 0, False
        self._before: dict[int, Any] = {}
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "OrderlyStop":
        self.arm()
        return self

    def __exit__(self, *problem: Any) -> None:
        self.disarm()

    def arm(self) -> None:
        """Take over the signals, unless already done."""
        if self._sockets is not None or threading.current_thread() is not threading.main_thread():
            return
        self._sockets = socket.socketpair()
        for end in self._sockets:
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._sockets[1].fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._catch)
        _armed.append(self)
        self._thread = threading.Thread(target=self._watch, args=self._sockets[:1], daemon=True)
        self._thread.start()

    def disarm(self) -> None:
        """Restore the earlier signal handlers."""
        if self._sockets is None:
            return
        self._give_back()
        self._sockets[1].send(b"\0")
        self._thread.join()
        for end in self._sockets:
            end.close()
        self._sockets = None

    def _give_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
        signal.set_wakeup_fd(self._wakeup)
        _armed.remove(self)

    def attach(self, training: Training | None) -> None:
        """Say which training runs now; `None` for none, with all results on disk."""
        self._training = training

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Let the body of the `with` statement finish writing something, up to the limit."""
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1

    def check(self) -> None:
        """End the process if a signal came; everything worth keeping must be on disk.

        Raises:
            SystemExit: with code 0, after a signal.
        """
        came = self.caught is not None
        if came if self._agree is None else self._agree(came):
            raise self.ended("all results are on disk")

    def ended(self, how: str) -> SystemExit:
        """Say how a signal ended the process; return the exception to raise."""
        print(f"\n{self._words(how)}", flush=True)
        if self._since:
            atexit.register(_leave_at, self._since + self.limit)
        return SystemExit(0)

    def _words(self, how: str) -> str:
        name = "a signal" if self.caught is None else signal.Signals(self.caught).name
        words = [sys.executable, *to_continue(sys.argv)]
        return f"Stopped by {name}; {how}. To continue: {shlex.join(words)}"

    def _catch(self, number: int, frame: Any) -> None:
        """The handler in the main thread. It may interrupt anything, so it only notes."""
        if self._hold:
            # The other thread reads the weights; no step may change them.
            while self._hold:
                time.sleep(_POLL)
        elif number == signal.SIGINT and self._handled:
            self._interrupted = True
            raise KeyboardInterrupt
        self.caught = self.caught or number
        self._handled = True

    def _watch(self, ear: socket.socket) -> None:
        """Hear signals as they come, and end the process if the main thread does not."""
        while True:
            # Without a signal there is nothing to do but wait for one.
            for number in self._hear(ear, _POLL if self._since else None):
                if not number:
                    return
                self._note(number)
            if not self._since or self._interrupted:
                continue
            now = time.monotonic()
            if self._again and now > self._again + _GRACE:
                self._leave(128 + signal.SIGINT, "nothing was written")
            if now > self._since + self.limit:
                self._leave(128 + self.caught, self._unfinished())
            self._help(ear, now - self._since)

    def _hear(self, ear: socket.socket, timeout: float | None) -> bytes:
        select.select([ear], [], [], timeout)
        try:
            return ear.recv(64)
        except BlockingIOError:
            return b""

    def _note(self, number: int) -> None:
        if number not in self._before:
            if self._wakeup >= 0:  # another listener's descriptor
                with contextlib.suppress(OSError):
                    os.write(self._wakeup, bytes([number]))
        elif self._own:
            self._own -= 1
        elif not self._since:
            self._since, self.caught = time.monotonic(), self.caught or number
            if number == signal.SIGINT:
                _say(2, "SIGINT: ending where nothing is lost; a second one ends at once.")
        elif number == signal.SIGINT:
            self._again = self._again or time.monotonic()

    def _help(self, ear: socket.socket, waited: float) -> None:
        training = self._training
        if self._writing or self._rescuing:
            return
        if training is None or not training.unsaved:
            # Several workers end together after the next step, if they reach it.
            alone = self._agree is None
            if waited > (min(_GRACE, self.deadline) if alone else self.deadline):
                self._leave(0, "there was nothing new to save")
        elif waited > self.deadline and training.between_steps and self._stopped(ear):
            self._rescuing = True
            threading.Thread(target=self._rescue, args=(training,), daemon=True).start()

    def _stopped(self, ear: socket.socket) -> bool:
        """Hold the main thread where it is; return whether that is between two steps.

        When the main thread returns from its wait, it runs the handler before anything else.
        """
        self._hold, self._own = True, self._own + 1
        signal.pthread_kill(threading.main_thread().ident, self.caught)
        until = time.monotonic() + _GRACE
        while self._own and time.monotonic() < until:
            for number in self._hear(ear, _POLL):
                self._note(number)
        training = self._training
        if not self._own and training is not None and training.between_steps and not self._writing:
            return True
        self._hold = False
        return False

    def _rescue(self, training: Training) -> None:
        try:
            training.rescue()
        except BaseException as problem:
            self._leave(
                128 + self.caught, f"a checkpoint could not be written: {problem}", training
            )
        self._leave(0, "a checkpoint is written")

    def _unfinished(self) -> str:
        what = "a file" if self._writing or self._rescuing else "the current step"
        return f"{what} was not finished after {self.limit:g} s"

    def _leave(self, code: int, how: str, training: Training | None = None) -> None:
        """End the process from here; the main thread may hold the locks of all files."""
        training, newest = training or self._training, []

        def ask() -> None:
            if code and training is not None:
                newest.append(training.newest())

        # Each may take long, or never return.
        helpers = [
            threading.Thread(target=_try, args=(what,), daemon=True)
            for what in (ask, sys.stdout.flush, sys.stderr.flush)
        ]
        for helper in helpers:
            helper.start()
        until = time.monotonic() + 1.0
        for helper in helpers:
            helper.join(timeout=max(0.0, until - time.monotonic()))
        if any(newest):
            how += f"; the newest checkpoint is {newest[0]}"
        _say(1, self._words(how))
        os._exit(code)


def _try(function: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        function()


def _say(descriptor: int, text: str) -> None:
    """Print from a thread that must not wait for a lock or a reader."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [descriptor], [], 0.0)[1]:
            os.write(descriptor, f"\n{text}\n".encode())


def _leave_at(deadline: float) -> None:
    """Make sure that a process which ends in order does end, since the input may prevent it."""
    left = deadline - time.monotonic()
    if left > 0.0:  # else the deadline passed long ago
        timer = threading.Timer(left, os._exit, (0,))
        timer.daemon = True
        timer.start()


def _forget_in_child() -> None:
    """Disarm in a forked process, which would tell its parent of its signals and obey none."""
    for stop in reversed(_armed[:]):
        with contextlib.suppress(ValueError, OSError):
            stop._give_back()
        stop._sockets = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

"""The output of `keras-mdm launch`'s workers, line by line, each with the worker's number."""

import codecs
import collections
import contextlib
import io
import os
import select
import sys
import threading
from collections.abc import Sequence

# As much as a pipe holds: one read takes everything in it.
_PIECE = 1 << 16
# The most that a pipe can be set to hold, and so the most that a worker can have left in it.
_LEFT = 1 << 20
# A longer line is printed in parts, or a flood without an end of line would be kept in memory.
_LONGEST = 1 << 16
_PAUSE = 0.1


class Relay(threading.Thread):
    """Prints the contents of pipes and the launcher's own lines, in one thread.

    One write prints all complete lines of a piece. With a thread per worker and a `print` per line,
    the lock of `sys.stdout` was nearly always taken: the launcher, which prints too, had to wait
    for it before it could end a worker, and for ever if nobody read. So this thread writes to the
    descriptor, which holds no lock of Python's while waiting for a reader, and the launcher only
    leaves it notes.

    Args:
        pipes: descriptors to read from, one per worker; closed at the end.
    """

    def __init__(self, pipes: Sequence[int]):
        super().__init__(daemon=True)
        self._workers = {pipe: _Lines(f"[{index}] ") for index, pipe in enumerate(pipes)}
        self._notes: collections.deque[str] = collections.deque()
        self._finishing = threading.Event()
        with contextlib.suppress(OSError, ValueError):  # earlier output comes first
            sys.stdout.flush()

    def say(self, note: str) -> None:
        """Print a line of the launcher's own soon, without waiting."""
        self._notes.append(f"{note}\n")

    def finish(self) -> None:
        """Have the thread end after the current contents of the pipes.

        Their end may never come: processes that a worker left behind hold them open, and may print.
        """
        self._finishing.set()

    def run(self) -> None:
        """Forward until all pipes have ended, or `finish`; keep reading even if nobody listens."""
        opened = dict.fromkeys(self._workers, _LEFT)
        try:
            while True:
                finishing = self._finishing.is_set()  # read first: nothing may come in between
                ready = select.select(list(opened), [], [], 0.0 if finishing else _PAUSE)[0]
                for pipe in ready:
                    piece = os.read(pipe, _PIECE)
                    self._print(self._workers[pipe].add(piece))
                    opened[pipe] -= len(piece) if finishing else 0
                    if not piece or opened[pipe] <= 0:
                        del opened[pipe]
                self._print_notes()
                if finishing and not (ready and opened):
                    break
            for lines in self._workers.values():
                self._print(lines.rest())
            self._print_notes()
        finally:
            for pipe in self._workers:
                os.close(pipe)

    def _print_notes(self) -> None:
        while self._notes:
            self._print(self._notes.popleft())

    def _print(self, text: str) -> None:
        if not text:
            return
        try:
            written = sys.stdout.fileno()
        except (AttributeError, OSError, ValueError):  # a notebook, or a test that captures it
            print(text, end="", flush=True)
            return
        data = text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
        with contextlib.suppress(OSError):  # the terminal may be closed, or a disk full for a while
            while data:
                try:
                    data = data[os.write(written, data) :]
                except BlockingIOError:  # set so by another process that shares the terminal
                    select.select([], [written], [])


class _Lines:
    """Cuts a worker's output into lines at any kind of line end, including progress bars."""

    def __init__(self, prefix: str):
        self._prefix, self._open = prefix, ""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)

    def add(self, piece: bytes) -> str:
        """The lines that a piece completes, with the prefix."""
        *lines, self._open = (self._open + self._decoder.decode(piece)).split("\n")
        if len(self._open) >= _LONGEST:
            lines.append(self._open)
            self._open = ""
        return "".join(f"{self._prefix}{line}\n" for line in lines)

    def rest(self) -> str:
        """The last line, if it has no end."""
        rest = self._open + self._decoder.decode(b"", final=True)
        self._open = ""
        return f"{self._prefix}{rest.removesuffix(chr(10))}\n" if rest else ""

"""Ends the workers of `keras-mdm launch` when it is gone, even by SIGKILL.

It is run by its path as a process of its own, so that it starts at once and without TensorFlow.
Lines on its standard input say which workers have started, `+PID`, and which have ended, `-PID`;
the input ends with the launcher.
"""

import contextlib
import os
import select
import signal
import sys
import time


def main(patience: str, *outputs: str) -> None:
    """Wait for the launcher to go; then have its workers end.

    Args:
        patience: seconds that they get.
        *outputs: descriptors of the pipes that they print to. A worker that still prints needs a
            reader, or it would fail before writing its checkpoint.
    """
    workers: set[int] = set()
    for line in sys.stdin:
        (workers.add if line[0] == "+" else workers.discard)(int(line[1:]))
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
    open_pipes, until = {int(output) for output in outputs}, time.monotonic() + float(patience)
    while any(map(_lives, workers)) and time.monotonic() < until:
        for pipe in select.select(list(open_pipes), [], [], 0.1)[0]:
            if not os.read(pipe, 1 << 16):
                open_pipes.discard(pipe)
        if not open_pipes:
            time.sleep(0.1)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker, signal.SIGKILL)


def _lives(worker: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, 0)
        return True
    return False


if __name__ == "__main__":
    main(*sys.argv[1:])

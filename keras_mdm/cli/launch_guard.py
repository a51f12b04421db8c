"""Ends the workers of `keras-mdm launch` when it is gone, be it by SIGKILL.

Run by its path as a process of its own, so that it starts at once and holds nothing of TensorFlow.
Lines on its standard input say which workers there are, `+PID`, and which have ended, `-PID`; the
end of the input is that of the launcher.
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
        *outputs: descriptors of the pipes that they print to. Who still prints must find a reader,
            or would fail before it has written its checkpoint.
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

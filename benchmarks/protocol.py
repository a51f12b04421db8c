"""How `step.py` talks to the process of one contender: lines of JSON. Imports no framework."""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Step = Callable[[], object]
# The processor's time says what a step costs where other programs take a core's turns; divided by
# the cores, it is the wall's on an idle machine as long as all cores work.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def serve(prepare: Callable[[dict[str, Any]], tuple[Step, Step]]) -> None:
    """Prepare the case on stdin's first line, then measure as often as each further line says.

    Args:
        prepare: function (case) -> (a step, a large matrix product), each of which waits for its
            result. The step may have attributes: `device`, the name of an accelerator, `memory`, a
            function () -> the most bytes that it held, and `gflop`, the arithmetic of a pass for
            one picture where it is another one than ours.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no reply
    case = json.loads(sys.stdin.readline())
    clock = CLOCKS[case["clock"]]

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    began = clock()
    step, product = prepare(case)
    built = clock() - began
    first = seconds(step, clock)  # traces or compiles
    step()  # the first run after that still allocates
    product()
    device = getattr(step, "device", "CPU")
    gflop = getattr(step, "gflop", None)
    reply({"build_seconds": built, "first_seconds": first, "device": device, "gflop": gflop})
    for line in sys.stdin:
        found: dict[str, Any] = {"step": [], "product": []}
        for _ in range(int(line)):
            found["step"].append(seconds(step, clock))
            found["product"].append(seconds(product, clock))
        found["peak_gib"] = getattr(step, "memory", resident)() / 2**30
        reply(found)


def resident() -> int:
    """The most bytes that this process held; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds(function: Step, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of a call that waits for its result."""
    start = clock()
    function()
    return clock() - start


def cores() -> int:
    """Cores that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""The processes that `step.py` measures in turn: ours, and the same work in other libraries."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpu_peaks import peak_gflops

FOLDER = Path(__file__).parent
# Name, worker, and what it is told besides the case.
OURS = "ours"
EAGER = ("eager", "torch_worker.py", {"compile": False})
COMPILED = ("compile", "torch_worker.py", {"compile": True})
DIFFUSERS = ("diffusers", "diffusers_worker.py", {"compile": False})
PEERS = {"torch": (EAGER, COMPILED), "torch-eager": (EAGER,), "diffusers": (DIFFUSERS,)}


@dataclasses.dataclass
class Contender:
    """A process that takes steps of one case when asked; it waits in between.

    Args:
        name: what the table calls it.
        python: interpreter.
        worker: script.
        case: what it is told.
        package: folder to import `keras_mdm` from; the usual one unless given.
    """

    name: str
    python: str
    worker: Path
    case: dict[str, Any]
    package: Path | None = None

    def __post_init__(self) -> None:
        self.found: dict[str, Any] = {"step": [], "product": []}
        self.process: subprocess.Popen | None = None
        self.messages = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would fill up

    def start(self) -> None:
        """Build, trace or compile, and take two steps; does nothing if it runs."""
        if self.process is not None:
            return
        self.process = subprocess.Popen(
            [self.python, self.worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            env=self._environment(),
            text=True,
        )
        self.found |= self._ask(json.dumps(self.case))

    def _environment(self) -> dict[str, str]:
        found = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        if self.package is not None:
            before = found.get("PYTHONPATH")
            found["PYTHONPATH"] = os.pathsep.join(
                [str(self.package), *([before] if before else [])]
            )
        return found

    def measure(self, repeats: int) -> None:
        """Take some steps, each followed by a matrix product."""
        self.start()
        reply = self._ask(str(repeats))
        for key in ("step", "product"):
            self.found[key] += reply[key]
        self.found["peak_gib"] = max(reply["peak_gib"], self.found.get("peak_gib", 0.0))

    def stop(self) -> None:
        if self.process is not None:
            self.process.communicate()  # its input ends, and so does it
            self.process = None

    def _ask(self, line: str) -> dict[str, Any]:
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError(f"{self.name} was not started")
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            process.wait()
            self.messages.seek(0)
            raise SystemExit(f"{self.name} failed with {self.case}:\n{self.messages.read()}")
        return json.loads(answer)

    def result(self, gflop: float, passes: int = 1) -> dict[str, Any]:
        """Medians of all rounds.

        Args:
            gflop: arithmetic of a pass per picture, unless the contender states its own.
            passes: how many passes' arithmetic a step has.
        """
        gflop = passes * (self.found["gflop"] or gflop)
        per_image = statistics.median(self.found["step"]) / self.case["batch"]
        product = statistics.median(self.found["product"])
        available = 2e-9 * self.case["matmul_size"] ** 3 / product
        kept = ("model", "mode", "dtype", "batch", "width", "recompute", "jit_compile")
        peak = peak_gflops(self.found["device"], self.case["dtype"])
        return {
            "contender": self.name,
            "device": self.found["device"],
            "of_peak": peak and gflop / per_image / peak,
            **{key: self.case[key] for key in kept},
            "gflop_per_image": gflop,
            "seconds_per_image": per_image,
            "gflops": gflop / per_image,
            "matmul_gflops": available,
            "ratio": gflop / per_image / available,
            "peak_memory_gib": self.found["peak_gib"],
            "build_seconds": self.found["build_seconds"],
            "first_seconds": self.found["first_seconds"],
            "step_seconds": self.found["step"],
            "matmul_seconds": self.found["product"],
        }


def contenders(
    case: dict[str, Any], peers: list[str], python: str, before: Path | None = None
) -> list[Contender]:
    """Ours first, then ours of an earlier version, then the peers.

    Args:
        case: what all are told.
        peers: words of `--peer`.
        python: the peers' interpreter.
        before: a checkout of an earlier version, if any.
    """
    worker = FOLDER / "step_worker.py"
    found = [Contender(OURS, sys.executable, worker, case)]
    if before is not None:
        found.append(Contender("before", sys.executable, worker, case, before.resolve()))
    for peer in peers:
        for name, worker, options in PEERS[peer]:
            path = FOLDER / "peers" / worker
            found.append(Contender(name, python, path, {**case, **options}))
    return found


def race(entered: list[Contender], *, rounds: int, repeats: int, apart: bool) -> None:
    """Measure the contenders in turn.

    Args:
        entered: the contenders.
        rounds: how often each has its turn.
        repeats: steps per turn.
        apart: end each process before the next one starts, where memory holds only one.
    """
    try:
        for _ in range(rounds):
            for each in entered:
                each.measure(repeats)
                if apart:
                    each.stop()
    finally:
        for each in entered:
            each.stop()

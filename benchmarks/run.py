"""The table of `docs/performance.md`: ours beside PyTorch, sampling and training, two networks.

    python benchmarks/run.py --quick                 # about ten minutes on two cores
    python benchmarks/run.py                         # several turns: an hour

Full size, as `step.py --peer torch`, with PyTorch eager and compiled if it is installed (also for
--peer-python); without it, ours alone. The quick run takes one turn of each contender, and compiles
only where that takes least: sampling of the 64 network.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

STEP = Path(__file__).parent / "step.py"
# Models, modes, and whether PyTorch is compiled in a quick run.
ROWS = (
    (["released_64"], ["sample"], True),
    (["released_64"], ["train"], False),
    (["released_256"], ["sample"], False),
    (["released_256"], ["train"], False),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one turn, fewer compilations")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels")
    parser.add_argument("--out", type=Path, default=STEP.parent / "results")
    args = parser.parse_args()
    peers = has_torch(args.peer_python)
    if not peers:
        print(f"{args.peer_python} has no torch: ours alone", flush=True)
    began = time.monotonic()
    for models, modes, compiled in ROWS:
        turns = ["--rounds", "1", "--repeats", "2"] if args.quick else ["--rounds", "3"]
        peer = [] if not peers else ["torch" if compiled or not args.quick else "torch-eager"]
        name = f"run-{models[0]}-{modes[0]}{'-quick' if args.quick else ''}.json"
        command = [sys.executable, STEP, "--models", *models, "--modes", *modes, *turns]
        command += ["--width", str(args.width), "--out", args.out / name]
        command += ["--peer", *peer, "--peer-python", args.peer_python] if peer else []
        done = subprocess.run(command)
        if done.returncode:
            return done.returncode
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def has_torch(python: str) -> bool:
    """Whether an interpreter can import PyTorch."""
    return not subprocess.run([python, "-c", "import torch"], capture_output=True).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Time of a sampling step and of a training step, against the machine's matrix product and peers.

    python benchmarks/step.py                        # the released 64 and 256 networks, full size
    python benchmarks/step.py --peer torch           # the same networks in PyTorch beside ours
    python benchmarks/step.py --before ../earlier    # and our own package of another checkout
    python benchmarks/step.py --width 0.25 --repeats 3
    python benchmarks/step.py --models released_64 --modes sample --dtypes mixed_bfloat16

Every contender runs in a process of its own, so that its peak memory is its own (on a GPU, the
device's), and they take turns. Every step is followed by a large matrix product in the same dtype
and library. Other load slows all of them, so ratios stay the same where seconds do not. `of peak`
is the share of what a GPU's maker states, TF32 for float32. `times ours` is the contender's time
for the same arithmetic over ours. Prints a table and writes JSON.

Peers are optional (`pip install torch`), and may live in another environment, see --peer-python.
`torch` is eager and compiled, `torch-eager` leaves the minutes of compilation out; `diffusers` is a
UNet of that package (`pip install diffusers`) beside released_64, with arithmetic of its own.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import contenders
import protocol

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TEXT_TOKENS, TEXT_WIDTH = 32, 2048
MATMUL_SIZE, GPU_MATMUL_SIZE = 3072, 8192
# Forward, gradient of the inputs, gradient of the weights: one product each per layer.
WORK = {"sample": 1, "train": 3}
BATCH = {("sample", "released_64"): 4, ("train", "released_64"): 2}  # 1 for all others
DTYPES = ("float32", "mixed_bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["released_64", "released_256"])
    parser.add_argument("--modes", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels")
    parser.add_argument("--batch", type=int, help="batch size of every case")
    parser.add_argument("--repeats", type=int, default=3, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=2, help="turns of every contender")
    parser.add_argument(
        "--recompute", nargs="*", default=[], help="levels whose activations are recomputed"
    )
    parser.add_argument(
        "--clock",
        choices=list(protocol.CLOCKS),
        default="wall",
        help="processor: on a busy machine, with one core (taskset)",
    )
    parser.add_argument("--jit-compile", action="store_true", help="compile ours with XLA")
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="also time the package of this folder"
    )
    parser.add_argument("--peer", nargs="*", default=[], choices=list(contenders.PEERS))
    parser.add_argument(
        "--peer-python", default=sys.executable, help="interpreter that has the peers' packages"
    )
    parser.add_argument(
        "--layout",
        choices=("contiguous_format", "channels_last"),
        default="channels_last",
        help="memory format of the peer's pictures",
    )
    parser.add_argument(
        "--together", action="store_true", help="keep all processes of a training case alive"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default: in benchmarks/results/")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    matmul_size = GPU_MATMUL_SIZE if has_gpu() else MATMUL_SIZE
    print(HEADER)
    for model in args.models:
        described = facts(model, args.width, peers=bool(args.peer))
        for mode in args.modes:
            for dtype in args.dtypes:
                case = {
                    "model": model,
                    "mode": mode,
                    "dtype": dtype,
                    "batch": args.batch or BATCH.get((mode, model), 1),
                    "width": args.width,
                    "recompute": args.recompute,
                    "jit_compile": args.jit_compile,
                    "layout": args.layout,
                    "clock": args.clock,
                    "matmul_size": matmul_size,
                    "text_tokens": TEXT_TOKENS,
                    "text_width": TEXT_WIDTH,
                    **described,
                }
                entered = contenders.contenders(case, args.peer, args.peer_python, args.before)
                apart = mode == "train" and not args.together
                contenders.race(entered, rounds=args.rounds, repeats=args.repeats, apart=apart)
                found = [each.result(described["gflop"], WORK[mode]) for each in entered]
                results += found
                print("\n".join(row(each, found[0]) for each in found), flush=True)
    out = args.out or default_file(args)
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "matmul_size": matmul_size, "cases": results}
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {out}")


def has_gpu() -> bool:
    """Whether our contender runs on a GPU."""
    import keras_mdm  # noqa: F401 - before TensorFlow, whose start-up lines it keeps away

    # isort: split
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def facts(model: str, width: float, *, peers: bool) -> dict[str, Any]:
    """What a contender must know of a network: arithmetic, sizes, the peers' configuration."""
    from keras_mdm.costs.describe import describe
    from keras_mdm.costs.unallocated import unallocated
    from keras_mdm.models import presets

    gflop = describe(model, text_tokens=TEXT_TOKENS, width=width)["gflop"]
    if not peers:
        return {"gflop": gflop}
    from peers.configuration import official

    with unallocated():
        spec = presets.build(model, width=width).spec
    sizes = [level.size for level in spec.levels]
    return {"gflop": gflop, "sizes": sizes, "config": official(spec)}


def default_file(args: argparse.Namespace) -> Path:
    words = ["step", *args.models, f"width-{args.width:g}"]
    words += [f"recompute-{'-'.join(args.recompute)}"] if args.recompute else []
    words += ["xla"] if args.jit_compile else []
    words += args.peer
    return Path(__file__).parent / "results" / f"{'-'.join(words)}.json"


def machine() -> dict[str, object]:
    """The machine on which the numbers were measured."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), cpu)
    packages = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    return {"cpu": cpu, "cores": protocol.cores(), "python": platform.python_version(), **packages}


COLUMNS: Sequence[tuple[str, str, str]] = (
    ("model", "<14", "{model}"),
    ("mode", "<8", "{mode}"),
    ("dtype", "<16", "{dtype}"),
    ("batch", ">5", "{batch}"),
    ("  contender", "<20", "  {contender}"),
    ("s/image", ">9", "{seconds_per_image:.3f}"),
    ("GFLOP/s", ">9", "{gflops:.1f}"),
    ("matmul", ">8", "{matmul_gflops:.1f}"),
    ("ratio", ">7", "{ratio:.2f}"),
    ("of peak", ">8", "{of_peak}"),
    ("times ours", ">12", "{times:.2f}"),
    ("peak GiB", ">10", "{peak_memory_gib:.2f}"),
    ("first s", ">9", "{first_seconds:.1f}"),
)
HEADER = "".join(format(title, width) for title, width, _ in COLUMNS)


def row(case: dict, ours: dict) -> str:
    """One line of the table."""
    peak = "-" if case["of_peak"] is None else f"{case['of_peak']:.2f}"
    times = ours["gflops"] / case["gflops"]
    values = {**case, "of_peak": peak, "times": times}
    return "".join(format(text.format(**values), width) for _, width, text in COLUMNS)


if __name__ == "__main__":
    main()

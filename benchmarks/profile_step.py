"""Where the time of a sampling or training step goes: by kind of operation, with bytes and floors.

    python benchmarks/profile_step.py --width 0.5
    python benchmarks/profile_step.py --mode train --batch 2 --dtypes float32

Every operation of the graph, as TensorFlow runs it after rewriting, is timed in each of some steps,
and its shortest time counts, so that other load disturbs little. Bytes are those of its inputs and
outputs; what a cache saves is not known. Two floors: the arithmetic at the speed of a large matrix
product, and the bytes at that of a large sum, both measured here. `above` is the time of a kind
over the larger of its two floors.
"""

import argparse
import collections
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import step as steps
import step_worker
from protocol import seconds

KINDS = {
    "convolutions": ("Conv2D", "Conv2DBackprop"),
    "matrix products": ("MatMul", "BatchMatMul", "Einsum"),
    "softmax": ("Softmax",),
    "SiLU, GELU": ("Sigmoid", "Swish", "Erf", "Gelu"),
    "reductions": ("Mean", "Sum", "Max", "L2Loss", "MklLayerNorm", "AddN"),
    "casts": ("Cast",),
    "layout": ("Transpose", "Concat", "Pad", "Split", "Slice", "Pack", "Tile", "Broadcast")
    + ("Gather", "Unpack"),
    "elementwise": ("Mul", "Add", "Sub", "Div", "Square", "Rsqrt", "Sqrt", "Minimum", "Maximum")
    + ("Abs", "Select", "Neg", "Exp", "BiasAdd", "Squared", "Multiply", "Sin", "Cos", "Pow"),
    "optimizer, averages": ("ResourceApply", "AssignSub", "AssignAdd", "AssignVariable"),
}
WITH_ARITHMETIC = ("convolutions", "matrix products")
SHARING = ("Reshape", "Identity", "ReadVariableOp", "ExpandDims", "Squeeze", "_Arg", "_Retval")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="released_64")
    parser.add_argument("--mode", choices=("sample", "train"), default="sample")
    parser.add_argument("--dtypes", nargs="+", default=list(steps.DTYPES), choices=steps.DTYPES)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--types", type=int, default=12, help="operations listed by type")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    found = []
    for dtype in args.dtypes:
        case = {
            "model": args.model,
            "mode": args.mode,
            "dtype": dtype,
            "batch": args.batch,
            "width": args.width,
            "recompute": [],
            "jit_compile": False,
            "matmul_size": steps.MATMUL_SIZE,
            "text_tokens": steps.TEXT_TOKENS,
            "text_width": steps.TEXT_WIDTH,
        }
        step, product = step_worker.prepare(case)
        nodes = timed(step, args.repeats)
        rate = 2e-9 * steps.MATMUL_SIZE**3 / min(seconds(product) for _ in range(args.repeats))
        facts = steps.facts(args.model, args.width, peers=False)
        gflop = steps.WORK[args.mode] * args.batch * facts["gflop"]
        whole = {**case, "gflop": gflop, "matmul_gflops": rate, "gb_per_s": bandwidth(dtype)}
        whole["step_seconds"] = min(seconds(step) for _ in range(args.repeats))
        whole |= {"kinds": by(nodes, kind_of), "types": by(nodes, lambda op: op)}
        found.append(whole)
        print(table(whole, args.types), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"machine": steps.machine(), "cases": found}, indent=2))


def timed(step: Any, repeats: int) -> dict[str, dict[str, Any]]:
    """By name of a node: operation, how often it runs in a step, seconds (of the step in which it
    took least), bytes read and written."""
    import tensorflow as tf

    step()
    step()
    nodes: dict[str, dict[str, Any]] = {}
    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3, python_tracer_level=0)
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            tf.profiler.experimental.start(folder, options=options)
            step()
            tf.profiler.experimental.stop(save=True)
            (file,) = Path(folder).glob("**/*.xplane.pb")
            for name, (op, count, took) in run_in(file.read_bytes()).items():
                node = nodes.setdefault(name, {"op": op, "count": count, "seconds": took})
                node["seconds"] = min(node["seconds"], took)
    graph = step.graph() if hasattr(step, "graph") else None
    for name, node in nodes.items():
        node["read"], node["written"] = bytes_of(graph, name)
    return nodes


def run_in(profile: bytes) -> dict[str, tuple[str, int, float]]:
    """{node: (operation, how often, seconds)} of one profiled step."""
    # Comes with TensorFlow, without a public name.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(profile)
    found: dict[str, tuple[str, int, float]] = {}
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                label = plane.event_metadata[event.metadata_id].name
                name, _, op = label.rpartition(":")
                if not re.fullmatch(r"_?[A-Z]\w*", op) or not name or name.endswith(":"):
                    continue  # "A::B" and a word alone are TensorFlow's own doings
                _, count, took = found.get(name, (op, 0, 0.0))
                found[name] = (op, count + 1, took + event.duration_ps * 1e-12)
    return found


def bytes_of(graph: Any, name: str) -> tuple[float, float]:
    """(read, written) by a node, from its shapes before TensorFlow rewrote the graph."""
    try:
        node = graph.get_operation_by_name(name)
    except (AttributeError, KeyError, ValueError):  # no graph, or made by the rewriting
        return 0.0, 0.0

    def size(tensors: Any) -> float:
        known = [t for t in tensors if t.shape.is_fully_defined() and t.dtype.size]
        return float(sum(t.shape.num_elements() * t.dtype.size for t in known))

    return size(node.inputs), size(node.outputs)


def kind_of(op: str) -> str:
    """The first kind, in order, whose words a type of operation has."""
    for kind, words in KINDS.items():
        if any(word in op for word in words):
            return kind
    return "other"


def by(nodes: dict[str, dict[str, Any]], key: Any) -> dict[str, dict[str, float]]:
    """Sums over the nodes of a key, the longest first."""
    sums: dict[str, Any] = collections.defaultdict(lambda: dict.fromkeys(FIELDS, 0.0))
    for node in nodes.values():
        total = sums[key(node["op"])]
        total["count"] += node["count"]
        total["seconds"] += node["seconds"]
        if node["op"] not in SHARING:
            total["read"] += node["read"] / 1e9
            total["written"] += node["written"] / 1e9
    return dict(sorted(sums.items(), key=lambda item: -item[1]["seconds"]))


FIELDS = ("count", "seconds", "read", "written")


def bandwidth(dtype: str) -> float:
    """GB/s of a sum of two large tensors: two read, one written."""
    import tensorflow as tf

    numbers = tf.ones((2**26,), step_worker.MATMUL_DTYPES[dtype])
    add = tf.function(lambda x, y: x + y)
    add(numbers, numbers)
    size = numbers.dtype.size
    return 3e-9 * size * 2**26 / min(seconds(lambda: add(numbers, numbers)) for _ in range(5))


def table(case: dict[str, Any], types: int) -> str:
    lines = [
        f"\n{case['model']}, {case['mode']}, {case['dtype']}, width {case['width']}, batch "
        f"{case['batch']}: {case['step_seconds']:.3f} s a step, {case['gflop']:.0f} GFLOP; matrix "
        f"product {case['matmul_gflops']:.0f} GFLOP/s, sum {case['gb_per_s']:.1f} GB/s",
        "| kind | operations | s | share | GB read | GB written | floor s | above |",
        "|---|---|---|---|---|---|---|---|",
    ]
    total = sum(kind["seconds"] for kind in case["kinds"].values())
    arithmetic = sum(case["kinds"].get(kind, {}).get("seconds", 0.0) for kind in WITH_ARITHMETIC)
    for kind, sums in case["kinds"].items():
        moved = (sums["read"] + sums["written"]) / case["gb_per_s"]
        floor, name = moved, "bytes"
        if kind in WITH_ARITHMETIC and arithmetic:  # all arithmetic, shared by their times
            products = case["gflop"] / case["matmul_gflops"] * sums["seconds"] / arithmetic
            floor, name = max((moved, "bytes"), (products, "arithmetic"))
        above = f"{sums['seconds'] / floor:.1f}" if floor > 1e-4 else "-"
        lines.append(
            f"| {kind} | {sums['count']:.0f} | {sums['seconds']:.3f} | "
            f"{sums['seconds'] / total:.0%} | {sums['read']:.2f} | {sums['written']:.2f} | "
            f"{floor:.3f} ({name}) | {above} |"
        )
    lines.append("\n| operation | count | s | GB read | GB written |\n|---|---|---|---|---|")
    for op, sums in list(case["types"].items())[:types]:
        lines.append(
            f"| {op} | {sums['count']:.0f} | {sums['seconds']:.3f} | {sums['read']:.2f} | "
            f"{sums['written']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Time of a sampling step and of a training step, against the machine's matrix product.

    python benchmarks/step.py                        # the released 64 and 256 networks, full size
    python benchmarks/step.py --width 0.25 --repeats 3
    python benchmarks/step.py --models released_64 --modes sample --dtypes mixed_bfloat16

Every case runs in a separate process, so that its peak memory is its own. In it, every repetition
is followed by a large matrix product in the same dtype. Other load slows both, so their ratio stays
the same where seconds do not. Prints a table and writes JSON.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

TEXT_TOKENS, TEXT_WIDTH = 32, 2048
MATMUL_SIZE = 3072
# Forward, gradient of the inputs, gradient of the weights: one product each per layer.
WORK = {"sample": 1, "train": 3}
BATCH = {("sample", "released_64"): 4, ("train", "released_64"): 2}  # 1 for all others
MATMUL_DTYPES = {"float32": "float32", "mixed_bfloat16": "bfloat16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["released_64", "released_256"])
    parser.add_argument("--modes", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument(
        "--dtypes", nargs="+", default=list(MATMUL_DTYPES), choices=list(MATMUL_DTYPES)
    )
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels")
    parser.add_argument("--batch", type=int, help="batch size of every case")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--recompute", nargs="*", default=[], help="levels whose activations are recomputed"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default: in benchmarks/results/")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(**json.loads(args.case))))
        return
    cases = [
        {
            "model": model,
            "mode": mode,
            "dtype": dtype,
            "batch": args.batch or BATCH.get((mode, model), 1),
            "width": args.width,
            "repeats": args.repeats,
            "recompute": args.recompute,
        }
        for model in args.models
        for mode in args.modes
        for dtype in args.dtypes
    ]
    results = []
    print(HEADER)
    for case in cases:
        results.append(in_subprocess(case))
        print(row(results[-1]), flush=True)
    recomputed = f"-recompute-{'-'.join(args.recompute)}" if args.recompute else ""
    default = f"step-{'-'.join(args.models)}-width-{args.width:g}{recomputed}.json"
    out = args.out or Path(__file__).parent / "results" / default
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "matmul_size": MATMUL_SIZE, "cases": results}
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {out}")


def in_subprocess(case: dict) -> dict:
    """Run one case in a fresh interpreter and return its result."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(
    *,
    model: str,
    mode: str,
    dtype: str,
    batch: int,
    width: float,
    repeats: int,
    recompute: Sequence[str],
) -> dict[str, object]:
    """Measure one case in this process."""
    import tensorflow as tf

    from keras_mdm.costs.describe import describe
    from keras_mdm.models import presets

    unet = presets.build(model, width=width, dtype=dtype)
    if mode == "train":
        step = training_step(unet, model, batch, recompute)
    else:
        step = sampling_step(unet, model, batch)
    square = tf.random.normal((MATMUL_SIZE, MATMUL_SIZE))
    square = tf.cast(square, MATMUL_DTYPES[dtype])
    product = tf.function(lambda: tf.reduce_max(tf.matmul(square, square)))
    seconds(step)  # traces
    seconds(step)  # the first run after tracing still allocates
    seconds(lambda: product().numpy())
    step_seconds, product_seconds = [], []
    for _ in range(repeats):
        step_seconds.append(seconds(step))
        product_seconds.append(seconds(lambda: product().numpy()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    gflop = describe(model, text_tokens=TEXT_TOKENS, width=width)["gflop"]
    per_image = statistics.median(step_seconds) / batch
    achieved = WORK[mode] * gflop / per_image
    available = 2e-9 * MATMUL_SIZE**3 / statistics.median(product_seconds)
    return {
        "model": model,
        "mode": mode,
        "dtype": dtype,
        "batch": batch,
        "width": width,
        "recompute": list(recompute),
        "gflop_per_image": WORK[mode] * gflop,
        "seconds_per_image": per_image,
        "gflops": achieved,
        "matmul_gflops": available,
        "ratio": achieved / available,
        "peak_memory_gib": peak,
        "step_seconds": step_seconds,
        "matmul_seconds": product_seconds,
    }


def sampling_step(unet, model: str, batch: int) -> Callable[[], None]:
    """One call of the network as in `generate`, conditional and without guidance."""
    import tensorflow as tf

    network = tf.function(lambda inputs: unet(inputs, training=False))
    inputs = {
        f"z_{level.name}": tf.random.normal((batch, *level.input_shape(3)))
        for level in unet.spec.levels
    }
    inputs |= {"time": tf.fill((batch,), 500.0), "text_mask": tf.ones((batch, TEXT_TOKENS))}
    inputs["text"] = tf.random.normal((batch, TEXT_TOKENS, TEXT_WIDTH))
    inputs |= {
        name: tf.fill((batch,), float(level.size))
        for level in unet.spec.levels
        for name in level.micro_conditions
    }

    def step():
        for value in network(inputs).values():
            value.numpy()

    return step


def training_step(unet, model: str, batch: int, recompute: Sequence[str]) -> Callable[[], None]:
    """One optimizer step of `fit`: gradients, clipping, Adam, moving average, metrics."""
    import tensorflow as tf

    from keras_mdm.models import presets
    from keras_mdm.optimizers import Adam
    from keras_mdm.training import MatryoshkaDiffusion

    diffusion = MatryoshkaDiffusion(unet, **presets.diffusion(model))
    diffusion.compile(optimizer=Adam(1e-4, clip_norm=2.0), recompute=recompute)
    top = unet.spec.levels[-1]
    key = "image" if top.frames is None else "video"
    data = {
        key: tf.random.uniform((batch, *top.input_shape(3)), -1.0, 1.0),
        "text": tf.random.normal((batch, TEXT_TOKENS, TEXT_WIDTH)),
        "text_mask": tf.ones((batch, TEXT_TOKENS)),
    }
    batches = iter(tf.data.Dataset.from_tensors(data).repeat())
    function = diffusion.make_train_function()

    def step():
        float(function(batches)["loss"])

    return step


def seconds(function: Callable[[], object]) -> float:
    """Wall time of a call that waits for its result."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def machine() -> dict[str, object]:
    """The machine on which the numbers were measured."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), cpu)
    packages = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "python": platform.python_version(), **packages}


HEADER = (
    f"{'model':<14}{'mode':<8}{'dtype':<16}{'batch':>5}{'s/image':>10}{'GFLOP/s':>10}"
    f"{'matmul':>9}{'ratio':>8}{'peak GiB':>10}"
)


def row(case: dict) -> str:
    """One line of the table."""
    return (
        f"{case['model']:<14}{case['mode']:<8}{case['dtype']:<16}{case['batch']:>5}"
        f"{case['seconds_per_image']:>10.3f}{case['gflops']:>10.1f}{case['matmul_gflops']:>9.1f}"
        f"{case['ratio']:>8.2f}{case['peak_memory_gib']:>10.2f}"
    )


if __name__ == "__main__":
    main()

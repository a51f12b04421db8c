"""Forward passes under another backend of Keras: parity with TensorFlow, speed and memory.

    KERAS_BACKEND=tensorflow python benchmarks/backends.py --write golden.npz
    KERAS_BACKEND=jax python benchmarks/backends.py --check golden.npz --time
    KERAS_BACKEND=torch python benchmarks/backends.py --check golden.npz --time

Parity: predictions of small networks and the mathematics of diffusion against the file that
TensorFlow wrote, as the largest difference over the largest value. In float32 it must be at most
2e-5; in TF32 and bfloat16 it is only reported. The exit code is 1 if float32 fails.

Speed: presets at full size, compiled by JAX, and by PyTorch operation by operation and compiled.
Memory is the peak of one pass, weights included: that of PyTorch's allocator, or what XLA reserved
for arguments, results and temporaries. Arithmetic is counted from the layers. A case that fails
shows its error; cases for which no time is left (--seconds) are left out.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import backend_cases as cases
import keras
import numpy as np
from backend_passes import BACKEND, device_name, jax_pass, on_gpu, precision, torch_pass

import keras_mdm as mdm
from keras_mdm.costs.unallocated import unallocated

START = time.perf_counter()
LIMIT = 2e-5
NUMBERS = ("float32", "tf32", "bfloat16")
POLICIES = {"float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16"}
TIMED = ("mdm_s64", "mdm_s64s256", "released_256")
TEXT_TOKENS = 32
# (numbers, batch): the most informative first, one network at a time.
RUNS = (("bfloat16", 16), ("bfloat16", 64), ("bfloat16", 1), ("tf32", 16), ("float32", 16))
RUNS += (("tf32", 64), ("tf32", 1))
TINY_RUNS = (("bfloat16", 2), ("float32", 2), ("float32", 1))
COLUMNS = ("model", "numbers", "batch", "how", "images/s", "TFLOP/s", "peak GiB", "first call s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write TensorFlow's results")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with such a file")
    parser.add_argument("--time", action="store_true", help="time forward passes of presets")
    parser.add_argument("--cases", nargs="+", help="write or check only these")
    parser.add_argument(
        "--tiny", action="store_true", help="time small networks: a try without GPU"
    )
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="for timing: start no case after that"
    )
    parser.add_argument("--out", type=Path, help="JSON file of all results")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "backend": BACKEND,
        "device": device_name(),
        "parity": [],
        "speed": [],
    }
    say(f"Keras {keras.__version__} on {BACKEND}, {record['device']}")
    if args.write:
        write(args.write, args.cases)
    # The file is written after every case, so finished cases survive a stop.
    for key, results in (
        ("parity", check(args.check, args.cases) if args.check else ()),
        ("speed", measure(args.tiny, args.seconds, args.check) if args.time else ()),
    ):
        for result in results:
            record[key].append(result)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(record, indent=2) + "\n")
    failed = [each for each in record["parity"] if each.get("passed") is False]
    say(f"{len(record['parity'])} comparisons, {len(failed)} failed; {len(record['speed'])} timed")
    return 1 if failed else 0


def say(line: str) -> None:
    print(f"[{time.perf_counter() - START:6.1f} s] {line}", flush=True)


def write(file: Path, only: Sequence[str] | None = None) -> None:
    """Store TensorFlow's results, and the arithmetic of the presets that are timed."""
    groups: dict[str, dict[str, Any]] = {}
    for name in only or ("math", *cases.NETWORKS, *cases.PRESETS):
        groups[name] = cases.results_of(name)
        say(f"{name} computed")
    if not only:
        counted = {name: mdm.describe(name, text_tokens=TEXT_TOKENS)["gflop"] for name in TIMED}
        groups["gflop"] = counted
    store(file, groups)


def store(file: Path, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Write results by case and name."""
    arrays = {f"{name}|{key}": v for name, group in groups.items() for key, v in group.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)
    say(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


def read(file: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read what `store` wrote."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    with np.load(file) as stored:
        for full in stored.files:
            name, _, key = full.partition("|")
            groups.setdefault(name, {})[key] = stored[full]
    return groups


def check(file: Path, only: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """One result per case and kind of numbers."""
    golden = read(file)
    golden.pop("gflop", None)
    for numbers in NUMBERS:
        if numbers == "tf32" and not on_gpu():
            continue
        for name in golden:
            if (only and name not in only) or (name == "math" and numbers != "float32"):
                continue
            result: dict[str, Any] = {"case": name, "numbers": numbers}
            with failing(result), precision(numbers):
                actual = cases.results_of(name, POLICIES[numbers])
                result["difference"] = cases.difference(actual, golden[name])
            if numbers == "float32":
                result["passed"] = result.get("difference", np.inf) <= LIMIT
            outcome = result.get("error") or f"{result['difference']:.1e}"
            say(f"parity {name:12s} {numbers:8s} {outcome} {result.get('passed', '')}")
            yield result


def measure(tiny: bool, seconds: float, golden: Path | None) -> Iterator[dict[str, Any]]:
    """Time every network in every kind of numbers, each with its share of the time left."""
    gflop = read(golden).get("gflop", {}) if golden else {}
    models, runs = (tuple(cases.NETWORKS), TINY_RUNS) if tiny else (TIMED, RUNS)
    plan = [(model, runs, "jit" if BACKEND == "jax" else "eager") for model in models]
    if BACKEND == "torch":  # its compiler takes longest, so it comes last
        plan += [(model, runs[:1], "compile") for model in models]
    say(" | ".join(COLUMNS))
    deadline = time.monotonic() + seconds
    for index, (model, runs, how) in enumerate(plan):
        until = time.monotonic() + (deadline - time.monotonic()) / (len(plan) - index)
        unet = None
        for numbers, batch in runs:
            result = {"model": model, "numbers": numbers, "batch": batch, "how": how}
            if time.monotonic() > until:
                result["error"] = "no time left"
            else:
                with failing(result), precision(numbers):
                    if unet is None or unet.policy.name != POLICIES[numbers]:
                        unet = None  # makes room
                        unet = build(model, POLICIES[numbers])
                    result |= timed(unet, batch, how)
                    if model in gflop:
                        rate = result["images/s"] * float(gflop[model]) / 1e3
                        result["TFLOP/s"] = round(rate, 2)
            say(" | ".join(str(result.get(c, "-")) for c in COLUMNS) + short_error(result))
            yield result


def build(model: str, policy: str) -> mdm.NestedUNet:
    """A preset or a small network, with random weights."""
    gc.collect()
    began = time.perf_counter()
    # JAX would compile an initialiser for every shape, only to have the values replaced.
    with unallocated() if BACKEND == "jax" else contextlib.nullcontext():
        if model in cases.NETWORKS:
            unet = cases.NETWORKS[model](policy)
        else:
            unet = mdm.presets.build(model, dtype=policy)
    cases.fill(unet)
    say(f"{model} {policy} built in {time.perf_counter() - began:.1f} s")
    return unet


def timed(unet: mdm.NestedUNet, batch: int, how: str) -> dict[str, Any]:
    """Images per second, the median of passes that each wait for the device."""
    inputs = {
        key: keras.ops.convert_to_tensor(value)
        for key, value in cases.inputs_of(unet, batch, TEXT_TOKENS).items()
    }
    run, peak, wait = (jax_pass if BACKEND == "jax" else torch_pass)(unet, inputs, how)
    began = time.perf_counter()
    wait(run())
    first = time.perf_counter() - began
    wait(run())
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 1.5 and len(seconds) < 100):
        began = time.perf_counter()
        wait(run())
        seconds.append(time.perf_counter() - began)
    memory = peak()
    return {
        "images/s": round(batch / statistics.median(seconds), 2),
        "peak GiB": None if memory is None else round(memory / 2**30, 2),
        "first call s": round(first, 1),
        "seconds": seconds,
    }


@contextlib.contextmanager
def failing(result: dict[str, Any]) -> Iterator[None]:
    """Put an error of the `with` statement's body into the result."""
    try:
        yield
    except Exception as error:  # of any kind: the other cases still run
        result["error"] = f"{type(error).__name__}: {error}"[:2000]


def short_error(result: dict[str, Any]) -> str:
    return f" | {result['error'].splitlines()[0][:150]}" if "error" in result else ""


if __name__ == "__main__":
    sys.exit(main())

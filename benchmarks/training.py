"""The training engine: does every way of running it give the same, and what does it cost?

    python benchmarks/training.py
    python benchmarks/training.py --only overhead --repeats 5

Equality: the same steps on one device, in micro-batches, and on two replicas (logical CPU devices),
with mixed batches, text, stratified times, clipping and averages. Overhead: a step of `fit` against
a bare compiled step of the same network and optimizer, on a 29 M parameter model, interleaved in
one process; then with checkpoints. Resume: the first batch at step 10 million against step 0.
Memory: peak of a step of the 64-256-1024 network with and without recomputation.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import keras_mdm as mdm
from keras_mdm.costs.estimate import trace_step
from keras_mdm.models.recompute import set_recompute
from keras_mdm.runs.snapshot import prepare_snapshot
from keras_mdm.runs.writer import CheckpointWriter

TEXT_WIDTH = 64
SMALL = [
    mdm.LevelSpec(8, channels=(16,), blocks=(1,), attention=(0,), groups=8, use_mid_block=False),
    mdm.LevelSpec(16, channels=(16, 8), blocks=(1, 1), attention=(0, 0), groups=4),
]
LARGE = [
    mdm.LevelSpec(16, channels=(96, 160, 320), blocks=(1, 1, 1), attention=(0, 1, 1), heads=4),
    mdm.LevelSpec(32, channels=(32, 96), blocks=(1, 1), attention=(0, 0), groups=16),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("equality", "overhead", "resume", "memory"))
    parser.add_argument("--width", type=float, default=0.125, help="of the network, for memory")
    parser.add_argument("--recompute", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps per measurement")
    args = parser.parse_args()
    if args.only is None:
        # Every part in a separate process: two devices would share the cores of the others.
        for part in ("equality", "overhead", "resume", "memory"):
            subprocess.run([sys.executable, *sys.argv, "--only", part], check=True)
    elif args.only == "equality":
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
        equality()
    elif args.only == "overhead":
        overhead(args.repeats, args.steps)
    elif args.only == "resume":
        resume()
    elif args.recompute is None:
        memory(args.width)
    else:
        memory_of(args.width, args.recompute)


def make_model(levels: list, **options: object) -> mdm.MatryoshkaDiffusion:
    """A model in which every branch matters, since no weight starts at zero."""
    unet = mdm.build_nested_unet(levels, text_width=TEXT_WIDTH)
    rng = np.random.default_rng(0)
    for variable in unet.trainable_variables:
        value = np.asarray(variable)
        variable.assign(value + 0.02 * rng.normal(size=value.shape).astype("float32"))
    null = np.ones((2, TEXT_WIDTH), "float32")
    return mdm.MatryoshkaDiffusion(unet, null_text=null, cond_dropout=0.4, **options)


def make_dataset(groups: dict[str, int], first_step: int = 0, records: int = 64):
    """Random pictures and texts in mixed batches."""
    rng = np.random.default_rng(1)
    text = rng.normal(size=(records, 4, TEXT_WIDTH)).astype("float32")
    return mdm.data.mixed_dataset(
        {
            level: mdm.data.image_text_dataset(
                rng.integers(0, 256, (records, int(level), int(level), 3)).astype("uint8"),
                text,
                np.ones(text.shape[:2], "float32"),
                batch_size=rows,
                seed=0,
                first_step=first_step,
            )
            for level, rows in groups.items()
        }
    )


# Equality


def equality() -> None:
    """Print how far other ways of running the same steps differ from one device."""

    def run(strategy: tf.distribute.Strategy | None = None, micro_batches: int = 1):
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = make_model(SMALL, times="stratified", seed=3)
            optimizer = mdm.optimizers.Adam(1e-3, epsilon=1e-5, clip_norm=0.3)
            model.compile(optimizer=optimizer, micro_batches=micro_batches)
        start = flat(model.unet.trainable_variables)
        history = model.fit(
            make_dataset({"8": 4, "16": 8}), epochs=4, steps_per_epoch=1, verbose=0
        ).history
        return (
            np.array([history["loss"], history["gradient_norm"]]),
            flat(model.unet.trainable_variables) - start,
            flat(model.ema.averages) - start,
        )

    one = run()
    print("| against one device, 4 steps of Adam, mixed | logs | weights | averages |")
    print("|---|---|---|---|")
    ways = {
        "4 micro-batches": lambda: run(micro_batches=4),
        "2 replicas": lambda: run(replicas()),
        "2 replicas x 2 micro-batches": lambda: run(replicas(), 2),
    }
    for name, way in ways.items():
        other = way()
        logs = np.max(np.abs(other[0] / one[0] - 1.0))
        moved = [
            np.linalg.norm(a - b) / np.linalg.norm(a)
            for a, b in zip(one[1:], other[1:], strict=True)
        ]
        print(f"| {name} | {logs:.1e} | {moved[0]:.1e} | {moved[1]:.1e} |", flush=True)
    print("\nLogs: largest relative difference; the others relative to the distance moved.\n")


def flat(variables: list) -> np.ndarray:
    """All values in one vector."""
    return np.concatenate([np.ravel(np.asarray(variable)) for variable in variables])


_STRATEGIES: list = []


def replicas() -> tf.distribute.Strategy:
    """One strategy for all runs: every further one would count its collectives from the start."""
    if not _STRATEGIES:
        _STRATEGIES.append(
            tf.distribute.MirroredStrategy(
                ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
            )
        )
    return _STRATEGIES[0]


# Overhead


def overhead(repeats: int, steps: int) -> None:
    """Print seconds per step of `fit`, of a bare step, and of `fit` with checkpoints."""
    model = make_model(LARGE)
    model.compile(optimizer=mdm.optimizers.Adam(1e-4))
    dataset = make_dataset({"16": 4, "32": 8})
    bare = bare_step(model)
    batches = [batch for batch in dataset.take(4)]

    def run_bare() -> None:
        for step in range(steps):
            loss = bare(batches[step % len(batches)])
        float(loss)

    def run_fit(callbacks: list) -> None:
        model.fit(dataset, epochs=1, steps_per_epoch=steps, verbose=0, callbacks=callbacks)

    with tempfile.TemporaryDirectory() as scratch:

        def run_checkpoints() -> None:
            writer = CheckpointWriter(
                lambda step: prepare_snapshot(model, scratch, step, {}), scratch, every=steps
            )
            run_fit([writer])
            writer.finish()

        ways = {"bare step": run_bare, "fit": lambda: run_fit([])}
        ways[f"fit, a checkpoint every {steps} steps, waited for"] = run_checkpoints
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for name in ways:
            ways[name]()  # traces, and fills caches
        # From here on a checkpoint falls in the middle of its steps, as in a long run, where the
        # steps after it hide part of its cost.
        model.fit(dataset, epochs=1, steps_per_epoch=steps // 2, verbose=0)
        for _ in range(repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                seconds[name].append((time.perf_counter() - began) / steps)
        size = sum(file.stat().st_size for file in Path(scratch).rglob("*.npz")) / 1e6
    print(
        f"| {model.unet.count_params() / 1e6:.1f} M parameters | fastest s/step | median | "
        "ratio of the fastest |"
    )
    print("|---|---|---|---|")
    for name, values in seconds.items():
        fastest, bare = min(values), min(seconds["bare step"])
        slow = statistics.median(values)
        print(f"| {name} | {fastest:.3f} | {slow:.3f} | {fastest / bare:.3f} |")
    waited = (min(seconds[name]) - min(seconds["fit"])) * steps
    print(
        f"\n{repeats} interleaved repetitions of {steps} steps; checkpoints kept: {size:.0f} MB. "
        f"One costs {waited:.2f} s, {waited / min(seconds['fit']):.1f} % of 100 steps.\n"
    )


def bare_step(model: mdm.MatryoshkaDiffusion):
    """Forward, backward and optimizer of the same network on fixed noise: the least possible."""
    variables = model.unet.trainable_variables
    levels = model.unet.levels

    @tf.function(autograph=False)
    def step(batch):
        x0, conditions = model.prepare(batch)
        inputs = {f"z_{name}": x0[name] for name in levels}
        rows = tf.shape(x0[levels[0]])[0]
        with tf.GradientTape() as tape:
            outputs = model.unet(
                {**inputs, **conditions, "time": tf.fill([rows], 500.0)}, training=True
            )
            loss = tf.add_n([tf.reduce_mean(tf.square(outputs[k] - x0[k])) for k in levels])
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step


# Memory


def memory(width: float) -> None:
    """Print peak memory and time of a step of the 64-256-1024 network, by recomputed levels."""
    print(
        f"| 64-256-1024, width {width}, batch 1, recomputed | activations GB | estimated | s/step |"
    )
    print("|---|---|---|---|")
    for levels in ([], ["1024"], ["1024", "256"]):
        command = [sys.executable, __file__, "--only", "memory", "--width", str(width)]
        done = subprocess.run(
            [*command, "--recompute", *levels], stdout=subprocess.PIPE, text=True, check=True
        )
        print(f"| {', '.join(levels) or 'nothing'} | {done.stdout.splitlines()[-1]} |", flush=True)
    print(
        "\nActivations: peak of the process minus what it held before the first step, after "
        "tracing, and minus the weights' gradients.\n"
    )


def memory_of(width: float, levels: list[str]) -> None:
    """Print the peak beyond weights, gradients, moments and averages, measured and estimated, and
    the time of the faster of two steps."""
    unet = mdm.build_nested_unet([64, 256, 1024], num_classes=10, width=width)
    model = mdm.MatryoshkaDiffusion(unet)
    model.compile(optimizer=mdm.optimizers.Adam(1e-4), recompute=levels)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (1, 1024, 1024, 3)).astype("uint8"),
        "label": np.zeros(1, "int32"),
    }
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    # Traced before, since Python's memory for the graph does not belong to the activations.
    model.make_train_function().get_concrete_function(iter(dataset))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    held, seconds = resident("VmRSS"), []
    for _ in range(3):
        began = time.perf_counter()
        model.fit(dataset, epochs=1, steps_per_epoch=1, verbose=0)
        seconds.append(time.perf_counter() - began)
    gradients = 4e-9 * sum(variable.numpy().size for variable in unet.trainable_variables)
    peak = resident("VmHWM") - held - gradients
    print(f"{peak:.2f} | {estimated(unet, levels):.2f} | {min(seconds[1:]):.1f}")


def estimated(unet: mdm.NestedUNet, levels: list[str]) -> float:
    """The estimate of `keras_mdm.describe`, in GB."""
    set_recompute(unet, levels)
    return trace_step(unet, {unet.levels[-1]: 1})[1] / 1e9


def resident(name: str) -> float:
    """A line of this process's memory status, in GB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError("the kernel does not say")


# Resume


def resume() -> None:
    """Print how long the first batch takes at the start of a run and far into it."""
    print("| first batch of | seconds |")
    print("|---|---|")
    for first_step in (0, 10_000_000):
        began = time.perf_counter()
        next(iter(make_dataset({"16": 4, "32": 8}, first_step)))
        print(f"| step {first_step:,} | {time.perf_counter() - began:.2f} |")


if __name__ == "__main__":
    main()

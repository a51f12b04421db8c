"""A recipe's paper scale in miniature: all stages of a training on N devices, on this machine.

    python recipes/cc12m_1024.py --rehearse 8
    keras-mdm launch -n 2 recipes/webvid_video.py --rehearse 2

There are as many levels, phases, samples per batch, groups, micro-batches and averages as at the
paper's scale, in the same precision, with the same callbacks, the paper's sampler and the export,
on N logical devices of the CPU. Sizes are an eighth of the paper's, with 1024 a sixteenth; clips
are a quarter as long, and texts have 16 tokens. Networks have 32 channels inside and 16 outside,
one block per resolution, one attention layer of each kind and one resolution at the innermost
level. A phase has 4 steps, with a checkpoint every 2. The data is generated beside the run
directory. The same command continues where it was stopped, even with another number of devices.

TensorFlow's graph optimizer is switched off: at every start it would spend minutes on the graphs of
many replicas, for steps that take seconds.
"""

import argparse
import dataclasses
import math
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_mdm as mdm
from shared import drawing, machine, options, rehearsal_data
from shared.scale import Scale

STEPS, CHECKPOINT_EVERY, DRAWN, SAMPLING_STEPS = 4, 2, 4, 3
INNER_CHANNELS, OUTER_CHANNELS, INNER_RESOLUTIONS = 32, 16, 1
# Few tokens, as states are as wide as FLAN-T5's: 128 for a batch of 2048 would take two gigabytes.
FRAME_DIVISOR, TOKENS = 4, 16


def add(made: argparse.ArgumentParser) -> None:
    """Add the option to a parser."""
    made.add_argument(
        "--rehearse",
        type=options.whole,
        metavar="N",
        help="run the paper's scale in miniature, on N logical CPU devices and generated "
        "data: 2 to 10 minutes",
    )


def begin(
    made: argparse.ArgumentParser, arguments: argparse.Namespace, scale: Scale, kind: str
) -> Scale:
    """Make devices and data, before anything else uses TensorFlow.

    Args:
        made: the parser.
        arguments: the parsed arguments, to which the data is added.
        scale: the paper's.
        kind: "class", "text" or "video".

    Returns:
        The scale in miniature.
    """
    count, workers = arguments.rehearse, mdm.distribute.workers()
    for option in ("data", "text_encoder", "embeddings"):
        if getattr(arguments, option, None):
            word = option.replace("_", "-")
            made.error(f"--rehearse makes its own data and states: leave --{word} out")
    if workers not in (1, count):
        made.error(
            f"--rehearse {count} under keras-mdm launch -n {workers}: each worker is one replica; "
            f"pass --rehearse {workers}"
        )
    if arguments.strategy == "one" and count > 1:
        made.error(f"--rehearse {count} and --strategy one exclude each other")
    make_devices(count if workers == 1 else None)
    small = miniature(scale, count)
    run_dir = Path(arguments.run_dir)
    highest = small.phases[-1].levels[-1]
    folder = run_dir.with_name(f"{run_dir.name}-data")
    vars(arguments).update(rehearsal_data.make(folder, kind, highest, small.tokens))
    return small


def make_devices(count: int | None) -> None:
    """Hide GPUs, divide the CPU into logical devices, and leave graphs as they are traced.

    Args:
        count: number of devices; `None` to leave the CPU whole.
    """
    tf.config.set_visible_devices([], "GPU")
    if count is not None:
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def miniature(scale: Scale, replicas: int) -> Scale:
    """A scale with small networks and few steps, otherwise unchanged."""
    levels = mdm.models.resolve.resolve(scale.phases[-1].levels).levels
    divisor = 16 if levels[-1].size > 512 else 8
    small = [_small(level, divisor, inner=not n) for n, level in enumerate(levels)]
    phases = [
        dataclasses.replace(
            phase,
            levels=small[: len(phase.levels)],
            steps=STEPS,
            warmup_steps=min(2, phase.warmup_steps),
        )
        for phase in scale.phases
    ]
    return dataclasses.replace(
        scale,
        phases=phases,
        network={**scale.network, "text_blocks": 1} if scale.tokens else scale.network,
        sampling={**scale.sampling, "steps": SAMPLING_STEPS},
        tokens=scale.tokens and min(TOKENS, scale.tokens),
        checkpoint_every=CHECKPOINT_EVERY,
        sample_every=STEPS,
        validate_every=scale.validate_every and STEPS,
        micro_batches=lambda phase: micro_batches(phase, replicas),
        # The devices together hold a whole batch of clips in this machine's memory.
        recompute=[level.name for level in small if level.frames],
    )


def _small(level: mdm.LevelSpec, divisor: int, *, inner: bool) -> mdm.LevelSpec:
    """A level with the fewest parts that include each kind: every replica has its own graph."""
    channels = INNER_CHANNELS if inner or any(level.temporal_attention) else OUTER_CHANNELS
    # Only the innermost level may end at any resolution; the others end where the next one begins.
    count = INNER_RESOLUTIONS if inner else len(level.channels)
    if level.axis == "time" and not inner:
        count -= int(math.log2(FRAME_DIVISOR))
    return dataclasses.replace(
        level,
        size=level.size // divisor,
        frames=level.frames and level.frames // FRAME_DIVISOR,
        channels=(channels,) * count,
        blocks=(1,) * count,
        attention=_last(level.attention, count),
        temporal_attention=_last(level.temporal_attention, count),
        heads=2,
        use_mid_block=False,
        groups=channels // 2,
        resolutions=None,
    )


def _last(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """One attention layer, at the lowest resolution that has any."""
    having = [number for number, layer in enumerate(layers[-count:]) if layer][-1:]
    return tuple(int(number in having) for number in range(count))


def micro_batches(phase: mdm.Phase, replicas: int) -> int:
    """Micro-batches by default: four or two where the groups allow it."""
    shares = [rows / replicas for rows in phase.groups.values()]
    return next(n for n in (4, 2, 1) if n == 1 or not any(rows % n for rows in shares))


class Watch(keras.callbacks.Callback):
    """Times of the steps of a phase, and the memory of the process at its end."""

    def __init__(self):
        super().__init__()
        self.ends: list[float] = []
        self.peak = 0.0

    @property
    def speed(self) -> float | None:
        """Steps per second after the first one, which traces."""
        if len(self.ends) < 2:
            return None
        return (len(self.ends) - 1) / (self.ends[-1] - self.ends[0])

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note when a step ended."""
        self.ends.append(time.perf_counter())
        # Linux counts in KiB.
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Watched:
    """Makes the callbacks of a phase, with a `Watch` that is kept by the phase's number.

    Args:
        grids: makes the others, and checks them before the first step.
    """

    def __init__(self, grids: drawing.SampleGrids):
        self.check, self.grids = grids.check, grids
        self.watches: dict[int, Watch] = {}

    def __call__(self, context: mdm.PhaseContext) -> list:
        """The callbacks of a phase."""
        self.watches[context.number] = Watch()
        return [self.watches[context.number], *self.grids(context)]


def report(
    arguments: argparse.Namespace,
    phases: Sequence[mdm.Phase],
    micro: Mapping[tuple, int],
    watches: Mapping[int, Watch],
    began: float,
) -> None:
    """Print a row per phase: groups, rows per replica, speed, size of its checkpoint.

    Args:
        arguments: of the recipe.
        phases: the phases.
        micro: micro-batches by phase.
        watches: of the phases that this process trained; for others only the checkpoint is known.
        began: start of the rehearsal, by `time.perf_counter`.
    """
    count, run_dir = arguments.rehearse, Path(arguments.run_dir)
    print(
        f"\nrehearsed on {count} devices\n"
        "| phase | groups | rows per replica | micro-batches | steps/s | checkpoint, MB "
        "| peak memory, GB |\n|---|---|---|---|---|---|---|"
    )
    for number, phase in enumerate(phases, start=1):
        watch = watches.get(number, Watch())
        speed = "before" if not watch.ends else f"{watch.speed:.3g}" if watch.speed else "-"
        peak = f"{watch.peak:.2f}" if watch.peak else "before"
        print(
            f"| {number} | {machine.sizes(phase)} | {machine.sizes(phase, count)} "
            f"| {micro[machine.key(phase)]} | {speed} | {_megabytes(run_dir, number)} | {peak} |"
        )
    print(f"{time.perf_counter() - began:.0f} s in total")
    if not arguments.no_samples:
        print(f"samples: {run_dir / 'samples'}, {_page(run_dir)}")
        print(f"exported: {run_dir / 'saved_model'}")


def _megabytes(run_dir: Path, number: int) -> str:
    """Size of the newest checkpoint of a phase."""
    steps = sorted((run_dir / "checkpoints" / f"phase-{number}").glob("step-*"))
    files = [file for file in steps[-1].rglob("*") if file.is_file()] if steps else []
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f}" if files else "-"


def _page(run_dir: Path) -> Path:
    """The page of pictures drawn at the end."""
    clips = run_dir / "prompts.gif"
    return clips if clips.exists() else run_dir / "samples.png"

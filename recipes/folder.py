"""Your own pictures, of any size and number, with or without captions.

    python recipes/folder.py --data my_pictures
    python recipes/folder.py --data my_pictures --condition class --levels 32 128
    python recipes/folder.py --data shards --levels 64 256 --width 0.5 --steps 50000 30000
    python recipes/folder.py --data my_pictures --scale small --levels 64 128 256
    python recipes/folder.py --data my_pictures --levels 64 256 --buckets 256x256 192x320 320x192

Captions are the text files beside the pictures, the columns of a table, or the names of the files;
classes are the sub-folders. There is one phase per level. The innermost is trained alone; each
later phase adds the next level around it and trains all jointly on mixed-resolution batches. With
--buckets, tall and wide pictures stay tall and wide: each goes into the nearest bucket, and every
batch holds pictures of one bucket, at all its levels.

                    without arguments                   with --data SOURCE
    levels          --levels (16, 64)                   --levels (64, 256)
    network         that of the emoji recipes           the paper's rule, --width times its
                                                        channels; the left one: --scale small
    batches         32, 18 (then 9)                     --batches (64, 32, 16, ...)
    steps           550, 1100 (then 400)                --steps (20000 a phase)
    data            251 Twemoji drawings (CC BY 4.0),   folder, tar shards, record files, table,
                    written into a plain folder first   tfds:NAME
    text            all-MiniLM-L6-v2, 32 tokens         the same; FLAN-T5 with --text-encoder DIR
    optimizer       Muon, clip 2; rates                 Adam (0.9, 0.99), 1e-4, 1000 steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999
    sampling        DDPM, 10 steps, guidance 2 at all   DPM-Solver++ 2M, 25 steps, guidance 4,
                    levels, static threshold            static threshold
    hardware        2 CPU cores                         see --dry-run for memory and arithmetic
    hours           12 minutes (16, 64), estimated      depend on --steps, not run here

The paper has no metric for this. recipes/README.md has the figures and times of what was run.
"""

import argparse
import dataclasses
import math
from functools import partial
from pathlib import Path

import keras_mdm as mdm
from shared import notes, options
from shared.drawings import write_emoji
from shared.pictures import Pictures
from shared.scale import Scale
from shared.training import run, train

INNER = mdm.LevelSpec(
    16,
    channels=(64, 128, 256),
    blocks=(1, 1, 1),
    attention=(0, 1, 1),
    heads=4,
    attention_ffn=False,
)


def small_inner(size: int) -> mdm.LevelSpec:
    """The innermost level for two cores: that of 16 pixels; for larger sizes one thin block per
    further resolution is added around it, and from 64 on patches take the place of the first."""
    patch = 2 if size >= 64 else 1
    extra = max(0, round(math.log2(size / patch / 16)))
    thin = (max(16, INNER.channels[0] // 2 ** (extra - n)) for n in range(extra))
    return dataclasses.replace(
        INNER,
        size=size,
        patch=patch,
        channels=(*thin, *INNER.channels),
        blocks=(1,) * extra + tuple(INNER.blocks),
        attention=(0,) * extra + tuple(INNER.attention),
        groups=16 if extra else INNER.groups,
    )


def small_outer(size: int, inside: mdm.LevelSpec) -> mdm.LevelSpec:
    """An outer level for two cores, as in the quickstart (docs/outer-levels.md): one block per
    resolution, from that of its patches down to that of the level inside."""
    resolutions = [size // 2]
    while resolutions[-1] > inside.size // inside.patch:
        resolutions.append(resolutions[-1] // 2)
    first = 32 if resolutions[0] >= 128 else 64
    return mdm.LevelSpec(
        size,
        patch=2,
        channels=(first, *[64] * (len(resolutions) - 1)),
        blocks=(1,) * len(resolutions),
        groups=16,
        learned_deviation=True,
        sees_below=True,
    )


def small(arguments: argparse.Namespace) -> Scale:
    """The numbers for two cores, with the requested levels."""
    sizes, steps, batches = per_level(arguments, small=True)
    levels = [small_inner(sizes[0])]
    for size in sizes[1:]:
        levels.append(small_outer(size, levels[-1]))
    first = {"learning_rate": 1.5e-3, "warmup_steps": 50, "final_learning_rate": 0.15}
    later = {
        "learning_rate": 2e-3,
        "warmup_steps": 40,
        "final_learning_rate": 0.05,
        "inner_learning_rate": 0.18,
    }
    return Scale(
        phases=[
            mdm.Phase(levels[: n + 1], steps[n], batch_size=batches[n], **(later if n else first))
            for n in range(len(levels))
        ],
        network={"text_blocks": 0},
        process={
            "residual": True,
            "shift_power": 1.0,
            "threshold": "static",
            "ema_decay": 0.995,
            "loss_weighting": "min_snr",
            "censored": True,
        },
        guided_levels=len(levels),
        sampling={"sampler": "ddpm", "steps": 10, "guidance_scale": 2.0, "batch_size": 64},
        optimizer=mdm.optimizers.Muon,
        tokens=32,
        checkpoint_every=200,
        sample_every=300,
    )


def own(arguments: argparse.Namespace) -> Scale:
    """The numbers with networks by the paper's rule, which derives them from the sizes."""
    sizes, steps, batches = per_level(arguments, small=False)
    return Scale(
        phases=[
            mdm.Phase(
                sizes[: n + 1],
                steps[n],
                batch_size=batches[n],
                learning_rate=1e-4 if arguments.learning_rate is None else arguments.learning_rate,
                warmup_steps=min(1000, steps[n] // 10),
            )
            for n in range(len(sizes))
        ],
        network={"width": 1.0 if arguments.width is None else arguments.width},
        process={
            "schedule": "cosine",
            "prediction": "v",
            "loss_target": "v",
            "shift_power": 2.0,
            "downsample": "bilinear",
            "threshold": "static",
        },
        guided_levels=len(sizes),
        sampling={"sampler": "dpmpp_2m", "steps": 25, "guidance_scale": 4.0, "batch_size": 16},
        tokens=32,
        checkpoint_every=500,
        sample_every=2000,
        validate_every=1000,
    )


def per_level(arguments: argparse.Namespace, small: bool) -> tuple[list, list, list]:
    """Sizes, steps and batch sizes, one of each per level."""
    levels = arguments.levels or ([16, 64] if small else [64, 256])
    count = len(levels)
    if small:
        default = [(550, 32), (1100, 18)] + [(400, 9)] * count
    else:
        default = [(20_000, max(8, 64 // 2**n)) for n in range(count)]
    steps = arguments.steps or [steps for steps, _ in default[:count]]
    batches = arguments.batches or [batch for _, batch in default[:count]]
    if not len(batches) == len(steps) == count:
        raise ValueError(
            f"there must be one number of steps and one batch size per level. Received: "
            f"levels={levels}, steps={steps}, batches={batches}. To fix it: pass {count} of each"
        )
    if sorted(set(levels)) != levels or levels[0] < 1:
        raise ValueError(
            f"sizes of levels must be positive and ascend. Received: levels={levels}. To fix it: "
            "sort them"
        )
    return levels, steps, batches


def bucket(text: str) -> tuple[int, int]:
    """Height and width written "48x80"."""
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = options.picture_parser(__doc__, run_dir="runs/folder")
    options.add_text(parser)
    options.add_start(parser)
    parser.add_argument(
        "--condition", choices=("text", "class", "none"), default="text", help="(%(default)s)"
    )
    parser.add_argument("--levels", type=int, nargs="+", help="sizes, ascending")
    parser.add_argument("--width", type=float, help="factor on the paper's channels (1)")
    parser.add_argument("--steps", type=int, nargs="+", help="of every phase")
    parser.add_argument("--batches", type=int, nargs="+", help="batch size of every phase")
    parser.add_argument("--learning-rate", type=float, help="of the paper's networks (1e-4)")
    parser.add_argument("--crop", choices=("center", "random"), default="center")
    parser.add_argument(
        "--buckets",
        type=bucket,
        nargs="+",
        default=(),
        metavar="HEIGHTxWIDTH",
        help="sizes of the highest level, of about its area and of different proportions",
    )
    arguments = parser.parse_args()
    if arguments.buckets and (arguments.mixed or not arguments.data):
        parser.error(
            "--buckets needs --data, and no --mixed: the groups of a mixed batch would be of "
            "different sizes"
        )
    if arguments.scale == "paper" and not arguments.data:
        parser.error("--scale paper needs pictures: pass --data SOURCE")
    for option in ("text_encoder", "embeddings"):
        if arguments.condition != "text" and getattr(arguments, option):
            word = f"--{option.replace('_', '-')}"
            parser.error(
                f"{word} is about captions: leave it out with --condition {arguments.condition}"
            )
    noted = None
    if arguments.data is None:
        noted = notes.of_asset("emoji")
        size = per_level(arguments, small=True)[0][-1]
        folder = Path(arguments.run_dir).with_name(f"emoji_pictures_{size}")
        arguments.data = str(write_emoji(folder, size))
        arguments.scale = "small"
    for option in ("width", "learning_rate"):
        if arguments.scale == "small" and getattr(arguments, option) is not None:
            word = f"--{option.replace('_', '-')}"
            parser.error(f"{word} is for networks by the paper's rule, which --scale small is not")
    scale = small(arguments) if arguments.scale == "small" else own(arguments)
    if arguments.condition != "text":
        network = {k: v for k, v in scale.network.items() if k != "text_blocks"}
        scale = dataclasses.replace(scale, network=network, tokens=0)
    if arguments.buckets:
        phases = [dataclasses.replace(phase, mixed=False) for phase in scale.phases]
        scale = dataclasses.replace(scale, phases=phases, buckets=arguments.buckets)
    data = partial(
        Pictures,
        condition=arguments.condition,
        rule={"crop": arguments.crop},
        buckets=arguments.buckets,
    )
    train(arguments, scale, data, noted=noted)


if __name__ == "__main__":
    run(main)

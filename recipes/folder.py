"""Your own pictures, of any size and number, with or without captions.

    python recipes/folder.py --data my_pictures
    python recipes/folder.py --data my_pictures --condition class --levels 32 128
    python recipes/folder.py --data shards --levels 64 256 --width 0.5 --steps 50000 30000
    python recipes/folder.py --data my_pictures --scale small --levels 64 128 256

Captions are the text files beside the pictures, the columns of a table, or the names of the files;
classes are the sub-folders. One phase per level: the innermost alone, then with each next one
around it, jointly on mixed-resolution batches.

                    without arguments                   with --data SOURCE
    levels          --levels (16, 64)                   --levels (64, 256)
    network         that of the emoji recipes           the paper's rule, --width times its
                                                        channels; the left one: --scale small
    batches         32, 18 (then 9)                     --batches (64, 32, 16, ...)
    steps           800, 400 (then 200)                 --steps (20000 a phase)
    data            251 Twemoji drawings (CC BY 4.0),   folder, tar shards, record files, table,
                    written into a plain folder first   tfds:NAME
    text            all-MiniLM-L6-v2, 32 tokens         the same; FLAN-T5 with --text-encoder DIR
    optimizer       Adam (0.9, 0.99), clip 2; rates     Adam (0.9, 0.99), 1e-4, 1000 steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999
    sampling        DPM-Solver++ 2M, 16 steps,          DPM-Solver++ 2M, 25 steps, guidance 4,
                    guidance 3, static threshold        static threshold
    hardware        2 CPU cores                         see --dry-run for memory and arithmetic
    hours           9 minutes with levels 16 and 64     depend on --steps, not run here

No metric of the paper. Figures and times of what was run: recipes/README.md.
"""

import argparse
from pathlib import Path

import keras_mdm as mdm
from shared import common, image_scales, image_training, options


def per_level(arguments: argparse.Namespace, small: bool) -> tuple[list, list, list]:
    """Sizes, steps and batches, one of each per level."""
    levels = arguments.levels or ([16, 64] if small else [64, 256])
    count = len(levels)
    if small:
        default = [(800, 32), (400, 18)] + [(200, 9)] * count
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


def small(arguments: argparse.Namespace) -> common.Scale:
    """The scale for two cores, with the levels that were asked for."""
    sizes, steps, batches = per_level(arguments, small=True)
    levels = [image_scales.small_inner(sizes[0])]
    levels += [image_scales.small_level(*pair) for pair in zip(sizes[1:], sizes, strict=False)]
    stages = range(1, len(sizes) + 1)
    return image_scales.small(image_scales.small_phases(levels, stages, steps, batches))


def own(arguments: argparse.Namespace) -> common.Scale:
    """The scale with networks of the paper's rule."""
    levels, steps, batches = per_level(arguments, small=False)
    count = len(levels)
    phases = [
        {
            "levels": levels[: n + 1],
            "steps": steps[n],
            "batch_size": batches[n],
            "learning_rate": arguments.learning_rate,
            "warmup_steps": min(1000, steps[n] // 10),
        }
        for n in range(count)
    ]
    return image_scales.small(
        phases,
        network={"width": arguments.width},
        process={**mdm.presets.diffusion("mdm_s64s256"), "threshold": "static"},
        guided_levels=count,
        sampling={"sampler": "dpmpp_2m", "steps": 25, "guidance_scale": 4.0, "batch_size": 16},
        checkpoint_every=500,
        sample_every=2000,
    )


def main() -> None:
    parser = image_training.parser(__doc__, run_dir="runs/folder")
    common.add_text(parser)
    options.add_start(parser)
    parser.add_argument(
        "--condition", choices=("text", "class", "none"), default="text", help="(%(default)s)"
    )
    parser.add_argument("--levels", type=int, nargs="+", help="sizes, ascending")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the paper's channels")
    parser.add_argument("--steps", type=int, nargs="+", help="of every phase")
    parser.add_argument("--batches", type=int, nargs="+", help="batch size of every phase")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--crop", choices=("center", "random"), default="center")
    arguments = parser.parse_args()
    if arguments.scale == "paper" and not arguments.data:
        parser.error("--scale paper needs pictures: pass --data SOURCE")
    for option in ("text_encoder", "embeddings"):
        if arguments.condition != "text" and getattr(arguments, option):
            word = f"--{option.replace('_', '-')}"
            parser.error(
                f"{word} is about captions: leave it out with --condition {arguments.condition}"
            )
    if arguments.data is None:
        size = per_level(arguments, small=True)[0][-1]
        folder = Path(arguments.run_dir).with_name(f"emoji_pictures_{size}")
        arguments.data = str(common.write_emoji(folder, size))
        arguments.scale = "small"
    scale = small(arguments) if arguments.scale == "small" else own(arguments)
    if arguments.condition != "text":
        network = {k: v for k, v in scale.network.items() if k != "text_blocks"}
        scale = image_scales.changed(scale, network=network, tokens=0)
    image_training.train(
        arguments, scale, condition=arguments.condition, rule={"crop": arguments.crop}
    )


if __name__ == "__main__":
    common.run(main)

"""The cascaded diffusion model of section 4.1: a model of 16 pixels, and an upsampler to 64.

A baseline on 251 emoji drawings. The first model is the first phase of emoji_text_to_image.py. The
upsampler is a plain UNet with the blocks of that recipe's nest, which also sees the drawing at 16,
enlarged, with noise of a random amount that it is told (noise augmentation, appendix D.1). Both
train alone, one after the other, and draw together.

    batches         32, then 18                     steps           550, then 1050: the arithmetic
    optimizer       Muon, clip 2; rates fall                        of the quickstart
                    along half a cosine             sampling        DDPM, 10 steps each, guidance
    text            all-MiniLM-L6-v2, 16 tokens                     1.5, static threshold

--noise is the amount of noise in drawing, of 1000: the paper tries 1, 100, 500, 700 and 1000, and
finds 500 or 700 best. RUN/cascade.keras holds both models; keras-mdm sample, evaluate and export
take it. experiments/convergence.py compares it with the others at equal FLOPs.
"""

import argparse
import copy
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import keras_mdm as mdm
from shared import drawing, notes, options, plan, texts
from shared.drawings import Drawings, Enlarged, load
from shared.scale import Scale
from shared.training import run, train

PROCESS = {
    "threshold": "static",
    "ema_decay": 0.995,
    "loss_weighting": "min_snr",
    "censored": True,
}
COMMON = {
    "guided_levels": 1,
    "sampling": {"sampler": "ddpm", "steps": 10, "guidance_scale": 1.5, "batch_size": 64},
    "optimizer": mdm.optimizers.Muon,
    "tokens": 16,
    "checkpoint_every": 200,
    "sample_every": 350,
}
LOW = Scale(
    phases=[
        mdm.Phase(
            [
                mdm.LevelSpec(
                    16,
                    channels=(64, 128, 256),
                    blocks=(1, 1, 1),
                    attention=(0, 1, 1),
                    heads=4,
                    attention_ffn=False,
                )
            ],
            steps=550,
            batch_size=32,
            learning_rate=1.5e-3,
            warmup_steps=50,
            final_learning_rate=0.15,
        )
    ],
    network={"text_blocks": 0},
    process=PROCESS,
    **COMMON,
)
HIGH = Scale(
    phases=[
        mdm.Phase(
            [
                mdm.LevelSpec(
                    64,
                    patch=2,
                    channels=(64, 64, 128, 256),
                    blocks=(1, 1, 1, 1),
                    attention=(0, 0, 1, 1),
                    heads=4,
                    groups=16,
                    attention_ffn=False,
                    micro_conditions={"low_res_noise": 0.0},
                )
            ],
            steps=1050,
            batch_size=18,
            learning_rate=1.5e-3,
            warmup_steps=50,
            final_learning_rate=0.05,
        )
    ],
    network={"text_blocks": 0, "in_channels": 6},
    process={**PROCESS, "schedule": "cosine-shift2"},
    **COMMON,
)


def stage(arguments: argparse.Namespace, number: int) -> argparse.Namespace:
    """The arguments of one of the two trainings; options of phases have a number for each."""
    made = copy.copy(arguments)
    made.run_dir = str(Path(arguments.run_dir) / ("low", "high")[number])
    made.no_samples = True
    for name in ("phase_steps", "phase_batches"):
        given = getattr(arguments, name)
        if given is not None and len(given) != 2:
            raise ValueError(
                f"--{name.replace('_', '-')} must have a number for each of the two models. "
                f"Received: {given}. To fix it: pass two numbers"
            )
        setattr(made, name, given and [given[number]])
    return made


def main() -> None:
    parser = options.parser(__doc__, run_dir="runs/cascade")
    parser.add_argument(
        "--noise",
        type=options.whole,
        default=500,
        metavar="K",
        help="noise of the small drawing before it is enlarged, 1 to 1000 (%(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.noise > 1000:
        parser.error(
            f"--noise must be at most the 1000 steps of the schedule; got {arguments.noise}"
        )
    low = train(stage(arguments, 0), LOW, Drawings)
    high = train(stage(arguments, 1), HIGH, partial(Enlarged, sees=16))
    if arguments.dry_run or arguments.no_samples or not mdm.distribute.is_chief():
        return
    cascade, run_dir = mdm.Cascade(low, high), Path(arguments.run_dir)
    cascade.save(run_dir / "cascade.keras")
    drawings = load(arguments.data, sizes=[16, 64])
    options_ = plan.sampling(COMMON["sampling"], arguments) | {"low_res_noise": arguments.noise}
    prompts = drawing.choose_prompts(drawings, texts.PROMPTS, 32)
    page = drawing.write_page(cascade, prompts, run_dir / "prompts.png", **options_)
    print(f"\nPicture      {page}\nModel        {run_dir / 'cascade.keras'}")
    measured = None
    if arguments.worth:
        order = np.random.default_rng(0).permutation(len(drawings))
        asked = [drawings.captions[row] for row in np.resize(order, arguments.worth)]
        batch_size = options_.pop("batch_size")
        request = mdm.evaluation.Request(len(asked), asked, batch_size=batch_size, options=options_)
        real = {str(size): pictures for size, pictures in drawings.images.items()}
        with tempfile.TemporaryDirectory(dir=run_dir) as directory:
            report = mdm.evaluation.evaluate(
                cascade, real, request=request, directory=directory, measures=("kernel",)
            )
        print(f"\n{report.summary}")
        measured = json.loads(report.to_json())
    notes.preset(cascade, arguments, [page], measured)


if __name__ == "__main__":
    run(main)

"""Class-conditional ImageNet at 256, or on a small scale on emoji: pictures of a class.

There are two levels, 64 and 256. The label is added to the time embedding, without cross-attention
(appendix E). Phase 1 trains 64 alone; phase 2 trains both jointly on mixed-resolution batches.

                    without arguments                   with --data SOURCE
    levels          16, 64                              64, 256 (appendix A)
    batches         32, 18                              512, 256
    steps           450, 1000                           300K, 500K
    data            251 Twemoji drawings (CC BY 4.0),   ImageNet: a folder per class, shards of
                    each one a class                    `keras-mdm prepare`, or tfds:imagenet2012
    optimizer       Muon, clip 2; rates                 Adam (0.9, 0.99), 1e-4, 30K steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999 (appendix B)
    sampling        DDPM, 10 steps, guidance 2 at all   DDPM, 250 steps, guidance 2.5, dynamic
                    levels, static threshold            threshold (appendix C, figure 12)
    hardware        2 CPU cores                         8 A100 in the paper; not run here
    hours           10 minutes, estimated               not given in the paper, not run here
    paper's metric  -                                   FID-50K 8.92, 6.62 with guidance 1.2

The paper contradicts itself. Its text says that labels were not dropped in training (appendix E),
but its table 1 and figures 12 to 14 use classifier-free guidance, which needs a model that was also
trained without labels. Here 10 % of labels are dropped. --exact drops none, and then samples are
drawn without guidance.
recipes/README.md has the figures and times of what was run.
"""

import dataclasses
from functools import partial

import keras_mdm as mdm
from shared import options, rehearsal
from shared.pictures import Pictures
from shared.plan import choose
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
# As in the quickstart, see docs/outer-levels.md.
OUTER = mdm.LevelSpec(
    64,
    patch=2,
    channels=(64, 64),
    blocks=(1, 1),
    groups=16,
    learned_deviation=True,
    sees_below=True,
)
SMALL = Scale(
    phases=[
        mdm.Phase(
            [INNER],
            steps=450,
            batch_size=32,
            learning_rate=1.5e-3,
            warmup_steps=50,
            final_learning_rate=0.15,
        ),
        mdm.Phase(
            [INNER, OUTER],
            steps=1000,
            batch_size=18,
            learning_rate=2e-3,
            warmup_steps=40,
            final_learning_rate=0.05,
            inner_learning_rate=0.18,
        ),
    ],
    network={},
    process={
        "residual": True,
        "shift_power": 1.0,
        "threshold": "static",
        "ema_decay": 0.995,
        "loss_weighting": "min_snr",
        "censored": True,
    },
    guided_levels=2,
    sampling={"sampler": "ddpm", "steps": 10, "guidance_scale": 2.0, "batch_size": 64},
    optimizer=mdm.optimizers.Muon,
    tokens=0,
    checkpoint_every=200,
    sample_every=300,
)

PAPER_64 = mdm.LevelSpec(64, channels=(256, 512, 768), blocks=(2, 2, 2), attention=(0, 1, 5))
PAPER_256 = mdm.LevelSpec(256, channels=(64, 128, 256), blocks=(2, 2, 1))
RATE = {"learning_rate": 1e-4, "warmup_steps": 30_000}
PAPER = Scale(
    phases=[
        mdm.Phase([PAPER_64], steps=300_000, batch_size=512, **RATE),
        mdm.Phase([PAPER_64, PAPER_256], steps=500_000, batch_size=256, **RATE),
    ],
    network={},
    process={
        "schedule": "cosine",
        "prediction": "v",
        "loss_target": "v",
        "shift_power": 2.0,
        "downsample": "bilinear",
        "threshold": "dynamic",
        "ema_decay": 0.9999,
    },
    guided_levels=2,
    sampling={"sampling": "paper", "guidance_scale": 2.5, "batch_size": 4},
    tokens=0,
    checkpoint_every=1000,
    sample_every=10_000,
    validate_every=5000,
)


def main() -> None:
    parser = options.picture_parser(__doc__, run_dir="runs/imagenet_256")
    options.add_start(parser)
    rehearsal.add(parser)
    parser.add_argument(
        "--exact", action="store_true", help="drop no labels, as the paper's text says"
    )
    arguments = parser.parse_args()
    if arguments.exact and arguments.guidance not in (None, 1.0):
        parser.error(
            f"--exact drops no labels, and guidance needs dropped labels (got --guidance "
            f"{arguments.guidance}): leave one of the two out"
        )
    scale = choose(parser, arguments, SMALL, PAPER, kind="class")
    process = {**scale.process, "cond_dropout": 0.0 if arguments.exact else 0.1}
    scale = dataclasses.replace(scale, process=process)
    train(arguments, scale, partial(Pictures, condition="class"))


if __name__ == "__main__":
    run(main)

"""The simple diffusion model of section 4.1: one plain UNet at the highest size, no levels.

A baseline: it has the blocks of the nest of emoji_text_to_image.py, or with --data that of
cc12m_256.py, its noise schedule at the highest level, its optimizer, loss and sampler. What needs
a level below (residual output, learned deviation, view of that level) is gone. The other simple
model of the paper, the nest with the highest loss alone, is

    python recipes/cc12m_256.py --no-progressive --highest-only --mixed no

                    without arguments                   with --data SOURCE
    resolutions     64 (in patches of 2), down to 4     256 down to 16
    batch           18                                  1024
    steps           1500, the arithmetic of the         500K
                    quickstart
    optimizer       Muon, clip 2; the rate falls        Adam (0.9, 0.99), 1e-4, 30K steps of
                    along half a cosine                 warm-up, clip 2, EMA 0.9999
    sampling        DDPM, 10 steps, guidance 1.5,       DDPM, 250 steps, guidance 7, dynamic
                    static threshold                    threshold

experiments/convergence.py compares it with the others at equal FLOPs.
"""

import keras_mdm as mdm
from shared import options, rehearsal
from shared.pictures import Pictures
from shared.plan import choose
from shared.scale import Scale
from shared.training import run, train

SMALL = Scale(
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
                )
            ],
            steps=1500,
            batch_size=18,
            learning_rate=1.5e-3,
            warmup_steps=50,
            final_learning_rate=0.05,
        )
    ],
    network={"text_blocks": 0},
    process={
        "schedule": "cosine-shift2",
        "threshold": "static",
        "ema_decay": 0.995,
        "loss_weighting": "min_snr",
        "censored": True,
    },
    guided_levels=1,
    sampling={"sampler": "ddpm", "steps": 10, "guidance_scale": 1.5, "batch_size": 64},
    optimizer=mdm.optimizers.Muon,
    tokens=16,
    checkpoint_every=200,
    sample_every=350,
)
PAPER = Scale(
    phases=[
        mdm.Phase(
            [
                mdm.LevelSpec(
                    256,
                    channels=(64, 128, 256, 512, 768),
                    blocks=(2, 2, 2, 2, 2),
                    attention=(0, 0, 0, 1, 5),
                )
            ],
            steps=500_000,
            batch_size=1024,
            learning_rate=1e-4,
            warmup_steps=30_000,
        )
    ],
    network={"time_width": 1024},
    process={
        "schedule": "cosine-shift4",
        "prediction": "v",
        "loss_target": "v",
        "downsample": "bilinear",
        "threshold": "dynamic",
        "ema_decay": 0.9999,
    },
    guided_levels=1,
    sampling={"sampling": "paper", "guidance_scale": 7.0, "batch_size": 4},
    tokens=128,
    checkpoint_every=1000,
    sample_every=10_000,
    validate_every=5000,
)


def main() -> None:
    parser = options.picture_parser(__doc__, run_dir="runs/simple")
    options.add_text(parser)
    rehearsal.add(parser)
    arguments = parser.parse_args()
    train(arguments, choose(parser, arguments, SMALL, PAPER), Pictures)


if __name__ == "__main__":
    run(main)

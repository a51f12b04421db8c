"""Text to image at 1024 on CC12M with three or five levels, or on a small scale on emoji.

The phase at 1024 always begins with the trained 256 model (appendix B). The run trains that model
first, or takes it from --start: a model, run or checkpoint of cc12m_256.py.

                    without arguments                   with --data SOURCE
    levels          16, 32, 64; with --levels 5         64, 256, 1024; with --levels 5
                    8, 16, 32, 64, 128                  64, 128, 256, 512, 1024 (appendix A)
    phases          16 / 16, 32 / all;                  64 / 64, 256 / all;
                    8 / 8 to 32 / all                   64 / 64 to 256 / all
    batches         32, 18, 12                          2048, 1024, 768
    steps           550, 400, 600                       500K, 500K, 100K
    data            251 Twemoji drawings (CC BY 4.0)    CC12M, prepared with --size 1024
    text            all-MiniLM-L6-v2, 32 tokens         FLAN-T5 XL with --text-encoder DIR, else
                                                        all-MiniLM-L6-v2; 128 tokens
    optimizer       Muon, clip 2; rates                 Adam (0.9, 0.99), 1e-4, 30K steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999 (appendix B)
    sampling        DDPM, 10 steps, guidance 2 at all   DDPM, 250 steps, guidance 7, dynamic
                    levels, static threshold            threshold (appendices C and F)
    hardware        2 CPU cores                         32 A100 in the paper; not run here
    hours           14 to 22 minutes                    not given in the paper, not run here
    paper's metric  -                                   none: samples only (figures 6, 16, 17)

recipes/README.md has the figures and times of what was run.
"""

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
# What an outer level of the quickstart has, see docs/outer-levels.md.
SEEING = {"groups": 16, "learned_deviation": True, "sees_below": True}
SMALL_LEVELS = {
    3: [
        INNER,
        mdm.LevelSpec(32, patch=2, channels=(64,), blocks=(1,), **SEEING),
        mdm.LevelSpec(64, patch=2, channels=(64, 64), blocks=(1, 1), **SEEING),
    ],
    5: [
        mdm.LevelSpec(
            8, channels=(128, 256), blocks=(1, 1), attention=(1, 1), heads=4, attention_ffn=False
        ),
        mdm.LevelSpec(16, patch=2, channels=(128,), blocks=(1,), **SEEING),
        mdm.LevelSpec(32, patch=2, channels=(64, 128), blocks=(1, 1), **SEEING),
        mdm.LevelSpec(64, patch=2, channels=(64, 64), blocks=(1, 1), **SEEING),
        mdm.LevelSpec(128, patch=2, channels=(32, 64), blocks=(1, 1), **SEEING),
    ],
}

PAPER_64 = mdm.LevelSpec(64, channels=(256, 512, 768), blocks=(2, 2, 2), attention=(0, 1, 5))
PAPER_LEVELS = {
    3: [
        PAPER_64,
        mdm.LevelSpec(256, channels=(64, 128, 256), blocks=(2, 2, 1)),
        mdm.LevelSpec(1024, channels=(32, 32, 64), blocks=(2, 2, 1)),
    ],
    5: [
        PAPER_64,
        mdm.LevelSpec(128, channels=(128, 256), blocks=(2, 1)),
        mdm.LevelSpec(256, channels=(64, 128), blocks=(2, 1)),
        mdm.LevelSpec(512, channels=(32, 64), blocks=(2, 1)),
        mdm.LevelSpec(1024, channels=(32, 32), blocks=(2, 1)),
    ],
}
# Number of levels of the second phase: in the paper those up to 256.
MIDDLE = {3: 2, 5: 3}


def small(count: int) -> Scale:
    """The numbers for two cores, with `count` levels."""
    every = SMALL_LEVELS[count]
    growing = {
        "learning_rate": 2e-3,
        "warmup_steps": 40,
        "final_learning_rate": 0.05,
        "inner_learning_rate": 0.18,
    }
    return Scale(
        phases=[
            mdm.Phase(
                every[:1],
                steps=550,
                batch_size=32,
                learning_rate=1.5e-3,
                warmup_steps=50,
                final_learning_rate=0.15,
            ),
            mdm.Phase(every[: MIDDLE[count]], steps=400, batch_size=18, **growing),
            mdm.Phase(every, steps=600, batch_size=12, **growing),
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
        guided_levels=count,
        sampling={"sampler": "ddpm", "steps": 10, "guidance_scale": 2.0, "batch_size": 64},
        optimizer=mdm.optimizers.Muon,
        tokens=32,
        checkpoint_every=200,
        sample_every=300,
    )


def paper(count: int) -> Scale:
    """The paper's numbers, with `count` levels."""
    every, rate = PAPER_LEVELS[count], {"learning_rate": 1e-4, "warmup_steps": 30_000}
    return Scale(
        phases=[
            mdm.Phase(every[:1], steps=500_000, batch_size=2048, **rate),
            mdm.Phase(every[: MIDDLE[count]], steps=500_000, batch_size=1024, **rate),
            mdm.Phase(every, steps=100_000, batch_size=768, **rate),
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
        guided_levels=len(every),
        sampling={"sampling": "paper", "guidance_scale": 7.0, "batch_size": 4},
        tokens=128,
        checkpoint_every=1000,
        sample_every=10_000,
        validate_every=5000,
    )


def main() -> None:
    parser = options.picture_parser(__doc__, run_dir="runs/cc12m_1024")
    options.add_text(parser)
    options.add_start(parser, "phases whose levels it has are left out")
    rehearsal.add(parser)
    parser.add_argument(
        "--levels", type=int, choices=(3, 5), default=3, help="number of levels (%(default)s)"
    )
    arguments = parser.parse_args()
    scale = choose(parser, arguments, small(arguments.levels), paper(arguments.levels))
    train(arguments, scale, Pictures, skip_trained=True)


if __name__ == "__main__":
    run(main)

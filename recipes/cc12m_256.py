"""Text to image at 256 on CC12M with two or three levels, or on a small scale on emoji.

Phase 1 trains 64 alone; phase 2 trains all levels jointly on mixed-resolution batches. With three
levels, phase 2 adds two at once, because stages of training need not be levels (appendix B). One
pair in a thousand is held out for validation (appendix E).

                    without arguments                   with --data SOURCE
    levels          16, 64; with --levels 3             64, 256; with --levels 3
                    16, 32, 64                          64, 128, 256 (appendix A)
    batches         32, 18                              2048, 1024
    steps           550, 1100                           500K, 500K
    data            251 Twemoji drawings (CC BY 4.0)    CC12M: tar shards of img2dataset, or what
                                                        `keras-mdm prepare` made of them
    text            all-MiniLM-L6-v2, 32 tokens         FLAN-T5 XL with --text-encoder DIR, else
                                                        all-MiniLM-L6-v2; 128 tokens
    optimizer       Muon, clip 2; rates                 Adam (0.9, 0.99), 1e-4, 30K steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999 (appendix B)
    sampling        DDPM, 10 steps, guidance 2 at all   DDPM, 250 steps, guidance 7, dynamic
                    levels, static threshold            threshold (appendices C and F)
    hardware        2 CPU cores                         32 A100 in the paper; not run here
    hours           12 minutes, estimated               not given in the paper, not run here
    paper's metric  -                                   zero-shot COCO FID-30K 18.35, 13.43 with
                                                        guidance 1.35

Encode the captions once, beforehand: keras-mdm embed SOURCE EMBEDDINGS. Then pass --embeddings
EMBEDDINGS.
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
    2: [INNER, mdm.LevelSpec(64, patch=2, channels=(64, 64), blocks=(1, 1), **SEEING)],
    3: [
        INNER,
        mdm.LevelSpec(32, patch=2, channels=(64,), blocks=(1,), **SEEING),
        mdm.LevelSpec(64, patch=2, channels=(64, 64), blocks=(1, 1), **SEEING),
    ],
}

PAPER_64 = mdm.LevelSpec(64, channels=(256, 512, 768), blocks=(2, 2, 2), attention=(0, 1, 5))
PAPER_LEVELS = {
    2: [PAPER_64, mdm.LevelSpec(256, channels=(64, 128, 256), blocks=(2, 2, 1))],
    3: [
        PAPER_64,
        mdm.LevelSpec(128, channels=(128, 256), blocks=(2, 1)),
        mdm.LevelSpec(256, channels=(64, 128), blocks=(2, 1)),
    ],
}


def small(count: int) -> Scale:
    """The numbers for two cores, with `count` levels."""
    every = SMALL_LEVELS[count]
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
            mdm.Phase(
                every,
                steps=1100,
                batch_size=18,
                learning_rate=2e-3,
                warmup_steps=40,
                final_learning_rate=0.05,
                inner_learning_rate=0.18,
            ),
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
            mdm.Phase(every, steps=500_000, batch_size=1024, **rate),
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
    parser = options.picture_parser(__doc__, run_dir="runs/cc12m_256")
    options.add_text(parser)
    options.add_start(parser)
    rehearsal.add(parser)
    parser.add_argument(
        "--levels", type=int, choices=(2, 3), default=2, help="number of levels (%(default)s)"
    )
    arguments = parser.parse_args()
    scale = choose(parser, arguments, small(arguments.levels), paper(arguments.levels))
    train(arguments, scale, Pictures)


if __name__ == "__main__":
    run(main)

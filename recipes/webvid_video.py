"""Text to video: an image model that grows in time, then in space, in half an hour on two cores.

This is the paper's schedule on a small scale. Phase 1 trains pictures, phase 2 adds frames, phase 3
adds pixels. Every level is denoised jointly with those inside it, and in later phases a third of
the samples stop at a lower level (section 3.3). The picture is the first frame of the clip (section
4.1).

                    without arguments                   with --data DIR
    levels          16, 8x16, 8x32 (frames x pixels)    64, 16x64, 16x256
    batches         32, 12, 9                           2048, 512, 128
    steps           400, 600, 500                       500K, 500K, 300K
    data            50 Twemoji drawings (CC BY 4.0)     WebVid-10M: videos with captions, or clips
                    in 8 motions, an eighth of the      that `keras-mdm prepare` made of them; 16
                    pairs held out                      frames, every 4th, short videos spread,
                                                        mirrored at random
    text            all-MiniLM-L6-v2, 16 tokens         FLAN-T5 XL with --text-encoder DIR, else
                                                        all-MiniLM-L6-v2, 128 tokens; encoded
                                                        before with --embeddings DIR
    optimizer       Muon, clip 2; rates                 Adam (0.9, 0.99), 1e-4, 30K steps of
                    fall along half a cosine            warm-up, clip 2, EMA 0.9999 (appendix B)
    sampling        DDPM, 10 steps, guidance 2 at all   DDPM, 250 steps, guidance 7, dynamic
                    levels, static threshold            threshold (appendix C)
    hardware        2 CPU cores                         32 A100 in the paper; not run here
    hours           half an hour                        not given in the paper, not run here

Before the small run, once: keras-mdm assets fetch emoji minilm efficientnet-lite0. Other data at
the small size: --animated-emoji (keras-mdm assets fetch animated-emoji), or --data DIR with
--scale small.
docs/video.md has the result and the time.
"""

import keras_mdm as mdm
from shared import options, rehearsal
from shared.clips import Clips
from shared.plan import choose
from shared.scale import Scale
from shared.training import run, train

SMALL_LEVELS = [
    mdm.LevelSpec(
        16,
        channels=(64, 128, 256),
        blocks=(1, 1, 1),
        attention=(0, 1, 1),
        heads=4,
        attention_ffn=False,
    ),
    mdm.LevelSpec(
        16,
        frames=8,
        channels=(64, 64, 64, 64),
        blocks=(1, 1, 1, 1),
        temporal_attention=(1, 1, 1, 0),
        learned_deviation=True,
        sees_below=True,
    ),
    # Patches as in the quickstart, with attention over time against flicker.
    mdm.LevelSpec(
        32,
        frames=8,
        patch=2,
        channels=(64,),
        blocks=(2,),
        temporal_attention=(1,),
        groups=16,
        learned_deviation=True,
        sees_below=True,
    ),
]
SMALL = Scale(
    phases=[
        mdm.Phase(
            SMALL_LEVELS[:1],
            steps=400,
            batch_size=32,
            learning_rate=1.5e-3,
            warmup_steps=50,
            final_learning_rate=0.15,
        ),
        mdm.Phase(
            SMALL_LEVELS[:2],
            steps=600,
            batch_size=12,
            learning_rate=1.5e-3,
            warmup_steps=60,
            final_learning_rate=0.08,
            inner_learning_rate=0.25,
        ),
        mdm.Phase(
            SMALL_LEVELS,
            steps=500,
            batch_size=9,
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
    guided_levels=3,
    sampling={"sampler": "ddpm", "steps": 10, "guidance_scale": 2.0, "batch_size": 48},
    optimizer=mdm.optimizers.Muon,
    tokens=16,
    checkpoint_every=200,
    sample_every=600,
)

PAPER_LEVELS = [
    mdm.LevelSpec(64, channels=(256, 512, 768), blocks=(2, 2, 2), attention=(0, 1, 5)),
    mdm.LevelSpec(
        64,
        frames=16,
        channels=(256, 256, 256, 256, 256),
        blocks=(2, 2, 2, 2, 1),
        temporal_attention=(1, 1, 1, 1, 0),
    ),
    mdm.LevelSpec(256, frames=16, channels=(64, 128, 256), blocks=(2, 2, 1)),
]
RATE = {"learning_rate": 1e-4, "warmup_steps": 30_000}
PAPER = Scale(
    phases=[
        mdm.Phase(PAPER_LEVELS[:1], steps=500_000, batch_size=2048, **RATE),
        mdm.Phase(PAPER_LEVELS[:2], steps=500_000, batch_size=512, **RATE),
        mdm.Phase(PAPER_LEVELS, steps=300_000, batch_size=128, **RATE),
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
    guided_levels=3,
    sampling={"sampling": "paper", "guidance_scale": 7.0, "batch_size": 4},
    tokens=128,
    checkpoint_every=1000,
    sample_every=10_000,
    validate_every=5000,
)


def main() -> None:
    parser = options.parser(__doc__, run_dir="runs/webvid_video", data="folder of videos or shards")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--captions", help="CSV file, or 'names' to take the files' names; see keras-mdm prepare"
    )
    data.add_argument(
        "--animated-emoji", action="store_true", help="the small run on 3D animations"
    )
    data.add_argument("--stride", type=int, default=4, help="take every Nth frame (%(default)s)")
    data.add_argument(
        "--clips",
        choices=("fixed", "random"),
        default="fixed",
        help="take one clip per video, or a new place each time (%(default)s)",
    )
    data.add_argument(
        "--short",
        choices=("spread", "skip"),
        default="spread",
        help="videos with too few frames: take all they have, spread evenly, or none (%(default)s)",
    )
    options.add_max_skipped(data, "videos")
    parser.add_argument(
        "--scale",
        choices=("small", "paper"),
        help="size of the training; paper with --data, else small",
    )
    options.add_text(parser)
    options.add_start(parser)
    rehearsal.add(parser)
    arguments = parser.parse_args()
    if arguments.data and arguments.animated_emoji:
        parser.error("--data and --animated-emoji exclude each other")
    train(arguments, choose(parser, arguments, SMALL, PAPER, kind="video"), Clips)


if __name__ == "__main__":
    run(main)

"""Text to image on 251 emoji drawings: 16 pixels, grown to 64, in about ten minutes on two cores.

This is the paper's schedule on a small scale. Phase 1 trains the innermost level. Phase 2 adds the
outer one around it, and from then on both are denoised together (section 3.3). The outer level
predicts relative to a Wiener estimate around the picture below, so it has no noise to unlearn, and
works on squares of 2 x 2 pixels: more channels at fewer positions (docs/outer-levels.md).

    levels          16, then 16 and 64        schedule    cosine, SNR / 4 at 64 (shift 4, power 1)
    text            all-MiniLM-L6-v2, frozen, 16 tokens of width 384; 10 % of prompts dropped
    optimizer       Muon, clip 2, warm-up, half a cosine down; EMA
    loss            v, weighted by min-SNR (gamma 5); none for estimates beyond white and black
    sampling        DDPM, 10 steps, guidance 1.5, static threshold
    data            Twemoji (CC BY 4.0), fetched once by
                    keras-mdm assets fetch emoji minilm efficientnet-lite0

docs/demo.md has the result and the time. For your own pictures use --data DIR (captions come from
.txt files beside them, or from the file names).
"""

import keras_mdm as mdm
from shared import options
from shared.drawings import Drawings
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
# The level also predicts how large the detail of a pixel is, so flat areas stay flat, and sees the
# picture of the level below on its way up.
OUTER = mdm.LevelSpec(
    64,
    patch=2,
    channels=(64, 64),
    blocks=(1, 1),
    groups=16,
    learned_deviation=True,
    sees_below=True,
)
SCALE = Scale(
    phases=[
        mdm.Phase(
            [INNER],
            steps=550,
            batch_size=32,
            learning_rate=1.5e-3,
            warmup_steps=50,
            final_learning_rate=0.15,
        ),
        # A third of a batch's samples are trained at 16 only, which is cheap (section 3.3). The new
        # level learns faster than the trained one inside it. Its batches are small, because it
        # needs many steps and its samples are sixteen times larger.
        mdm.Phase(
            [INNER, OUTER],
            steps=1100,
            batch_size=18,
            learning_rate=2e-3,
            warmup_steps=40,
            final_learning_rate=0.05,
            inner_learning_rate=0.18,
        ),
    ],
    network={"text_blocks": 0},
    # Flat drawings on white sit at the ends of [-1, 1]: a dynamic threshold divides estimates by
    # their overshoot and so greys the paper; the static one clips them. With power 1, as in the
    # released 256 network, higher levels spend more of their time where only fine noise is left.
    process={
        "residual": True,
        "shift_power": 1.0,
        "threshold": "static",
        "ema_decay": 0.995,
        "loss_weighting": "min_snr",
        "censored": True,
    },
    guided_levels=2,
    sampling={"sampler": "ddpm", "steps": 10, "guidance_scale": 1.5, "batch_size": 64},
    optimizer=mdm.optimizers.Muon,
    tokens=16,
    checkpoint_every=200,
    sample_every=350,
)


def main() -> None:
    arguments = options.parser(__doc__, run_dir="runs/emoji_text_to_image").parse_args()
    train(arguments, SCALE, Drawings)


if __name__ == "__main__":
    run(main)

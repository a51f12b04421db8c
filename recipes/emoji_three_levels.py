"""Text to image on 251 emoji at 16, 32 and 64 pixels: the whole training engine, scaled down.

Every phase adds a level and mixes resolutions: with three levels, 6/9 of the samples are trained at
all of them, 2/9 up to 32 and 1/9 at 16 only (section 3.3). Times are stratified over the batch. Two
averages of different widths are kept, to reconstruct others from them. The outer levels' blocks are
recomputed in the backward pass, each batch goes through the network in two halves, and a ramp
brings in the loss of a new level. Outer levels are built as in the quickstart.

    levels          16, then 16 and 32, then 16, 32 and 64
    text            all-MiniLM-L6-v2, frozen, 16 tokens of width 384; 10 % of prompts dropped
    optimizer       Muon, clip 2, warm-up, half a cosine down; EMA and two power EMAs
    loss            v, weighted by min-SNR (gamma 5); none for estimates beyond white and black
    sampling        DDPM, 10 steps, guidance 2, static threshold
    data            Twemoji (CC BY 4.0), fetched once by
                    keras-mdm assets fetch emoji minilm efficientnet-lite0

To run it unattended, with a restart after any failure:

    keras-mdm launch -n 1 --restarts 10 recipes/emoji_three_levels.py

docs/training.md shows the result. For your own pictures use --data DIR.
"""

import keras_mdm as mdm
from shared import options
from shared.drawings import Drawings
from shared.scale import Scale
from shared.training import run, train

# What an outer level of the quickstart has, see docs/outer-levels.md.
SEEING = {"groups": 16, "learned_deviation": True, "sees_below": True}
LEVELS = [
    mdm.LevelSpec(
        16,
        channels=(64, 128, 256),
        blocks=(1, 1, 1),
        attention=(0, 1, 1),
        heads=4,
        attention_ffn=False,
    ),
    mdm.LevelSpec(32, patch=2, channels=(64,), blocks=(1,), **SEEING),
    mdm.LevelSpec(64, patch=2, channels=(64, 64), blocks=(1, 1), **SEEING),
]
SCALE = Scale(
    phases=[
        mdm.Phase(
            LEVELS[:1],
            steps=550,
            batch_size=32,
            learning_rate=1.5e-3,
            warmup_steps=50,
            final_learning_rate=0.15,
        ),
        mdm.Phase(
            LEVELS[:2],
            steps=400,
            batch_size=24,
            learning_rate=2e-3,
            warmup_steps=40,
            final_learning_rate=0.15,
            inner_learning_rate=0.18,
            level_weights=mdm.WeightRamp({"32": 0.1}, {"32": 1.0}, until=0.1),
        ),
        mdm.Phase(
            LEVELS,
            steps=700,
            batch_size=18,
            learning_rate=2e-3,
            warmup_steps=40,
            final_learning_rate=0.05,
            inner_learning_rate=0.18,
            level_weights=mdm.WeightRamp({"64": 0.1}, {"64": 1.0}, until=0.1),
        ),
    ],
    network={"text_blocks": 0},
    process={
        "residual": True,
        "shift_power": 1.0,
        "threshold": "static",
        "ema_decay": 0.995,
        "times": "stratified",
        "power_emas": (0.05, 0.1),
        "loss_weighting": "min_snr",
        "censored": True,
    },
    guided_levels=3,
    sampling={"sampler": "ddpm", "steps": 10, "guidance_scale": 2.0, "batch_size": 64},
    optimizer=mdm.optimizers.Muon,
    tokens=16,
    checkpoint_every=100,
    sample_every=300,
    keep_every=200,
    micro_batches=2,
    recompute=("32", "64"),
)


def main() -> None:
    arguments = options.parser(__doc__, run_dir="runs/emoji_three_levels").parse_args()
    train(arguments, SCALE, Drawings)


if __name__ == "__main__":
    run(main)

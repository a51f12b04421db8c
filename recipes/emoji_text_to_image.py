"""Text to image on 251 emoji drawings: 16 pixels, grown to 64, in about ten minutes on two cores.

The paper's schedule in small. Phase 1 trains the innermost level, phase 2 adds the outer one around
it, and both levels are denoised together from then on (section 3.3). The outer level predicts
relative to a Wiener estimate around the picture below, so that it starts without noise to unlearn.

    levels          16, then 16 and 64        schedule    cosine, SNR / 4 at 64 (shift 4, power 1)
    text            all-MiniLM-L6-v2, frozen, 16 tokens of width 384; 10 % of prompts dropped
    optimizer       Adam (0.9, 0.99), clip 2, warm-up, half a cosine down; EMA
    sampling        DDIM, 25 steps, guidance 3 at 16 and none at 64, static threshold
    data            Twemoji (CC BY 4.0), fetched once: keras-mdm assets fetch emoji minilm

Result and time: docs/demo.md. Your own pictures: --data DIR (captions from .txt files beside them,
or from the file names).
"""

import keras_mdm as mdm
from shared import common, text_to_image

OUTER = mdm.LevelSpec(64, channels=(16, 32, 64), blocks=(1, 1, 1), groups=16)
PHASES = [
    text_to_image.INNER_PHASE,
    # A third of a batch's samples are trained at 16 only, which is cheap (section 3.3). The new
    # level learns faster than the trained one around which it grows, from small batches:
    # it needs many steps, and its samples are sixteen times larger.
    {
        "levels": [text_to_image.INNER, OUTER],
        "steps": 700,
        "batch_size": 18,
        "learning_rate": 3e-3,
        "warmup_steps": 40,
        "final_learning_rate": 0.05,
        "inner_learning_rate": 0.12,
    },
]


def main() -> None:
    arguments = common.parser(__doc__, run_dir="runs/emoji_text_to_image").parse_args()
    text_to_image.train(arguments, PHASES, checkpoint_every=200)


if __name__ == "__main__":
    common.run(main)

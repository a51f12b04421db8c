"""Text to video: an image model that grows in time, then in space, in twenty minutes on two cores.

The paper's schedule in small. Phase 1 trains pictures, phase 2 adds frames, phase 3 adds pixels;
every level is denoised jointly with those inside it, and a third of the samples of a later phase
stop at a lower level (section 3.3). The picture is the first frame of the clip (section 4.1).

    levels          16, then 16 and 8x16, then 16, 8x16 and 8x32 (frames x pixels)
    text            all-MiniLM-L6-v2, frozen, 16 tokens of width 384; 10 % of prompts dropped
    optimizer       Adam (0.9, 0.99), clip 2, warm-up, half a cosine down; EMA
    sampling        DDIM, 25 steps, guidance 3 up to 8x16 and none above, static threshold
    data            50 Twemoji drawings (CC BY 4.0) in 8 motions, one pair in eight held out:
                    keras-mdm assets fetch emoji minilm

Result and time: docs/video.md.
"""

import text_to_image

import keras_mdm as mdm

LEVELS = [
    text_to_image.INNER,
    mdm.LevelSpec(
        16,
        frames=8,
        channels=(64, 64, 64, 64),
        blocks=(1, 1, 1, 1),
        temporal_attention=(1, 1, 1, 0),
    ),
    mdm.LevelSpec(32, frames=8, channels=(16, 32), blocks=(1, 1), groups=16),
]
PHASES = [
    {**text_to_image.INNER_PHASE, "levels": LEVELS[:1], "steps": 600},
    {
        "levels": LEVELS[:2],
        "steps": 350,
        "batch_size": 18,
        "learning_rate": 3e-3,
        "warmup_steps": 40,
        "final_learning_rate": 0.1,
        "inner_learning_rate": 0.2,
    },
    {
        "levels": LEVELS,
        "steps": 320,
        "batch_size": 9,
        "learning_rate": 3e-3,
        "warmup_steps": 40,
        "final_learning_rate": 0.05,
        "inner_learning_rate": 0.12,
    },
]

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

from pathlib import Path

import common
import keras

import keras_mdm as mdm

INNER = mdm.LevelSpec(
    16,
    channels=(64, 128, 256),
    blocks=(1, 1, 1),
    attention=(0, 1, 1),
    heads=4,
    attention_ffn=False,
)
OUTER = mdm.LevelSpec(64, channels=(16, 32, 64), blocks=(1, 1, 1), groups=16)
PHASES = [
    {
        "levels": [INNER],
        "steps": 850,
        "batch_size": 32,
        "learning_rate": 1.5e-3,
        "warmup_steps": 50,
        "final_learning_rate": 0.15,
    },
    # A third of a batch's samples are trained at 16 only, which is cheap (section 3.3). The new
    # level learns faster than the trained one around which it grows, from small batches:
    # it needs many steps, and its samples are sixteen times larger.
    {
        "levels": [INNER, OUTER],
        "steps": 700,
        "batch_size": 18,
        "learning_rate": 3e-3,
        "warmup_steps": 40,
        "final_learning_rate": 0.05,
        "inner_learning_rate": 0.12,
    },
]
# Flat drawings on white sit at the ends of [-1, 1]: a dynamic threshold divides by what the
# estimate overshoots and so greys the paper, the static one clips it. With power 1, as in the
# released 256 network, the high level spends more of its time where only fine noise is left.
PROCESS = {"residual": True, "shift_power": 1.0, "threshold": "static"}
SAMPLING = {"steps": 25, "guidance_scale": 3.0, "batch_size": 64}
PROMPTS = [
    *("red heart", "green heart", "blue circle", "yellow square", "red apple", "banana"),
    *("strawberry", "watermelon", "pizza", "hamburger", "carrot", "sunflower", "tulip"),
    *("sun", "rainbow", "star", "grinning face", "loudly crying face", "tiger face", "panda"),
    *("frog", "tropical fish", "penguin", "octopus", "automobile", "airplane", "sailboat"),
    *("rocket", "american football", "baseball", "guitar", "Christmas tree"),
]


def main() -> None:
    arguments = common.parser(__doc__, run_dir="runs/emoji_text_to_image").parse_args()
    keras.config.set_dtype_policy(arguments.dtype)
    phases = common.scaled(PHASES, arguments.steps_scale)
    data = common.load_data(arguments.data, sizes=(16, 64))
    encoder = mdm.text.MiniLM(length=16)
    if arguments.dry_run:
        common.print_run(arguments, phases, pictures=len(data), encoder=encoder.identity)
        return
    text, text_mask = mdm.text.encode_cached(encoder, data.captions)

    def make_model(phase: mdm.Phase) -> mdm.MatryoshkaDiffusion:
        unet = mdm.build_nested_unet(
            phase.levels, text_width=encoder.width, text_blocks=0, seed=arguments.seed
        )
        model = mdm.MatryoshkaDiffusion(
            unet,
            text_encoder=encoder,
            ema_decay=0.995,
            # Guidance decides what is drawn, and that is decided at the low level; at the high one
            # it would only blow up the difference of two estimates into a grain on flat areas.
            guidance_shares=dict.fromkeys(phase.level_names[1:], 0.0),
            seed=arguments.seed,
            **PROCESS,
        )
        model.compile(mdm.optimizers.Adam(phase.learning_rate_schedule(), clip_norm=2.0))
        return model

    def make_dataset(phase: mdm.Phase, first_step: int):
        groups = {
            level: mdm.data.image_text_dataset(
                data.images[int(level)],
                text,
                text_mask,
                batch_size=rows,
                seed=arguments.seed,
                first_step=first_step,
            )
            for level, rows in phase.groups.items()
        }
        return mdm.data.mixed_dataset(groups)

    prompts = common.choose_prompts(data, PROMPTS, 32)
    model = mdm.fit_progressively(
        phases,
        make_model,
        make_dataset,
        run_dir=arguments.run_dir,
        callbacks=common.sample_grids(prompts[:8], every=300, **SAMPLING),
        checkpoint_every=200,
        arguments=vars(arguments),
    )
    run_dir = Path(arguments.run_dir)
    page = common.write_page(model, prompts, run_dir / "prompts.png", **SAMPLING)
    print(common.prompt_fidelity(model, data, count=64, seed=1, **SAMPLING))
    export = run_dir / "saved_model"
    if not export.exists():
        mdm.export_saved_model(model, export)
    common.report_skipped(data)
    print(f"\nPicture      {page}\nTensorBoard  tensorboard --logdir {run_dir / 'logs'}")
    print(f"Model        {run_dir / 'model.keras'}\nSavedModel   {export}")


if __name__ == "__main__":
    common.run(main)

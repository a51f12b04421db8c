"""Fine-tune an imported model, such as those that the paper's authors released, on your pictures.

    keras-mdm import vis_model_256x256.pth cc12m_256x256.yaml OUT.keras --text-encoder flan-t5-xl
    python recipes/finetune_released.py --model OUT.keras --data my_pictures

The released models were trained on pictures scaled to (x - 127) / 128, with a micro-condition
`scale`, the size of the picture before it was resized. This recipe supplies both. Schedule,
prediction, loss target and level weights are those of the model. 10 % of captions are dropped,
which the authors' code does not do. All levels are trained in one phase.

                    without arguments                   with --model FILE --data SOURCE
    model           a small network of the released     the imported one
                    form with random weights, written
                    and read in the authors' format
    levels          16, 64                              those of the model
    batch           18                                  --batch (64)
    steps           400                                 --steps (10000)
    data            251 Twemoji drawings (CC BY 4.0)    folder, shards, table, tfds:NAME
    text            all-MiniLM-L6-v2, 32 tokens         the encoder of the model
    optimizer       Adam (0.9, 0.99), 1.5e-3, clip 2    Adam (0.9, 0.99), 1e-5, clip 2, 500 steps of
                                                        warm-up
    sampling        DDIM, 25 steps, guidance 3          DDIM, 50 steps, guidance 7, the model's
                                                        threshold
    hardware        2 CPU cores                         see --dry-run; released files not run here
    hours           5 minutes                           depend on --steps, not run here

Without --model the network starts untrained, so the run only demonstrates the steps. The paper has
no metric for this. recipes/README.md has the figures and times of what was run.
"""

from functools import partial
from pathlib import Path
from typing import Any

import keras_mdm as mdm
from shared import notes, options
from shared.drawings import write_emoji
from shared.pictures import Pictures
from shared.scale import Scale
from shared.training import run, train

MICRO = "scale"
STAND_IN = {
    "unet_config": {
        "resolution_channels": [32, 32, 64],
        "num_resnets_per_resolution": [1, 1, 1],
        "attention_levels": [],
        "num_attention_layers": [0, 0, 0],
        "temporal_dim": 256,
        "micro_conditioning": "scale:64",
        "skip_mid_blocks": True,
        "skip_cond_emb": True,
        "masked_cross_attention": 0,
        "inner_config": {
            "resolution_channels": [64, 128, 192],
            "num_resnets_per_resolution": [1, 1, 1],
            "attention_levels": [1, 2],
            "num_attention_layers": [0, 1, 1],
            "temporal_dim": 256,
            "conditioning_feature_dim": 384,
            "conditioning_feature_proj_dim": 384,
            "micro_conditioning": "scale:16",
            "masked_cross_attention": 0,
            "nesting": True,
        },
    },
    "diffusion_config": {
        "sampler_config": {
            "num_diffusion_steps": 1000,
            "schedule_type": "DEEPFLOYD",
            "prediction_type": "V_PREDICTION",
            "loss_target_type": "DDPM",
            "threshold_function": "CLIP",
            "schedule_shifted": True,
            "schedule_shifted_power": 1,
        },
        "use_vdm_loss_weights": False,
        "use_double_loss": True,  # or only the highest level is trained
        "no_use_residual": True,
    },
}


def write_stand_in(path: Path, seed: int) -> Path:
    """Write a network of the released form with random weights as a file of the authors' format."""
    inner = mdm.LevelSpec(
        16,
        channels=(64, 128, 192),
        blocks=(1, 1, 1),
        attention=(0, 1, 1),
        mask_text=False,
        attention_ffn=False,
        micro_conditions={MICRO: 16.0},
    )
    outer = mdm.LevelSpec(
        64, channels=(32, 32, 64), blocks=(1, 1, 1), micro_conditions={MICRO: 64.0}
    )
    unet = mdm.build_nested_unet(
        [inner, outer], text_width=384, text_projection=384, text_blocks=0, seed=seed
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return mdm.interop.save_ml_mdm(unet, path)


def main() -> None:
    parser = options.picture_parser(__doc__, run_dir="runs/finetune_released")
    options.add_text(parser)
    parser.add_argument("--model", metavar="FILE.keras", help="written by keras-mdm import")
    parser.add_argument(
        "--steps", type=int, help="optimizer steps (10000, or 400 in the small run)"
    )
    parser.add_argument("--batch", type=int, help="batch size (64, or 18 in the small run)")
    parser.add_argument("--learning-rate", type=float, help="(1e-5, or 1.5e-3 in the small run)")
    parser.add_argument(
        "--cond-dropout",
        type=float,
        default=0.1,
        help="share of captions dropped, so that guidance keeps working (%(default)s; the "
        "authors' code drops none)",
    )
    arguments = parser.parse_args()
    if not 0.0 <= arguments.cond_dropout < 1.0:
        parser.error(f"--cond-dropout must be in [0, 1); got {arguments.cond_dropout}")
    if bool(arguments.model) != bool(arguments.data):
        parser.error("--model and --data belong together")
    if arguments.scale:
        parser.error("--scale: the size of the run is that of the model; leave it out")
    small = arguments.model is None
    if small:
        near = Path(arguments.run_dir)
        arguments.data = str(write_emoji(near.with_name("emoji_pictures_64"), 64))
        weights = write_stand_in(near.with_name("stand_in") / "vis_model_64x64.pth", arguments.seed)

    def load(phase: mdm.Phase | None = None) -> mdm.MatryoshkaDiffusion:
        if small:
            # The average of released weights continues as it is; this one starts from random
            # weights, which it has to forget.
            loaded = mdm.interop.load_ml_mdm_diffusion(
                weights,
                config=STAND_IN,
                size=64,
                text_encoder=mdm.text.MiniLM(length=32),
                ema_decay=0.995,
                ema_warmup=True,
            )
        else:
            loaded = mdm.load(arguments.model)
        loaded.cond_dropout = arguments.cond_dropout
        return loaded

    def given(name: str, small_value: Any, value: Any) -> Any:
        asked = getattr(arguments, name)
        return (small_value if small else value) if asked is None else asked

    model = load()
    steps = given("steps", 400, 10_000)
    phase = mdm.Phase(
        [mdm.diffusion.LevelShape.parse(name).size for name in model.unet.levels],
        steps,
        batch_size=given("batch", 18, 64),
        learning_rate=given("learning_rate", 1.5e-3, 1e-5),
        warmup_steps=min(500, steps // 8),
        final_learning_rate=0.1 if small else None,
    )
    scale = Scale(
        phases=[phase],
        network={"text_blocks": 0},
        process={"downsample": model.downsample},  # the rest is in the model
        guided_levels=len(model.unet.levels),
        sampling={
            "steps": 25 if small else 50,
            "guidance_scale": 3.0 if small else 7.0,
            "batch_size": 16,
        },
        tokens=32 if small else (model.text_encoder_identity or {}).get("length", 128),
        checkpoint_every=200,
        sample_every=300,
    )
    encoder = None
    if not small and not arguments.text_encoder:
        if model.text_encoder_identity is None:
            raise ValueError(
                "the model must say which text encoder it was trained with. Received: "
                f"model={arguments.model}, text_encoder=None. To fix it: pass --text-encoder DIR"
            )
        encoder = model.text_encoder or mdm.text.from_identity(model.text_encoder_identity)
    known = {name for level in model.unet.spec.levels for name in level.micro_conditions}
    size = MICRO if MICRO in known else None
    data = partial(Pictures, rule={"pixel_range": "release"}, original_size=size)
    noted = notes.of_asset("emoji") if small else None
    train(arguments, scale, data, load=load, noted=noted, encoder=encoder)


if __name__ == "__main__":
    run(main)

"""Training of a text-to-image model on captioned pictures in memory: what two recipes share."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import common
import keras

import keras_mdm as mdm

SAMPLING = {"steps": 25, "guidance_scale": 3.0, "batch_size": 64}
PROMPTS = [
    *("red heart", "green heart", "blue circle", "yellow square", "red apple", "banana"),
    *("strawberry", "watermelon", "pizza", "hamburger", "carrot", "sunflower", "tulip"),
    *("sun", "rainbow", "star", "grinning face", "loudly crying face", "tiger face", "panda"),
    *("frog", "tropical fish", "penguin", "octopus", "automobile", "airplane", "sailboat"),
    *("rocket", "american football", "baseball", "guitar", "Christmas tree"),
]


def train(
    arguments: argparse.Namespace,
    phases: Sequence[Mapping],
    *,
    process: Mapping,
    training: Mapping,
    **checkpointing: int,
) -> None:
    """Train, draw, measure and export; or with --dry-run print what would be done.

    Args:
        arguments: of `common.parser`.
        phases: keyword arguments of `Phase`, with the steps of a run at scale 1.
        process: options of `MatryoshkaDiffusion`.
        training: options of `compile`.
        **checkpointing: options of `fit_progressively`.
    """
    keras.config.set_dtype_policy(arguments.dtype)
    # First of all: several workers have to connect before anything else touches TensorFlow.
    strategy = None if arguments.dry_run else mdm.distribute.strategy()
    phases = common.scaled(phases, arguments.steps_scale)
    data = common.load_data(arguments.data, sizes=[int(n) for n in phases[-1].level_names])
    encoder = mdm.text.MiniLM(length=16)

    def make_unet(phase: mdm.Phase) -> mdm.NestedUNet:
        return mdm.build_nested_unet(
            phase.levels, text_width=encoder.width, text_blocks=0, seed=arguments.seed
        )

    if arguments.dry_run:
        common.print_run(
            arguments,
            phases,
            data=data.identity,
            text_encoder=encoder.identity,
            process=process,
            training=training,
            checkpointing=checkpointing,
            sampling=SAMPLING,
        )
        rows = mdm.estimate.estimate_training(
            phases,
            make_unet,
            text_tokens=encoder.length,
            averages=1 + len(process.get("power_emas", ())),
            **training,
        )
        print(mdm.estimate.table(rows))
        return
    text, text_mask = mdm.text.encode_cached(encoder, data.captions)

    def make_model(phase: mdm.Phase) -> mdm.MatryoshkaDiffusion:
        model = mdm.MatryoshkaDiffusion(
            make_unet(phase),
            text_encoder=encoder,
            # Guidance decides what is drawn, and that is decided at the low level; at higher ones
            # it would only blow up the difference of two estimates into a grain on flat areas.
            guidance_shares=dict.fromkeys(phase.level_names[1:], 0.0),
            seed=arguments.seed,
            **process,
        )
        given = dict(training)
        if "recompute" in given:
            given["recompute"] = [n for n in given["recompute"] if n in phase.level_names]
        optimizer = mdm.optimizers.Adam(phase.learning_rate_schedule(), clip_norm=2.0)
        model.compile(optimizer, **given)
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
        fresh=arguments.fresh,
        data=data.identity,
        strategy=strategy,
        callbacks=common.sample_grids(prompts[:8], every=300, **SAMPLING),
        arguments=vars(arguments),
        **checkpointing,
    )
    if not mdm.distribute.is_chief():
        return  # one worker draws and exports
    run_dir = Path(arguments.run_dir)
    page = common.write_page(model, prompts, run_dir / "prompts.png", **SAMPLING)
    print(common.prompt_fidelity(model, data, count=64, seed=1, **SAMPLING))
    export = run_dir / "saved_model"
    if not export.exists():
        mdm.export_saved_model(model, export)
    common.report_skipped(data)
    print(f"\nPicture      {page}\nTensorBoard  tensorboard --logdir {run_dir / 'logs'}")
    print(f"Model        {run_dir / 'model.keras'}\nSavedModel   {export}")

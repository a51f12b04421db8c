"""Training of a text-to-image model on captioned pictures in memory: what two recipes share."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_mdm as mdm
from shared import common, drawing, image_data, options

# The innermost level, and the phase that trains it alone.
INNER = mdm.LevelSpec(
    16,
    channels=(64, 128, 256),
    blocks=(1, 1, 1),
    attention=(0, 1, 1),
    heads=4,
    attention_ffn=False,
)
INNER_PHASE = {
    "levels": [INNER],
    "steps": 850,
    "batch_size": 32,
    "learning_rate": 1.5e-3,
    "warmup_steps": 50,
    "final_learning_rate": 0.15,
}
# Flat drawings on white sit at the ends of [-1, 1]: a dynamic threshold divides by what the
# estimate overshoots and so greys the paper, the static one clips it. With power 1, as in the
# released 256 network, higher levels spend more of their time where only fine noise is left.
PROCESS = {"residual": True, "shift_power": 1.0, "threshold": "static", "ema_decay": 0.995}
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
    process: Mapping = PROCESS,
    training: Mapping | None = None,
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
    strategy = common.strategy(arguments)
    phases, training = options.phases(phases, arguments), dict(training or {})
    training["recompute"] = options.recompute(arguments, phases, training.get("recompute", ()))
    sampling = options.sampling(SAMPLING, arguments)
    start = options.start_model(arguments)
    data = common.load_data(arguments.data, sizes=[int(n) for n in phases[-1].level_names])
    encoder = mdm.text.MiniLM(length=16)
    prompts = drawing.choose_prompts(data, PROMPTS, 32)
    callbacks = drawing.SampleGrids(prompts[:8], every=300, **sampling)
    validation = None
    if arguments.validate_every:
        validation = validation_of(data, encoder, seed=arguments.seed)

    def make_unet(phase: mdm.Phase) -> mdm.NestedUNet:
        return mdm.build_nested_unet(
            phase.levels, text_width=encoder.width, text_blocks=0, seed=arguments.seed
        )

    def make_model(phase: mdm.Phase) -> mdm.MatryoshkaDiffusion:
        model = common.make_model(make_unet(phase), phase, arguments, process, encoder=encoder)
        return common.compiled(
            model, phase, **{**training, "micro_batches": micro[options.key(phase)]}
        )

    estimated = {
        "text_tokens": encoder.length,
        "devices": options.devices(arguments, strategy),
        "averages": 1 + len(process.get("power_emas", ())),
        "recompute": training["recompute"],
    }
    default = training.get("micro_batches", 1)
    micro = options.micro_batches(arguments, phases, make_unet, default=default, **estimated)
    if arguments.dry_run:
        common.print_run(
            arguments,
            phases,
            data=data.identity,
            text_encoder=encoder.identity,
            process=process,
            training=training,
            checkpointing=checkpointing,
            sampling=sampling,
        )
        made = datasets(data, encoder, seed=arguments.seed)
        estimated |= {"callbacks": callbacks, "validation": validation}
        options.dry_run(arguments, phases, make_unet, make_model, made, micro, **estimated)
        return
    model = common.fit(
        phases,
        make_model,
        data,
        datasets(data, encoder, seed=arguments.seed),
        arguments,
        strategy=strategy,
        start=start,
        callbacks=callbacks,
        validation=validation,
        **checkpointing,
    )
    if common.draws(arguments):
        show(model, data, prompts, Path(arguments.run_dir), sampling)


def datasets(
    data: mdm.data.CaptionedImages, encoder: mdm.text.MiniLM, *, seed: int
) -> Callable[[mdm.Phase, int], tf.data.Dataset]:
    """Make the function that gives the batches of a phase from a step on."""
    text, text_mask = mdm.text.encode_cached(encoder, data.captions)

    def make_dataset(phase: mdm.Phase, first_step: int) -> tf.data.Dataset:
        groups = {
            level: mdm.data.image_text_dataset(
                data.images[int(level)],
                text,
                text_mask,
                batch_size=rows,
                seed=seed,
                first_step=first_step,
            )
            for level, rows in phase.groups.items()
        }
        return mdm.data.mixed_dataset(groups)

    return make_dataset


def validation_of(
    data: mdm.data.CaptionedImages, encoder: mdm.text.MiniLM, *, seed: int
) -> Callable[[mdm.Phase], tf.data.Dataset]:
    """Make the function that gives the pairs of --validate-every: a small set keeps all for its
    training, and the first ones are taken."""
    few = data.take(np.arange(min(image_data.VALIDATED, len(data))))
    text, text_mask = (
        states[: len(few)] for states in mdm.text.encode_cached(encoder, data.captions)
    )

    def validation(phase: mdm.Phase) -> tf.data.Dataset:
        # What groups are multiples of divides over replicas and micro-batches as well.
        rows = int(np.gcd.reduce(list(phase.groups.values())))
        pictures = few.images[int(phase.level_names[-1])]
        batches = mdm.data.image_text_dataset(pictures, text, text_mask, batch_size=rows, seed=seed)
        return batches.take(max(1, len(few) // rows))

    return validation


def show(
    model: mdm.MatryoshkaDiffusion,
    data: mdm.data.CaptionedImages,
    prompts: Sequence[str],
    run_dir: Path,
    sampling: Mapping,
) -> None:
    """Draw the prompts, measure, export, and say where everything is."""
    page = drawing.write_page(model, prompts, run_dir / "prompts.png", **sampling)
    print(drawing.prompt_fidelity(model, data, count=64, seed=1, **sampling))
    export = run_dir / "saved_model"
    if not export.exists():
        mdm.export_saved_model(model, export)
    common.report_skipped(data)
    print(f"\nPicture      {page}\nTensorBoard  tensorboard --logdir {run_dir / 'logs'}")
    print(f"Model        {run_dir / 'model.keras'}\nSavedModel   {export}")

"""Training of an image model on files, or in small on emoji: what the image recipes share."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

import keras_mdm as mdm
from shared import common, drawing, image_data, options, rehearsal, text_to_image


def parser(description: str, *, run_dir: str) -> argparse.ArgumentParser:
    """Make the parser of the image recipes."""
    made = common.parser(
        description,
        run_dir=run_dir,
        data="folder, shards, table or tfds:NAME, see keras-mdm data; without it a small run",
    )
    common.add_max_skipped(made)
    made.add_argument("--flip", action="store_true", help="mirror half of the pictures")
    made.add_argument("--scale", choices=("small", "paper"), help="paper with --data, else small")
    return made


def train(
    arguments: argparse.Namespace,
    scale: common.Scale,
    *,
    condition: str = "text",
    start: mdm.MatryoshkaDiffusion | None = None,
    rule: Mapping[str, Any] | None = None,
    load: Callable[[mdm.Phase], mdm.MatryoshkaDiffusion] | None = None,
    original_size: str | None = None,
) -> None:
    """Train, draw and export; or with --dry-run print what would be done.

    Args:
        arguments: of the recipe.
        scale: how large.
        condition: "text", "class" or "none".
        start: what the first phase begins with; what --start names unless given.
        rule: options of `ImageRule`.
        load: makes the model of a phase instead of building it.
        original_size: name of the micro-condition for the size of the picture before.
    """
    keras.config.set_dtype_policy(arguments.dtype)
    began = time.perf_counter()
    strategy = common.strategy(arguments)
    phases = options.phases(scale.phases, arguments)
    sampling = options.sampling(scale.sampling, arguments)
    start = start or options.start_model(arguments)
    encoder = None
    if condition == "text":
        encoder = rehearsal.encoder(arguments, scale.tokens)
        encoder = encoder or common.text_encoder(arguments.text_encoder, scale.tokens)
    sizes = [int(name) for name in phases[-1].level_names]
    downsample = scale.process.get("downsample", "area")
    data = image_data.Pictures(
        arguments, sizes, condition, encoder, rule or {}, original_size, downsample
    )
    conditions = {
        "text": lambda: {"text_width": encoder.width, **scale.network},
        "class": lambda: {"num_classes": data.num_classes, **scale.network},
        "none": lambda: dict(scale.network),
    }[condition]()
    prompts, draw = drawn(data, sampling)
    # Without samples that lost their condition there is nothing to be guided away from.
    if arguments.guidance is None and (
        condition == "none" or scale.process.get("cond_dropout") == 0.0
    ):
        draw["guidance_scale"] = 1.0
    callbacks = rehearsal.Watched(sample_grids(prompts, scale.sample_every, draw))
    validation = data.validation if arguments.validate_every else None

    def make_unet(phase: mdm.Phase) -> mdm.NestedUNet:
        return mdm.build_nested_unet(phase.levels, seed=arguments.seed, **conditions)

    def make_model(phase: mdm.Phase) -> mdm.MatryoshkaDiffusion:
        if load is not None:
            model = load(phase)
        else:
            model = common.make_model(
                make_unet(phase),
                phase,
                arguments,
                scale.process,
                encoder=encoder,
                guided_levels=scale.guided_levels,
            )
        parts = micro[options.key(phase)]
        return common.compiled(model, phase, micro_batches=parts, recompute=recompute)

    recompute = options.recompute(arguments, phases)
    estimated = {
        "text_tokens": scale.tokens or 32,
        "devices": options.devices(arguments, strategy),
        "recompute": recompute,
    }
    micro = options.micro_batches(
        arguments, phases, make_unet, default=rehearsal.micro_batches(arguments), **estimated
    )
    if arguments.dry_run:
        common.print_run(
            arguments,
            phases,
            data=data.identity,
            condition=condition,
            text_encoder=encoder and encoder.identity,
            process=scale.process,
            sampling=sampling,
        )
        if load is None:
            made = data.datasets()
            estimated |= {"callbacks": callbacks, "validation": validation}
            options.dry_run(arguments, phases, make_unet, make_model, made, micro, **estimated)
        return
    model = common.fit(
        phases,
        make_model,
        data,
        data.datasets(),
        arguments,
        strategy=strategy,
        start=start,
        callbacks=callbacks,
        checkpoint_every=scale.checkpoint_every,
        validation=validation,
    )
    if common.draws(arguments):
        show(model, prompts, draw, Path(arguments.run_dir), paper_prompts=condition == "text")
    data.report()
    if getattr(arguments, "rehearse", None) and mdm.distribute.is_chief():
        rehearsal.report(arguments, phases, micro, callbacks.watches, began)


def drawn(
    data: image_data.Pictures, sampling: Mapping[str, Any]
) -> tuple[list[str] | None, dict[str, Any]]:
    """Prompts, or names of classes, or none; and the options of `generate` with what goes with
    them."""
    if data.condition == "none":
        return None, {**sampling, "num_images": image_data.SHOWN}
    prompts, labels = shown(data)
    return prompts, {**sampling, **({"labels": labels} if labels is not None else {})}


def shown(data: image_data.Pictures) -> tuple[list[str], list[int] | None]:
    """What is drawn: captions of the data, or names of classes and their numbers."""
    if data.condition == "class":
        names = list(data.label_names)
        if data.in_memory:
            names = drawing.choose_prompts(data.source, text_to_image.PROMPTS, image_data.SHOWN)
        names = (names * image_data.SHOWN)[: image_data.SHOWN]
        return names, [data.label_names.index(name) for name in names]
    if data.in_memory:
        return drawing.choose_prompts(data.source, text_to_image.PROMPTS, image_data.SHOWN), None
    return data.captions[: image_data.SHOWN], None


def sample_grids(
    prompts: Sequence[str] | None, every: int, draw: Mapping[str, Any]
) -> drawing.SampleGrids:
    """What makes the callback that draws every n steps."""
    titles = [str(n) for n in range(8)] if prompts is None else prompts[:8]
    few = {**draw}
    if few.get("labels") is not None:
        few["labels"] = few["labels"][:8]
    if "num_images" in few:
        few["num_images"] = 8
    return drawing.SampleGrids(titles, every=every, unconditional=prompts is None, **few)


def show(
    model: mdm.MatryoshkaDiffusion,
    prompts: Sequence[str] | None,
    draw: Mapping[str, Any],
    run_dir: Path,
    *,
    paper_prompts: bool,
) -> None:
    """Draw, export, and say where everything is."""
    drawn, titles = dict(draw), prompts
    if prompts is None:
        titles = [str(n) for n in range(image_data.SHOWN)]
        drawn["unconditional"] = True
    page = drawing.write_page(model, titles, run_dir / "samples.png", **drawn)
    if paper_prompts:
        texts = common.PAPER_PROMPTS.read_text().splitlines()
        # Appendix F: guidance 7.
        drawn = {**draw, "guidance_scale": common.PAPER_SAMPLING["guidance_scale"]}
        target = run_dir / "paper_prompts.png"
        print(f"Paper's prompts  {drawing.write_page(model, texts, target, **drawn)}")
    export = run_dir / "saved_model"
    if not export.exists():
        mdm.export_saved_model(model, export)
    print(f"\nPicture      {page}\nTensorBoard  tensorboard --logdir {run_dir / 'logs'}")
    print(f"Model        {run_dir / 'model.keras'}\nSavedModel   {export}")

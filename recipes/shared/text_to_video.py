"""Training of a text-to-video model on clips in memory or on videos in files."""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import keras_mdm as mdm
from shared import common, drawing, options, rehearsal

SHOWN = 8
MEASURED = 48
VALIDATED = 64


class FirstClips:
    """The first clips of a source; a source itself.

    Args:
        source: all clips.
        count: how many.
    """

    def __init__(self, source: mdm.data.ClipSource, count: int):
        self.source, self.captions = source, list(source.captions[:count])

    def __len__(self) -> int:
        return len(self.captions)

    def check(self, rule: mdm.data.ClipRule) -> None:
        """Raise if the records cannot give clips of a rule."""
        self.source.check(rule)

    def read_usable(self, row: int, rule: mdm.data.ClipRule, **given: Any) -> tuple:
        """Return a clip, and which record it is of."""
        return self.source.read_usable(row, rule, **given)


class Clips:
    """The data of a run: batches per level, captions, and what tells it from other data.

    Args:
        arguments: of the recipe.
        levels: names of the levels.
        encoder: of the texts.
        downsample: how training makes lower levels, as which files are read for them.
        frame: what stands there for a clip at a level of pictures, as which it is read.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        levels: Sequence[str],
        encoder: Any,
        downsample: str,
        frame: str = "first",
    ):
        self.arguments, self.encoder, self.seed = arguments, encoder, arguments.seed
        self.frame = frame
        shapes = [mdm.diffusion.LevelShape.parse(level) for level in levels]
        shape = shapes[-1]
        if arguments.data or arguments.animated_emoji:
            self.rule = mdm.data.ClipRule(
                shape.size,
                shape.frames,
                arguments.stride,
                arguments.clips,
                short=arguments.short,
                of=shape.size,
                downsample=downsample,
                frame=frame,
            )
            self.source = (
                mdm.data.load_animated_emoji(minimum_frames=self.rule.least)
                if arguments.animated_emoji
                else mdm.data.open_clips(
                    arguments.data,
                    captions=arguments.captions,
                    max_skipped=arguments.max_skipped,
                )
            )
            kind = "animated emoji" if arguments.animated_emoji else f"clips of {arguments.data}"
            print(f"{len(self.source)} {kind}: {shape.frames} frames, every {arguments.stride}.")
        else:
            # All sizes of the levels at once; they come from one drawing.
            sizes = sorted({level.size for level in shapes})
            self.source = mdm.data.load_moving_emoji(sizes, frames=shape.frames, split="train")
            print(
                f"Small run on the embedded default: {len(self.source)} clips of Twemoji drawings "
                "(CC BY 4.0, Twitter and contributors) that move, far below the paper's scale"
            )
        self.captions = self.source.captions

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that goes on must find unchanged."""
        if self.in_memory:
            return self.source.identity
        # How lower levels are made follows from levels and process, which a run knows by itself.
        rule = dataclasses.replace(self.rule, of=None, downsample="area", frame="first")
        return {**self.source.identity, "rule": rule.facts}

    @property
    def in_memory(self) -> bool:
        """Whether the clips are arrays."""
        return isinstance(self.source, mdm.data.MovingEmoji)

    def encode(self) -> dict[str, Any]:
        """What gives the states of captions: arrays, stored states, or the encoder."""
        if self.in_memory:
            return {"text": mdm.text.encode_cached(self.encoder, list(self.captions))}
        return {"encoder": common.states(self.source, self.encoder, self.arguments)}

    def datasets(self) -> Callable[[mdm.Phase, int], tf.data.Dataset]:
        """Make the function that gives the batches of a phase from a step on."""
        captions = self.encode()

        def make_dataset(phase: mdm.Phase, first_step: int) -> tf.data.Dataset:
            worker = mdm.distribute.worker(*phase.groups.values())
            groups = {
                level: self._group(level, captions, rows, first_step, worker)
                for level, rows in phase.groups.items()
            }
            return mdm.data.mixed_dataset(groups)

        return make_dataset

    def validation(self, phase: mdm.Phase) -> tf.data.Dataset:
        """Clips for --validate-every: those held out of the small run, else the first ones."""
        rows = int(np.gcd.reduce(list(phase.groups.values())))
        if self.in_memory:
            sizes, frames = (
                sorted(self.source.clips),
                next(iter(self.source.clips.values())).shape[1],
            )
            source = mdm.data.load_moving_emoji(sizes, frames=frames, split="validation")
            captions = {"text": mdm.text.encode_cached(self.encoder, list(source.captions))}
        else:
            source, captions = FirstClips(self.source, VALIDATED), self.encode()
        level = phase.level_names[-1]
        batches = self._group(level, captions, rows, 0, (0, 1), source)
        return batches.take(max(1, len(source.captions) // rows))

    def _group(
        self,
        level: str,
        captions: Mapping[str, Any],
        rows: int,
        first_step: int,
        worker: tuple[int, int],
        source: Any = None,
    ) -> tf.data.Dataset:
        """Batches of one level; an image level sees `frame` of the clips."""
        source = source or self.source
        shape = mdm.diffusion.LevelShape.parse(level)
        given = {"batch_size": rows, "seed": self.seed, "first_step": first_step}
        if self.in_memory:
            clips = source.clips[shape.size]
            clips = clips if shape.frames else mdm.data.reduction.still_frame(clips, self.frame)
            return mdm.data.image_text_dataset(clips, *captions["text"], **given)
        rule = dataclasses.replace(self.rule, size=shape.size)
        rule = rule if shape.frames else rule.picture()
        return mdm.data.clip_dataset(source, rule, worker=worker, **captions, **given)

    def report(self) -> None:
        """Name the files that gave no clip."""
        skipped = getattr(self.source, "skipped", ())
        if skipped:
            print(f"{len(skipped)} files gave no clip:")
        for file, reason in skipped[:20]:
            print(f"  {file}: {reason}")


def train(arguments: argparse.Namespace, scale: common.Scale) -> None:
    """Train, draw, measure and export; or with --dry-run print what would be done.

    Args:
        arguments: of the recipe.
        scale: how large.
    """
    keras.config.set_dtype_policy(arguments.dtype)
    began = time.perf_counter()
    strategy = common.strategy(arguments)
    phases = options.phases(scale.phases, arguments)
    sampling = options.sampling(scale.sampling, arguments)
    start = options.start_model(arguments)
    encoder = rehearsal.encoder(arguments, scale.tokens)
    encoder = encoder or common.text_encoder(arguments.text_encoder, scale.tokens)
    downsample = phases[-1].downsample or scale.process.get("downsample", "area")
    frame = scale.process.get("frame", "first")
    data = Clips(arguments, phases[-1].level_names, encoder, downsample, frame)
    prompts = prompts_of(data)
    draw = drawing.SampleGrids(prompts, every=scale.sample_every, **sampling)
    callbacks = rehearsal.Watched(draw)
    validation = data.validation if arguments.validate_every else None

    def make_unet(phase: mdm.Phase) -> mdm.NestedUNet:
        return mdm.build_nested_unet(
            phase.levels, text_width=encoder.width, seed=arguments.seed, **scale.network
        )

    def make_model(phase: mdm.Phase) -> mdm.MatryoshkaDiffusion:
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

    recompute = options.recompute(arguments, phases, rehearsal.recompute(arguments, phases))
    estimated = {
        "text_tokens": encoder.length,
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
            text_encoder=encoder.identity,
            process=scale.process,
            sampling=sampling,
        )
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
        show(model, data, prompts, Path(arguments.run_dir), sampling)
    if arguments.rehearse and mdm.distribute.is_chief():
        rehearsal.report(arguments, phases, micro, callbacks.watches, began)


def prompts_of(data: Clips) -> list[str]:
    """Captions to draw: of the moving drawings one per motion, else some at random."""
    rows = np.random.default_rng(0).permutation(len(data.captions))
    if data.in_memory:
        first = {data.source.motions[row]: row for row in reversed(rows)}
        rows = [first[name] for name in mdm.data.MOTIONS if name in first]
    return [data.captions[row] for row in rows[:SHOWN]]


def show(
    model: mdm.MatryoshkaDiffusion,
    data: Clips,
    prompts: Sequence[str],
    run_dir: Path,
    sampling: Mapping[str, Any],
) -> None:
    """Draw the prompts, measure, export, and say where everything is."""
    clips = model.generate(list(prompts), **sampling)
    top = model.unet.levels[-1]
    for level, batch in clips.items():
        for number, prompt in enumerate(prompts):
            stem = run_dir / "clips" / f"{number}-{'-'.join(prompt.split())[:50]}_{level}"
            if batch.ndim == 5:
                for ending in (".gif", ".mp4"):
                    mdm.callbacks.write_clip(stem.with_name(stem.name + ending), batch[number])
    page, sheet = run_dir / "prompts.gif", run_dir / "contact_sheet.png"
    write_pages(clips, top, prompts, page, sheet)
    texts = common.PAPER_VIDEO_PROMPTS.read_text().splitlines()
    # Figure 18: guidance 7.
    guidance = common.PAPER_SAMPLING["guidance_scale"]
    papers = run_dir / "paper_prompts.gif", run_dir / "paper_prompts.png"
    clips = model.generate(texts, **{**sampling, "guidance_scale": guidance})
    write_pages(clips, top, texts, *papers)
    if data.in_memory:
        measure(model, data.source, run_dir, sampling)
    export = run_dir / "saved_model"
    if not export.exists():
        mdm.export_saved_model(model, export)
    data.report()
    print(f"\nClips        {page}, and one by one in {run_dir / 'clips'}\nContact sheet {sheet}")
    print(f"Paper's prompts  {papers[0]}, {papers[1]}")
    print(f"TensorBoard  tensorboard --logdir {run_dir / 'logs'}")
    print(f"Model        {run_dir / 'model.keras'}\nSavedModel   {export}")


def write_pages(
    clips: Mapping[str, Any], top: str, prompts: Sequence[str], page: Path, sheet: Path
) -> None:
    """Write clips of all levels as one that plays, and those of the highest as a picture."""
    size = clips[top].shape[-2]
    frames = mdm.callbacks.animated_grid(clips, prompts, size=max(96, size))
    mdm.callbacks.write_clip(page, frames)
    still = mdm.callbacks.contact_sheet(clips[top], prompts, size=max(64, size))
    Image.fromarray(still).save(sheet)


def measure(
    model: mdm.MatryoshkaDiffusion,
    trained: mdm.data.MovingEmoji,
    run_dir: Path,
    sampling: Mapping[str, Any],
) -> None:
    """Draw trained pairs of drawing and motion, and pairs held out, and follow the drawings."""
    top = mdm.diffusion.LevelShape.parse(model.unet.levels[-1])
    sizes = sorted(trained.clips)
    held_out = mdm.data.load_moving_emoji(sizes, frames=top.frames, split="validation")
    rows = np.random.default_rng(1).permutation(len(trained))[:MEASURED]
    motions = {name: mdm.data.track_of(name, top.frames) for name in mdm.data.MOTIONS}
    table = {}
    for title, data in (("trained pairs", trained.take(rows)), ("held-out pairs", held_out)):
        made = model.generate(list(data.captions), **{**sampling, "seed": 1})
        for level in model.unet.levels[1:]:
            shape = mdm.diffusion.LevelShape.parse(level)
            for kind, clips in ((level, made[level]), ("drawings", data.clips[shape.size])):
                found = mdm.evaluation.motion.recognise(
                    mdm.evaluation.motion.track(clips), motions, data.motions
                )
                table[f"{title}, {kind}"] = mdm.evaluation.motion.summary(found, data.motions)
    (run_dir / "motion.json").write_text(json.dumps(table, indent=1))
    print(mdm.evaluation.motion.table(table, tuple(mdm.data.MOTIONS)))

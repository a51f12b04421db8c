"""The clips of a run: videos in files, or moving drawings for the small run."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

import keras_mdm as mdm
from shared import batches, drawing, notes, texts

SHOWN = 8
MEASURED = 48
VALIDATED = 64


class FirstClips:
    """The first clips of a source, as a source.

    Args:
        source: all clips.
        count: how many to take.
    """

    def __init__(self, source: mdm.data.ClipSource, count: int):
        self.source, self.captions = source, list(source.captions[:count])

    def __len__(self) -> int:
        return len(self.captions)

    def check(self, rule: mdm.data.ClipRule) -> None:
        """Raise if the records cannot give clips of a rule."""
        self.source.check(rule)

    def read_usable(self, row: int, rule: mdm.data.ClipRule, **given: Any) -> tuple:
        """Return a clip, and the record that it comes from."""
        return self.source.read_usable(row, rule, **given)


class Clips:
    """The data of a run: batches per level, captions, and its identity.

    Args:
        arguments: of the recipe.
        levels: names of the levels.
        encoder: of the texts.
        process: options of `MatryoshkaDiffusion`. Files are read for lower levels as training
            makes them: by `downsample`, and for levels of pictures by the `frame` of a clip.
    """

    condition = "text"

    def __init__(
        self,
        arguments: argparse.Namespace,
        levels: Sequence[str],
        encoder: mdm.text.TextEncoder,
        process: Mapping[str, Any],
    ):
        self.arguments, self.encoder, self.seed = arguments, encoder, arguments.seed
        self.frame = process.get("frame", "first")
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
                downsample=process.get("downsample", "area"),
                frame=self.frame,
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
            # All sizes of the levels at once, since they come from one drawing.
            sizes = sorted({level.size for level in shapes})
            self.source = mdm.data.load_moving_emoji(sizes, frames=shape.frames, split="train")
            print(
                f"Small run on the built-in default: {len(self.source)} clips of moving Twemoji "
                "drawings (CC BY 4.0, Twitter and contributors), far below the paper's scale"
            )
        self.captions = self.source.captions

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        if self.in_memory:
            return self.source.identity
        # The run compares levels and process itself, from which the lower levels follow.
        rule = dataclasses.replace(self.rule, of=None, downsample="area", frame="first")
        return {**self.source.identity, "rule": rule.facts}

    @property
    def notes(self) -> dict[str, Any]:
        """What the card of the model says of it."""
        if self.arguments.data:
            return notes.of_files(self.arguments.data, len(self.source), "clips")
        asset = "emoji" if self.in_memory else "animated-emoji"
        return notes.of_asset(asset, len(self.captions), self.prompts()[:4])

    @property
    def in_memory(self) -> bool:
        """Whether the clips are arrays."""
        return isinstance(self.source, mdm.data.MovingEmoji)

    def encode(self) -> dict[str, Any]:
        """The source of the captions' states: arrays, stored states, or the encoder."""
        if self.in_memory:
            return {"text": mdm.text.encode_cached(self.encoder, list(self.captions))}
        return {"encoder": texts.states(self.source, self.encoder, self.arguments)}

    @property
    def conditions(self) -> dict[str, Any]:
        """Options of the network."""
        return {"text_width": self.encoder.width}

    def datasets(self) -> Callable[[mdm.Phase, int], tf.data.Dataset]:
        """Make the function that returns the batches of a phase from a step on."""
        captions = self.encode()
        return lambda phase, first_step: batches.joined(
            phase, self._group, captions=captions, first_step=first_step
        )

    def validation(self, phase: mdm.Phase) -> tf.data.Dataset:
        """Clips for --validate-every: in the small run those held out, else the first ones."""
        rows = batches.validated_rows(phase)
        if self.in_memory:
            sizes, clips = sorted(self.source.clips), next(iter(self.source.clips.values()))
            source = mdm.data.load_moving_emoji(sizes, frames=clips.shape[1], split="validation")
            captions = {"text": mdm.text.encode_cached(self.encoder, list(source.captions))}
        else:
            source, captions = FirstClips(self.source, VALIDATED), self.encode()
        made = self._group(phase.level_names[-1], rows, captions=captions, source=source)
        return made.take(max(1, len(source.captions) // rows))

    def _group(
        self,
        level: str,
        rows: int,
        *,
        captions: Mapping[str, Any],
        first_step: int = 0,
        worker: tuple[int, int] = (0, 1),
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

    def prompts(self) -> list[str]:
        """Captions to draw: one per motion of the moving drawings, else some at random."""
        rows = np.random.default_rng(0).permutation(len(self.captions))
        if self.in_memory:
            first = {self.source.motions[row]: row for row in reversed(rows)}
            rows = [first[name] for name in mdm.data.MOTIONS if name in first]
        return [self.captions[row] for row in rows[:SHOWN]]

    def grids(self, every: int, sampling: Mapping[str, Any]) -> drawing.SampleGrids:
        """Return the maker of the callback that draws every n steps."""
        return drawing.SampleGrids(self.prompts(), every=every, **sampling)

    def show(
        self, model: mdm.MatryoshkaDiffusion, run_dir: Path, sampling: Mapping[str, Any]
    ) -> dict[str, Path | str]:
        """Draw captions of the data and the paper's, and measure; return the files written."""
        prompts, top = self.prompts(), model.unet.levels[-1]
        clips = model.generate(prompts, **sampling)
        write_clips(clips, prompts, run_dir / "clips")
        page, sheet = run_dir / "prompts.gif", run_dir / "contact_sheet.png"
        write_pages(clips, top, prompts, page, sheet)
        asked = texts.PAPER_VIDEO_PROMPTS.read_text().splitlines()
        papers = run_dir / "paper_prompts.gif", run_dir / "paper_prompts.png"
        clips = model.generate(asked, **{**sampling, "guidance_scale": texts.PAPER_GUIDANCE})
        write_pages(clips, top, asked, *papers)
        if self.in_memory:
            measure(model, self.source, run_dir, sampling)
        return {
            "Clips": f"{page}, and one by one in {run_dir / 'clips'}",
            "Contact sheet": sheet,
            "Paper's prompts": f"{papers[0]}, {papers[1]}",
        }

    def report(self) -> None:
        """Name the files that gave no clip."""
        skipped = getattr(self.source, "skipped", ())
        if skipped:
            print(f"{len(skipped)} files gave no clip:")
        for file, reason in skipped[:20]:
            print(f"  {file}: {reason}")


def write_clips(clips: Mapping[str, Any], prompts: Sequence[str], folder: Path) -> None:
    """Write every clip of all levels that have frames."""
    for level, batch in clips.items():
        for number, prompt in enumerate(prompts):
            stem = folder / f"{number}-{'-'.join(prompt.split())[:50]}_{level}"
            if batch.ndim == 5:
                for ending in (".gif", ".mp4"):
                    mdm.callbacks.write_clip(stem.with_name(stem.name + ending), batch[number])


def write_pages(
    clips: Mapping[str, Any], top: str, prompts: Sequence[str], page: Path, sheet: Path
) -> None:
    """Write the clips of all levels as one animation, and those of the highest as a picture."""
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
    """Draw trained and held-out pairs of drawing and motion, and track the drawings."""
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

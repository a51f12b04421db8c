"""Training of an image model on files, or in small on emoji: what the image recipes share."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import keras
import numpy as np
import tensorflow as tf
import text_to_image

import keras_mdm as mdm

# The captions of a set up to this size are encoded once, at the start of the run.
ENCODED_FIRST = 20_000
SHOWN = 16
# Of several captions, classes and the last levels of a small run.
SMALL_SAMPLING = {"sampler": "dpmpp_2m", "steps": 16, "guidance_scale": 3.0, "batch_size": 64}


def parser(description: str, *, run_dir: str) -> argparse.ArgumentParser:
    """Make the parser of the image recipes."""
    made = common.parser(
        description,
        run_dir=run_dir,
        data="folder, shards, table or tfds:NAME, see keras-mdm data; without it a small run",
    )
    made.add_argument(
        "--max-skipped",
        type=float,
        default=0.01,
        help="share of unusable records above which the run stops (%(default)s)",
    )
    made.add_argument("--flip", action="store_true", help="mirror half of the pictures")
    made.add_argument(
        "--micro-batches", type=int, default=1, help="parts of a replica's batch (%(default)s)"
    )
    made.add_argument("--scale", choices=("small", "paper"), help="paper with --data, else small")
    return made


def add_text(made: argparse.ArgumentParser) -> None:
    """Add the options of recipes with text."""
    made.add_argument("--text-encoder", metavar="DIR", help="folder of a FLAN-T5 encoder")
    made.add_argument("--embeddings", metavar="DIR", help="states that keras-mdm embed has written")


def small_level(size: int, inner: int, channels: int = 16) -> mdm.LevelSpec:
    """An outer level that two cores can train: one block per resolution."""
    steps = int(np.log2(size // inner)) + 1
    return mdm.LevelSpec(
        size,
        channels=tuple(channels * 2**n for n in range(steps)),
        blocks=(1,) * steps,
        groups=16,
    )


def small_inner(size: int) -> mdm.LevelSpec:
    """An innermost level that two cores can train: that of the emoji recipes, above 16 pixels with
    one thin block per further resolution around it."""
    inner, extra = text_to_image.INNER, max(0, round(np.log2(size / 16)))
    return dataclasses.replace(
        inner,
        size=size,
        channels=(*(max(16, inner.channels[0] // 2 ** (extra - n)) for n in range(extra)),)
        + tuple(inner.channels),
        blocks=(1,) * extra + tuple(inner.blocks),
        attention=(0,) * extra + tuple(inner.attention),
        groups=16 if extra else inner.groups,
    )


def small_phases(
    levels: Sequence[Any], stages: Sequence[int], steps: Sequence[int], batches: Sequence[int]
) -> list[dict]:
    """Phases of a small run: the first one trains the innermost level, each later one adds.

    Args:
        levels: all levels, ascending.
        stages: number of levels of every phase.
        steps: steps of every phase.
        batches: batch size of every phase.
    """
    first = {**text_to_image.INNER_PHASE, "levels": levels[: stages[0]]}
    phases = [{**first, "steps": steps[0], "batch_size": batches[0]}]
    names = [mdm.Phase(levels[:n], steps=1, mixed=False).level_names[-1] for n in stages]
    for n, stage in enumerate(stages[1:], start=1):
        phases.append(
            {
                "levels": levels[:stage],
                "steps": steps[n],
                "batch_size": batches[n],
                # Levels that are added together are trained together.
                "mixed": {names[n - 1]: 1 / 3, names[n]: 2 / 3},
                "learning_rate": 3e-3,
                "warmup_steps": 40,
                "final_learning_rate": 0.05,
                "inner_learning_rate": 0.12,
            }
        )
    return phases


def small(phases: Sequence[dict], **changes: Any) -> common.Scale:
    """The scale of a small run; `changes` are its fields."""
    fields = {
        "network": {"text_blocks": 0},
        "process": text_to_image.PROCESS,
        "guided_levels": 1,
        "sampling": SMALL_SAMPLING,
        "tokens": 32,
        "checkpoint_every": 200,
        "sample_every": 300,
    }
    return common.Scale(phases=phases, **{**fields, **changes})


def paper(
    preset: str, stages: Sequence[int], batches: Sequence[int], steps: Sequence[int], **changes: Any
) -> common.Scale:
    """The scale of an experiment of the paper.

    Args:
        preset: the network, by its name in `mdm.presets`.
        stages: number of levels of every phase.
        batches: batch size of every phase.
        steps: steps of every phase.
        **changes: other fields.
    """
    levels = mdm.presets.PAPER[preset]
    phases = [
        {"levels": levels[:stage], "batch_size": batch, "steps": count, **common.PAPER_PHASE}
        for stage, batch, count in zip(stages, batches, steps, strict=True)
    ]
    fields = {
        "network": {},
        "process": {**mdm.presets.diffusion(preset), "ema_decay": common.PAPER_EMA},
        "guided_levels": len(levels),
        "sampling": common.PAPER_SAMPLING,
        "tokens": 128,
        "checkpoint_every": 1000,
        "sample_every": 10_000,
    }
    return common.Scale(phases=phases, **{**fields, **changes})


class Pictures:
    """The data of a run: batches per level, texts and classes, and what tells it from other data.

    Args:
        arguments: of the recipe.
        sizes: sizes of all levels.
        condition: "text", "class" or "none".
        encoder: of the texts.
        rule: options of `ImageRule`.
        original_size: name of the micro-condition for the size before; none unless given.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        sizes: Sequence[int],
        condition: str,
        encoder: Any,
        rule: Mapping[str, Any],
        original_size: str | None,
    ):
        self.condition, self.encoder, self.seed = condition, encoder, arguments.seed
        self.arguments, self.rule = arguments, {"flip": arguments.flip, **rule}
        self.original_size = original_size
        self.in_memory = arguments.data is None
        if self.in_memory:
            self.source = common.load_data(None, sizes=sizes)
            self.captions = list(self.source.captions)
            # Every drawing is a class: of kinds such as "food" no two drawings are alike.
            self.source = dataclasses.replace(
                self.source,
                labels=np.arange(len(self.source), dtype=np.int32),
                label_names=self.source.captions,
            )
        else:
            whole = mdm.data.open_images(arguments.data, max_skipped=arguments.max_skipped)
            # One of a thousand pairs is for validation (appendix E); a small set keeps all.
            large = condition == "text" and len(whole) >= 10_000
            self.source = mdm.data.split(whole, "train" if large else "all")
            print(f"{len(self.source)} pictures of {arguments.data}")
            self.captions = sample_captions(self.source) if condition == "text" else []

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that goes on must find unchanged."""
        rule = {} if self.in_memory else {"rule": self.rule}
        return {**self.source.identity, **rule, "condition": self.condition}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        if not self.label_names:
            raise ValueError(
                "the data must have named classes. Received: no names. To fix it: use a folder per "
                "class or a data set of TFDS, or pass another --condition"
            )
        return len(self.label_names)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.label_names

    def datasets(self) -> Callable[[mdm.Phase, int], tf.data.Dataset]:
        """Make the function that gives the batches of a phase from a step on."""
        text = self._text()

        def make_dataset(phase: mdm.Phase, first_step: int) -> tf.data.Dataset:
            worker = mdm.distribute.worker(*phase.groups.values())
            groups = {
                level: self._group(int(level), text, rows, first_step, worker)
                for level, rows in phase.groups.items()
            }
            return mdm.data.mixed_dataset(groups)

        return make_dataset

    def _text(self) -> Any:
        """What gives the states of captions: arrays, stored states, or the encoder itself."""
        if self.condition != "text":
            return None
        if self.in_memory:
            return mdm.text.encode_cached(self.encoder, self.captions)
        if self.arguments.embeddings:
            stored = mdm.text.StoredStates(self.arguments.embeddings)
            if stored.identity != json.loads(json.dumps(self.encoder.identity)):
                raise ValueError(
                    "the stored states must be those of the run's text encoder. Received: "
                    f"embeddings={stored.identity}, encoder={self.encoder.identity}. To fix it: "
                    "pass --text-encoder, or embed again"
                )
            return stored
        if len(self.source) > ENCODED_FIRST:
            return self.encoder
        folder = Path(self.arguments.run_dir) / "embeddings"
        return mdm.text.embed(
            self.encoder, mdm.data.captions_of(self.source), folder, total=len(self.source)
        )

    def _group(
        self, size: int, text: Any, rows: int, first_step: int, worker: tuple[int, int]
    ) -> tf.data.Dataset:
        given = {"batch_size": rows, "seed": self.seed, "first_step": first_step}
        if self.in_memory:
            states, mask = text if text is not None else (None, None)
            keys = {"text": ("text", "text_mask"), "class": ("label",), "none": ()}
            micro = {self.original_size: np.full(len(self.source), size)}
            return mdm.data.image_text_dataset(
                self.source.images[size],
                states,
                mask,
                self.source.labels,
                micro=micro if self.original_size else None,
                keys=[
                    *("image", "sample", *keys[self.condition]),
                    *([self.original_size] if self.original_size else ()),
                ],
                **given,
            )
        return mdm.data.image_dataset(
            self.source,
            mdm.data.ImageRule(size, **self.rule),
            encoder=text,
            labels=self.condition == "class",
            original_size=self.original_size,
            worker=worker,
            **given,
        )

    def report(self) -> None:
        """Name what could not be used."""
        skipped = self.source.skipped
        if skipped:
            print(f"{len(skipped)} records were skipped:")
        for file, reason in skipped[:20]:
            print(f"  {file}: {reason}")


def sample_captions(source: mdm.data.ImageSource) -> list[str]:
    """Captions of a few records, spread over the source."""
    rows = np.unique(np.linspace(0, len(source) - 1, SHOWN).astype(int))
    return list(mdm.data.captions_of(mdm.data.Rows(source, rows)))[:SHOWN]


def train(
    arguments: argparse.Namespace,
    scale: common.Scale,
    *,
    condition: str = "text",
    cond_dropout: float | None = None,
    start: str | None = None,
    rule: Mapping[str, Any] | None = None,
    load: Callable[[mdm.Phase], mdm.MatryoshkaDiffusion] | None = None,
    original_size: str | None = None,
) -> None:
    """Train, draw and export; or with --dry-run print what would be done.

    Args:
        arguments: of the recipe.
        scale: how large.
        condition: "text", "class" or "none".
        cond_dropout: share of conditions dropped; the model's default unless given.
        start: model file that the first phase begins with.
        rule: options of `ImageRule`.
        load: makes the model of a phase instead of building it.
        original_size: name of the micro-condition for the size of the picture before.
    """
    keras.config.set_dtype_policy(arguments.dtype)
    strategy = common.strategy(arguments)
    phases = common.scaled(scale.phases, arguments)
    encoder = None
    if condition == "text":
        encoder = common.text_encoder(arguments.text_encoder, scale.tokens)
    sizes = [int(name) for name in phases[-1].level_names]
    data = Pictures(arguments, sizes, condition, encoder, rule or {}, original_size)
    conditions = {
        "text": lambda: {"text_width": encoder.width, **scale.network},
        "class": lambda: {"num_classes": data.num_classes, **scale.network},
        "none": lambda: dict(scale.network),
    }[condition]()
    process = dict(scale.process)
    if cond_dropout is not None:
        process["cond_dropout"] = cond_dropout

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
                process,
                encoder=encoder,
                guided_levels=scale.guided_levels,
            )
        if start is not None and phase.level_names == phases[0].level_names:
            model.start_from(keras.saving.load_model(start))
        return common.compiled(model, phase, micro_batches=arguments.micro_batches)

    if arguments.dry_run:
        common.print_run(
            arguments,
            phases,
            data=data.identity,
            condition=condition,
            text_encoder=encoder and encoder.identity,
            process=process,
            sampling=scale.sampling,
        )
        if load is None:
            rows = mdm.estimate.estimate_training(phases, make_unet, text_tokens=scale.tokens or 32)
            print(mdm.estimate.table(rows))
        return
    prompts, labels = shown(data)
    drawn = {"labels": labels} if condition == "class" else {}
    if condition == "none":
        prompts, drawn = None, {"num_images": SHOWN}
    draw = {**scale.sampling, **drawn}
    if condition == "none" or cond_dropout == 0.0:
        draw["guidance_scale"] = 1.0
    model = common.fit(
        phases,
        make_model,
        data,
        data.datasets(),
        arguments,
        strategy=strategy,
        callbacks=sample_grids(prompts, scale.sample_every, draw),
        checkpoint_every=scale.checkpoint_every,
    )
    if common.draws(arguments):
        show(model, prompts, draw, Path(arguments.run_dir), paper_prompts=condition == "text")
    data.report()


def shown(data: Pictures) -> tuple[list[str], list[int] | None]:
    """What is drawn: captions of the data, or names of classes and their numbers."""
    if data.condition == "class":
        names = list(data.label_names)
        if data.in_memory:
            names = common.choose_prompts(data.source, text_to_image.PROMPTS, SHOWN)
        names = (names * SHOWN)[:SHOWN]
        return names, [data.label_names.index(name) for name in names]
    if data.condition == "none":
        return [], None
    if data.in_memory:
        return common.choose_prompts(data.source, text_to_image.PROMPTS, SHOWN), None
    return data.captions[:SHOWN], None


def sample_grids(
    prompts: Sequence[str] | None, every: int, draw: Mapping[str, Any]
) -> Callable[[mdm.PhaseContext], list]:
    """The callback function that draws every n steps."""
    titles = [str(n) for n in range(8)] if prompts is None else prompts[:8]
    options = {**draw}
    if options.get("labels") is not None:
        options["labels"] = options["labels"][:8]
    if "num_images" in options:
        options["num_images"] = 8
    return common.sample_grids(titles, every=every, unconditional=prompts is None, **options)


def show(
    model: mdm.MatryoshkaDiffusion,
    prompts: Sequence[str] | None,
    draw: Mapping[str, Any],
    run_dir: Path,
    *,
    paper_prompts: bool,
) -> None:
    """Draw, export, and say where everything is."""
    options, titles = dict(draw), prompts
    if prompts is None:
        titles = [str(n) for n in range(SHOWN)]
        options["unconditional"] = True
    page = common.write_page(model, titles, run_dir / "samples.png", **options)
    if paper_prompts:
        texts = common.PAPER_PROMPTS.read_text().splitlines()
        # Appendix F: guidance 7.
        options = {**draw, "guidance_scale": common.PAPER_SAMPLING["guidance_scale"]}
        target = run_dir / "paper_prompts.png"
        print(f"Paper's prompts  {common.write_page(model, texts, target, **options)}")
    export = run_dir / "saved_model"
    if not export.exists():
        mdm.export_saved_model(model, export)
    print(f"\nPicture      {page}\nTensorBoard  tensorboard --logdir {run_dir / 'logs'}")
    print(f"Model        {run_dir / 'model.keras'}\nSavedModel   {export}")


def choose(
    made: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    small_scale: common.Scale,
    paper_scale: common.Scale,
) -> common.Scale:
    """The scale that was asked for: the paper's with data, unless --scale says otherwise."""
    if arguments.scale == "paper" and not arguments.data:
        made.error("--scale paper needs pictures: pass --data SOURCE")
    large = arguments.scale == "paper" or (arguments.data and arguments.scale is None)
    return paper_scale if large else small_scale


def changed(scale: common.Scale, **fields: Any) -> common.Scale:
    """A scale with some fields replaced."""
    return dataclasses.replace(scale, **fields)


def last_phase(scale: common.Scale) -> common.Scale:
    """A scale that only trains the last phase."""
    return changed(scale, phases=scale.phases[-1:])

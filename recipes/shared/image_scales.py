"""How large the image recipes train: small on two cores, and as the paper did."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import keras_mdm as mdm
from shared import common, options, rehearsal, text_to_image

SMALL_SAMPLING = {"sampler": "dpmpp_2m", "steps": 16, "guidance_scale": 3.0, "batch_size": 64}


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
    for n, stage in enumerate(stages[1:], start=1):
        phases.append(
            {
                "levels": levels[:stage],
                "steps": steps[n],
                "batch_size": batches[n],
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


def choose(
    made: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    small_scale: common.Scale,
    paper_scale: common.Scale,
    *,
    kind: str = "text",
) -> common.Scale:
    """The scale that was asked for: the paper's with data, unless --scale says otherwise; or the
    paper's in miniature, on data of a kind that a rehearsal makes."""
    if getattr(arguments, "rehearse", None):
        return rehearsal.begin(made, arguments, paper_scale, kind)
    if arguments.scale == "paper" and not arguments.data:
        made.error("--scale paper needs pictures: pass --data SOURCE")
    if not arguments.data:
        common.require_files(made, arguments)
    large = arguments.scale == "paper" or (arguments.data and arguments.scale is None)
    return paper_scale if large else small_scale


def changed(scale: common.Scale, **fields: Any) -> common.Scale:
    """A scale with some fields replaced."""
    return dataclasses.replace(scale, **fields)


def left_after(scale: common.Scale, levels: Sequence[str]) -> common.Scale:
    """A scale without the phases whose levels a model has that training begins with."""
    kept = [p for p in scale.phases if not set(options.names(p["levels"])) <= set(levels)]
    return changed(scale, phases=kept or scale.phases[-1:])

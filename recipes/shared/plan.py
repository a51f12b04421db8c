"""The plan that options make of a recipe: which of its scales, with what phases and sampling."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras_mdm as mdm
from shared import options, rehearsal
from shared.scale import Scale


def choose(
    made: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    small: Scale,
    paper: Scale,
    *,
    kind: str = "text",
) -> Scale:
    """The requested scale.

    Args:
        made: the parser, for errors.
        arguments: the parsed arguments.
        small: used without data, or with --scale small.
        paper: used with data, unless --scale says otherwise; with --rehearse in miniature.
        kind: of the data that a rehearsal makes: "class", "text" or "video".
    """
    if getattr(arguments, "rehearse", None):
        return rehearsal.begin(made, arguments, paper, kind)
    given = arguments.data or getattr(arguments, "animated_emoji", False)
    if arguments.scale == "paper" and not given:
        needed = "videos: pass --data DIR" if kind == "video" else "pictures: pass --data SOURCE"
        made.error(f"--scale paper needs {needed}")
    if not given:
        options.require_files(made, arguments)
    large = arguments.scale == "paper" or (arguments.data and arguments.scale is None)
    return paper if large else small


def left_after(scale: Scale, levels: Sequence[str]) -> Scale:
    """A scale without the phases whose levels the starting model already has."""
    left = [phase for phase in scale.phases if not set(phase.level_names) <= set(levels)]
    return dataclasses.replace(scale, phases=left or scale.phases[-1:])


def phases(given: Sequence[mdm.Phase], arguments: argparse.Namespace) -> list[mdm.Phase]:
    """The phases of a scale, changed by the options."""
    if arguments.no_progressive:
        given = given[-1:]
    counts = {"steps": arguments.phase_steps, "batch_size": arguments.phase_batches}
    for option, numbers in (("steps", counts["steps"]), ("batches", counts["batch_size"])):
        if numbers is not None and len(numbers) != len(given):
            raise ValueError(
                f"--phase-{option} must have one number per phase. Received: {numbers}, for "
                f"{len(given)} phases. To fix it: pass {len(given)} numbers"
            )
    shares = mixed([phase.level_names for phase in given], arguments.mixed)
    made = []
    for n, phase in enumerate(given):
        changes = {
            "steps": max(1, round(phase.steps * arguments.steps_scale)),
            "batch_size": max(1, round(phase.batch_size * arguments.batch_scale)),
            **{name: numbers[n] for name, numbers in counts.items() if numbers is not None},
        }
        if changes["batch_size"] < len(phase.levels):
            changes["mixed"] = False
        if n in shares:
            changes["mixed"] = shares[n]
        if arguments.highest_only:
            changes["level_weights"] = "highest"
        made.append(dataclasses.replace(phase, **changes))
    return made


def mixed(
    levels: Sequence[Sequence[str]], asked: Sequence[Sequence] | None
) -> dict[int, Mapping[str, float] | bool]:
    """The requested shares, by the position of their phase.

    Args:
        levels: names of the levels of every phase.
        asked: the values of each --mixed.
    """
    if any("no" in shares for shares in asked or ()):
        if len(asked) > 1 or len(asked[0]) > 1:
            raise ValueError(
                "--mixed no must stand alone. Received: other shares as well. To fix it: leave "
                "one of them out"
            )
        return dict.fromkeys(range(len(levels)), False)
    made, known = {}, levels[-1]
    for wanted in map(dict, asked or ()):
        strange = [level for level in wanted if level not in known]
        if strange:
            raise ValueError(
                "--mixed must name levels of the run. Received: "
                f"{', '.join(strange)}, of levels {', '.join(known)}. To fix it: name those"
            )
        highest = max(wanted, key=known.index)
        chosen = [n for n, own in enumerate(levels) if own[-1] == highest and len(own) > 1]
        if not chosen:
            ends = ", ".join(own[-1] for own in levels if len(own) > 1)
            raise ValueError(
                "--mixed must name the highest level of a phase with several levels. Received: "
                f"{highest} as the highest. To fix it: give a share to one of {ends or 'none'}"
            )
        made |= dict.fromkeys(chosen, wanted)
    return made


def sampling(given: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `generate`, changed by those of the recipe."""
    asked = {"steps": arguments.sampling_steps, "guidance_scale": arguments.guidance}
    return {**given, **{name: value for name, value in asked.items() if value is not None}}


def fit_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The requested options of `fit_progressively`."""
    asked = {
        "extend": arguments.extend,
        "restart_phase": arguments.restart_phase,
    }
    return {name: value for name, value in asked.items() if value}

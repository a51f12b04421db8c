"""What the card of a model says of its data, and of how it was trained."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_mdm as mdm
from shared import current, worth


def of_asset(name: str, count: int | None = None, prompts: Sequence[str] = ()) -> dict[str, Any]:
    """Notes on data that the package fetches.

    Args:
        name: of the asset.
        count: how many of its records the run trains on, if not all.
        prompts: some that the model knows.
    """
    record = mdm.assets.asset(name)
    data = record.what if count is None else f"{count} records made of {record.what}"
    found = {"data": data, "licence": record.licence, "attribution": record.attribution}
    return {**found, **({"prompts": list(prompts)} if prompts else {})}


def of_files(data: str, count: int, what: str) -> dict[str, Any]:
    """Notes on a user's own data, whose licence nothing here knows.

    Args:
        data: the source, as in --data.
        count: number of records.
        what: they are.
    """
    name = data if ":" in data else Path(data).resolve().name
    return {"data": f"{count} {what} of {name}"}


def of_training(phases: Sequence[mdm.Phase]) -> dict[str, str]:
    """A note on the command and the phases."""
    said = [
        f"{phase.steps} steps of {phase.batch_size} at {' and '.join(phase.level_names)}"
        for phase in phases
    ]
    name = Path(sys.argv[0]).stem.split()[-1]  # of a file, or of `keras-mdm train NAME`
    return {"training": f"keras-mdm train {name}: {', then '.join(said)}"}


def preset(
    model: Any, arguments: argparse.Namespace, pictures: Sequence[Any], metrics: Any = None
) -> Path:
    """Write RUN/preset, and say so.

    Args:
        model: the trained model.
        arguments: of the recipe.
        pictures: files that show it, those that are there are taken.
        metrics: a report; that of the run's end, if it is of this model, unless given.
    """
    run_dir = Path(arguments.run_dir)
    if metrics is None and current.is_of(worth.FILE, model, run_dir):
        metrics = json.loads((run_dir / worth.FILE).read_text())
    shown = [file for file in pictures if isinstance(file, Path) and file.is_file()]
    found = model.save_preset(
        run_dir / "preset", pictures=shown[:1], metrics=metrics, overwrite=True
    )
    print(f"\nPreset       {found}, with a card: mdm.load, keras-mdm sample and export take it")
    return found


def add(model: Any, found: Mapping[str, Any], names: Sequence[str] | None) -> None:
    """Give a model its notes and the names of its classes."""
    model.notes = {**model.notes, **found}
    if names is not None and model.unet.spec.num_classes == len(names):
        model.class_names = names

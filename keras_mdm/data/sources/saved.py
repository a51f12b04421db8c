"""Folders that `save_to_disk` of Hugging Face's datasets wrote."""

import json
import os
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.data.sources import listing, splits
from keras_mdm.data.sources.arrow import ArrowImages
from keras_mdm.data.sources.base import ImageSource
from keras_mdm.data.sources.strings import Listed

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def open_saved(folder: str, split: str | None, options: dict[str, Any]) -> ImageSource:
    """Open what `save_to_disk` of Hugging Face's datasets wrote, and list its other files.

    Args:
        folder: a folder for which `is_saved` holds.
        split: what the user asked for.
        options: arguments of `ArrowImages`.

    Raises:
        ValueError: if there is no such split, or the data set cannot be read.
    """
    folders = folders_of(folder)
    of = {splits.canonical(name) if name else None: path for name, path in folders.items()}
    chosen = splits.choose(of, split, folder)
    files = files_of(of[chosen] if chosen in of else next(iter(of.values())))
    source = ArrowImages(files, **options)
    used = {os.path.relpath(path, folder).replace(os.sep, "/") for path in files}

    def reason(path: str) -> str:
        if path.endswith(".json"):
            return "is a description of the data set"
        name = path.partition("/")[0]
        other = "/" in path and name in folders and splits.canonical(name) != chosen
        if other:
            return splits.not_chosen(splits.canonical(name), chosen or "")
        return listing.beside_shards(path)

    left, source.found = listing.account(folder, listing.listed(sorted(used)), reason)
    source.unused = Listed((*source.unused, *left))
    if chosen is not None:
        source.choices = {**source.choices, "split": chosen}
    return source


def is_saved(folder: str | os.PathLike) -> bool:
    """Whether `save_to_disk` wrote a folder: a data set, or one per split in sub-folders."""
    root = Path(folder)
    one = (root / _STATE).is_file() and any(root.glob("*.arrow"))
    return one or (root / _SPLITS).is_file()


def folders_of(folder: str | os.PathLike) -> dict[str | None, Path]:
    """The folders of the data sets in what `save_to_disk` wrote, by split; `None` for a single one.

    Args:
        folder: a folder for which `is_saved` holds.
    """
    root = Path(folder)
    if (root / _STATE).is_file():
        return {None: root}
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{_STATE}"))}


def files_of(folder: Path) -> list[str]:
    """The files of one data set, in its order.

    Args:
        folder: a folder with a `state.json`.

    Raises:
        ValueError: if this is damaged, or lists rows of the files in another order.
    """
    try:
        state = json.loads((folder / _STATE).read_bytes())
        names = [part["filename"] for part in state["_data_files"]]
        reordered = bool(state.get("_indices_data_files"))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        raise checks.error(
            "state.json must list the Arrow files of the data set",
            fix="write the data set again with save_to_disk",
            folder=str(folder),
            problem=str(problem),
        ) from problem
    if reordered:
        raise checks.error(
            "the data set must hold its rows in their own order",
            fix="call its flatten_indices(), and save_to_disk again",
            folder=str(folder),
        )
    return [os.path.join(folder, os.path.basename(name)) for name in names]

"""A preset: `model.keras`, a card for readers, and `preset.json` with versions and checksums."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.files import fsync_path, read_json, temporary_directory
from keras_mdm.release.card import CARD, card
from keras_mdm.stages import without_optimizers

FORMAT = 1
PRESET_FILE, MODEL = "preset.json", "model.keras"
PICTURES, NEW_CARD = "images", "README.new.md"
_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_KEYS = {"format": int, "class": str, "files": dict}
_AGAIN = "copy or download the preset again"


def save_preset(
    model: Any,
    directory: str | os.PathLike,
    *,
    pictures: Sequence[str | os.PathLike] = (),
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model as a directory that can be published, complete or absent.

    `model.keras` holds the model without its optimizer; `README.md` is its card, with the front
    matter that Hugging Face reads, and may be edited; `preset.json` says which version wrote it,
    and has the checksums of the model and of the card.

    Args:
        model: a `MatryoshkaDiffusion`, a `Cascade` or a `LatentDiffusion`.
        directory: must be empty or not exist.
        pictures: files of drawn pictures to show in the card.
        metrics: a report of `keras_mdm.evaluation.evaluate` as read from its JSON.
        overwrite: replace a preset that is there. Other files in its directory stay, and so does
            a card that was edited: the new one is then `README.new.md`.

    Returns:
        The directory.

    Raises:
        ValueError: if the directory holds anything else, or a picture or the report cannot be read.

    Example:

    >>> save_preset(model, "red_apples", pictures=["samples.png"])
    """
    directory = Path(directory)
    directory = directory if directory.name else directory.absolute()  # "." has no name
    _check_place(directory, overwrite)
    shown = _check_pictures(pictures)
    text = card(model, [f"{PICTURES}/{name}" for name in shown], metrics)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory(directory) as scratch:
        made = scratch / "preset"
        made.mkdir()
        with without_optimizers(model):
            model.save(made / MODEL)
        (made / CARD).write_text(text, encoding="utf-8")
        if shown:
            (made / PICTURES).mkdir()
        for name, file in shown.items():
            shutil.copyfile(file, made / PICTURES / name)
        described = {
            "format": FORMAT,
            "class": type(model).__name__,
            "versions": {name: _version(name) for name in ("keras-mdm", "keras", "tensorflow")},
            "files": {name: _facts(made / name) for name in (MODEL, CARD)},
        }
        if (directory / PRESET_FILE).is_file():
            _keep(directory, made, described)
        (made / PRESET_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        for file in [*made.rglob("*"), made]:
            if not file.is_symlink():
                fsync_path(file)
        if directory.exists():
            os.replace(directory, scratch / "before")
        os.replace(made, directory)
    fsync_path(directory.parent)
    return directory


def _keep(before: Path, made: Path, described: dict[str, Any]) -> None:
    """Copy what the user put into a preset into the one that replaces it."""
    written = None  # unknown of presets of earlier versions, and of damaged ones
    with contextlib.suppress(ValueError, KeyError, AttributeError):
        known = read_json(before / PRESET_FILE, what="the description of a preset", fix=_AGAIN)
        written = known["files"].get(CARD)
    if (before / CARD).is_file() and _facts(before / CARD) != written:
        (made / CARD).rename(made / NEW_CARD)
        shutil.copy2(before / CARD, made / CARD)
        described["files"][CARD] = written  # so it still counts as edited
    pictures = (before / PICTURES).iterdir() if (before / PICTURES).is_dir() else ()
    for entry in (*before.iterdir(), *pictures):
        place = made / entry.relative_to(before)
        ours = entry.name in (MODEL, CARD, NEW_CARD, PRESET_FILE, PICTURES)
        if entry.parent == before and ours or place.exists():
            continue
        place.parent.mkdir(exist_ok=True)
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, place, symlinks=True)
        else:
            shutil.copy2(entry, place, follow_symlinks=False)


def model_of(directory: str | os.PathLike) -> Path:
    """The model file of a preset, whole as it was written.

    Raises:
        ValueError: if files are missing or damaged, or a later version wrote the preset.
    """
    directory = Path(directory)
    if not (directory / PRESET_FILE).is_file():
        raise checks.error(
            f"a preset must be a directory with {PRESET_FILE} and {MODEL}",
            fix="pass a directory that `save_preset` wrote, or load a file or a run with "
            "keras_mdm.load",
            preset=str(directory),
        )
    found = read_json(directory / PRESET_FILE, what="the description of a preset", fix=_AGAIN)
    if found.get("format") != FORMAT:  # before the rest, which a later version may change
        versions = found.get("versions")
        raise checks.error(
            f"a preset must be of format {FORMAT} to be read by keras-mdm {_version('keras-mdm')}",
            fix="install the version of keras-mdm that wrote it, or a later one",
            preset=str(directory),
            format=found.get("format"),
            written_by=versions.get("keras-mdm") if isinstance(versions, dict) else None,
        )
    read_json(directory / PRESET_FILE, what="the description of a preset", fix=_AGAIN, keys=_KEYS)
    file, facts = directory / MODEL, found["files"].get(MODEL)
    if not file.is_file() or _facts(file) != facts:
        raise checks.error(
            "the files of a preset must be those that were written",
            fix=_AGAIN,
            preset=str(directory),
            **{"missing" if not file.is_file() else "damaged": MODEL},
        )
    return file


def _check_place(directory: Path, overwrite: bool) -> None:
    if "://" in os.fspath(directory) or ":/" in os.fspath(directory):
        raise checks.error(
            "a preset is written to a directory of this machine",
            fix="write it here and upload the directory, for example by `hf upload` or "
            "`gcloud storage cp -r`",
            directory=str(directory),
        )
    if not directory.exists():
        return
    replaced = overwrite and (directory / PRESET_FILE).is_file()
    if not directory.is_dir() or (any(directory.iterdir()) and not replaced):
        raise checks.error(
            "`directory` must be empty or not exist"
            + (", or hold a preset to replace" if overwrite else ""),
            fix="choose another one"
            + ("" if overwrite else ", or pass overwrite=True to replace a preset"),
            directory=str(directory),
        )


def _check_pictures(pictures: Sequence[str | os.PathLike]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in map(Path, [pictures] if isinstance(pictures, str | os.PathLike) else pictures):
        if file.suffix.lower() not in _ENDINGS or not file.is_file() or file.name in found:
            raise checks.error(
                "`pictures` must be files of pictures with different names",
                fix=f"pass files that end in {', '.join(_ENDINGS)}",
                picture=str(file),
            )
        found[file.name] = file
    return found


def _facts(file: Path) -> dict[str, Any]:
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

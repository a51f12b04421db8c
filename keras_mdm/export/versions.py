"""The directory of an exported model: numbered versions, as TensorFlow Serving reads them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_mdm import checks
from keras_mdm.files import is_temporary, temporary_directory

PAGE = "README.md"


def next_of(directory: str | os.PathLike) -> Path:
    """Where the next version goes.

    Raises:
        ValueError: if the directory holds anything but versions and their page.
    """
    directory = Path(directory)
    numbers = [0]
    if directory.exists():
        held = [] if not directory.is_dir() else list(directory.iterdir())
        versions = [path for path in held if path.is_dir() and path.name.isdecimal()]
        strange = [
            path.name
            for path in held
            if path not in versions and path.name != PAGE and not is_temporary(path)
        ]
        if strange or not directory.is_dir():
            raise checks.error(
                "`directory` must be empty, not exist, or hold versions of an exported model",
                fix="choose another one, or remove it",
                directory=str(directory),
                found=sorted(strange)[:4],
            )
        numbers += [int(path.name) for path in versions]
    return directory / str(max(numbers) + 1)


def name_of(directory: str | os.PathLike) -> str:
    """What the model is called in Serving, as the name of its directory."""
    return Path(directory).resolve().name


@contextlib.contextmanager
def written(place: Path) -> Iterator[Path]:
    """Where to write a version, complete or absent: beside its place, then moved there."""
    new = not place.parent.exists()
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary_directory(place) as scratch:
            yield scratch / "model"
            (scratch / "model").rename(place)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # not empty
                place.parent.rmdir()
        raise

"""The user's own pictures: a folder of image files with captions beside them."""

import logging
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import CaptionedImages, Skipped, check_sizes
from keras_mdm.data.pictures.rule import ImageRule, decode
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.data.skipping import Unusable, reason_of
from keras_mdm.data.sources import kinds
from keras_mdm.data.sources.beside import files_with_texts, text_of_file
from keras_mdm.data.sources.folder import read_whole
from keras_mdm.data.sources.texts import NOT_UTF8, is_text, printable
from keras_mdm.diffusion.pyramid import DOWNSAMPLING
from keras_mdm.pictures.pixels import PICTURE_CHANNELS

_log = logging.getLogger(__name__)

EXTENSIONS = kinds.PICTURES


@dataclass(frozen=True)
class FolderData(CaptionedImages):
    """Pictures of a folder in memory.

    Attributes:
        images: size in pixels to uint8 (n, size, size, C).
        captions: from `name.txt` beside `name.png`, else from the file name.
        labels: int32 (n,), the number of the sub-folder; -1 for pictures directly in the folder.
        label_names: names of the sub-folders.
        skipped: pictures that could not be read.
        unused: files that are neither pictures nor texts beside them, and why.
        files: the pictures, relative to the folder, with forward slashes.
    """

    files: tuple[str, ...] = ()
    unused: tuple[Skipped, ...] = ()

    _per_picture = ("captions", "labels", "files")


def load_folder(
    directory: str | os.PathLike,
    *,
    size: int | Sequence[int],
    downsample: str = "area",
    channels: int = 3,
    extensions: Collection[str] = EXTENSIONS,
    progress: bool = True,
) -> FolderData:
    """Read all pictures below a folder into memory.

    Every picture is turned upright, put on white where it is transparent, converted to 8 bits,
    shrunk until its shorter side fits, and cropped to the centre square. Hidden files and folders
    are left out. Pictures that cannot be read are skipped, logged and listed in `skipped`. Each
    picture has one caption: all lines of its text; `FolderImages` makes each line a caption.

    Args:
        directory: the folder, searched with its sub-folders.
        size: height and width in pixels, or several; smaller ones are made from the largest.
        downsample: how smaller sizes are made, the process's D^r: "area" or "bilinear".
        channels: 3 for RGB, 1 for grey, 4 for RGB with its transparency, which is kept.
        extensions: endings of picture files, in upper or lower case.
        progress: show a progress bar.

    Returns:
        The pictures, sorted by path.

    Raises:
        ValueError: if there is no such folder, it holds no pictures, or none can be read.

    Example:

    >>> data = load_folder("my_pictures", size=(64, 256))  # doctest: +SKIP
    >>> data.images[256].shape, data.captions[0]  # doctest: +SKIP
    """
    sizes = check_sizes("size", size)
    checks.one_of("channels", channels, PICTURE_CHANNELS)
    checks.one_of("downsample", downsample, DOWNSAMPLING)
    root = Path(directory)
    found, unused = _find(root, extensions)
    files = [root / name for name, _ in found]
    texts = [text and root / text for _, text in found]
    rule = ImageRule(sizes[-1], channels=channels)
    rows, skipped = _read_all(files, texts, root, rule, progress)
    kept = [file for file, row in zip(files, rows, strict=True) if row is not None]
    if skipped:
        listed = printable("; ".join(f"{file} ({reason})" for file, reason in skipped[:5]))
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        _log.warning("skipped %d of %d pictures: %s%s", len(skipped), len(files), listed, more)
    if not kept:
        raise checks.error(
            "at least one picture of the folder must be readable",
            fix="check that the files are PNG, JPEG or WebP pictures",
            directory=str(directory),
            skipped=[tuple(entry) for entry in skipped[:5]],
        )
    largest = np.stack([row[0] for row in rows if row is not None])
    classes = [file.relative_to(root).parts[0] if file.parent != root else None for file in kept]
    names = tuple(sorted({name for name in classes if name is not None}))
    labels = [-1 if name is None else names.index(name) for name in classes]
    return FolderData(
        images={side: reduce_pixels(largest, side, downsample) for side in sizes},
        captions=tuple(row[1] for row in rows if row is not None),
        labels=np.array(labels, np.int32),
        label_names=names,
        skipped=tuple(skipped),
        unused=tuple(unused),
        files=tuple(file.relative_to(root).as_posix() for file in kept),
    )


def _find(
    root: Path, extensions: Collection[str]
) -> tuple[list[tuple[str, str | None]], Sequence[Skipped]]:
    if not root.is_dir():
        raise checks.error(
            "`directory` must be an existing folder",
            fix="pass the folder that holds your pictures",
            directory=str(root),
        )
    endings = {extension.lower() for extension in extensions}
    endings -= set(kinds.PICTURES) - set(kinds.decodable())
    found, unused = files_with_texts(root, endings)
    if not found:
        raise checks.error(
            f"`directory` must hold pictures ending in {', '.join(sorted(endings))}",
            fix="pass the folder that holds your pictures, or other `extensions`",
            directory=str(root),
        )
    return found, unused


def _read_all(
    files: Sequence[Path],
    texts: Sequence[Path | None],
    root: Path,
    rule: ImageRule,
    progress: bool,
) -> tuple[list[tuple[np.ndarray, str] | None], list[Skipped]]:
    """Pictures with their captions, `None` for skipped ones; and the list of these with reasons."""
    from tqdm.auto import tqdm

    skipped = []

    def work(file: Path, text: Path | None) -> tuple[np.ndarray, str] | Skipped:
        try:
            return decode(read_whole(str(file)), rule)[0], caption_of(file, text)
        except Exception as problem:
            return Skipped(file.relative_to(root).as_posix(), reason_of(problem))

    rows = []
    # Threads: Pillow decodes and resizes without holding the interpreter.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = tqdm(
            pool.map(work, files, texts),
            total=len(files),
            desc="reading pictures",
            disable=not progress,
        )
        for result in results:
            if isinstance(result, Skipped):
                skipped.append(result)
            rows.append(None if isinstance(result, Skipped) else result)
    return rows, skipped


def caption_of(file: Path, text: Path | None) -> str:
    """Return the caption of a picture: the text beside it, else its name.

    Args:
        file: the picture.
        text: the file beside it, if there is one.

    Returns:
        One line. `red_apple.png` alone gives "red apple".

    Raises:
        Unusable: if it is neither UTF-8 nor what its byte order mark says.
    """
    if text is not None:
        line = _line(text_of_file(os.fspath(text)), f"{text.name} ")
        if line:
            return line
    return _line(file.stem.replace("_", " "), "its name ", "is not UTF-8: rename the file")


def _line(text: str, what: str, wrong: str = NOT_UTF8) -> str:
    if "\0" in text or not is_text(text):
        raise Unusable(what + ("holds a NUL character" if "\0" in text else wrong))
    return " ".join(text.split())

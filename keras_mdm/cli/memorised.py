"""`keras-mdm evaluate --training`: whether drawn pictures repeat the training pictures."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm import checks
from keras_mdm.cli import reference

if TYPE_CHECKING:
    import numpy as np

    from keras_mdm.evaluation import Memorisation

_AT_A_TIME = 64  # pictures whose features are computed
SHOWN = 8  # pairs on the sheet of a level
_SIZE = 128  # of a picture on it


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures whose features are compared, and that may be looked at again.

    Attributes:
        batches: function of a level to its pictures, uint8 (B, H, W, 3), in order.
        again: function (level, position) to one picture.
        name: function of a position to what the picture is called.
    """

    batches: Callable[[str], Iterable["np.ndarray"]]
    again: Callable[[str, int], "np.ndarray"]
    name: Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class Known:
    """Training pictures, and features of them and of held-out ones.

    Attributes:
        pictures: the training pictures.
        features: (training, held out) by level, (M, D) and (H, D).
    """

    pictures: Pictures
    features: Mapping[str, tuple["np.ndarray", "np.ndarray"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --training and --held-out to the parser of the command."""
    parser.add_argument(
        "--training",
        metavar="SOURCE",
        help="the pictures that the model was trained on: is it a memory of these? Writes the "
        "nearest pairs of every level to nearest-LEVEL.png",
    )
    parser.add_argument(
        "--held-out",
        metavar="SOURCE",
        help="pictures like these that it was not trained on, at least 99 (for the drawings of the "
        "quickstart by default emoji:held-out, concepts of all kinds)",
    )


def known(
    args: argparse.Namespace, levels: Sequence[str], downsample: Any, features: Any
) -> Known | None:
    """Read the training and the held-out pictures, and compute their features.

    Args:
        args: the arguments of the command.
        levels: names of levels, ascending.
        downsample: the process's D^r.
        features: the feature network.

    Returns:
        `None` without --training.

    Raises:
        ValueError: if only one of the two is given, or there are too few pictures.
    """
    from keras_mdm.evaluation import nearest_training
    from keras_mdm.levels import LevelShape

    if args.training is None and args.held_out is None:
        return None
    held_out = args.held_out
    if held_out is None and args.training and reference.is_emoji(args.training):
        held_out = f"{args.training.partition(':')[0]}:{reference.HELD_OUT}"
    if args.training is None or held_out is None:
        raise checks.error(
            "training pictures are compared with held-out ones",
            fix="pass both --training SOURCE and --held-out SOURCE",
            training=args.training,
            held_out=held_out,
        )
    clips = [level for level in levels if LevelShape.parse(level).frames]
    if clips:
        raise checks.error(
            "only pictures are compared with training pictures",
            fix="choose levels of pictures with --levels",
            levels=clips,
        )
    pictures, others = (opened(s, levels, downsample) for s in (args.training, held_out))
    found = {
        level: (_features(features, pictures, level), _features(features, others, level))
        for level in levels
    }
    for training, other in found.values():
        nearest_training(training[:2], training, other)  # raises if these are too few
    return Known(pictures, found)


def opened(
    source: str, levels: Sequence[str], downsample: Any, *, count: int | None = None
) -> Pictures:
    """Open pictures of a source, its first `count` records or all; or embedded drawings."""
    from keras_mdm import data
    from keras_mdm.data.pictures.rule import decode
    from keras_mdm.levels import LevelShape

    sizes: dict[str, Any] = {level: LevelShape.parse(level).size for level in levels}
    if reference.is_emoji(source):
        drawings = reference.emoji_drawings(source, sizes, downsample)
        images = {level: drawings.images[size] for level, size in sizes.items()}
        return Pictures(
            lambda level: [images[level]],
            lambda level, position: images[level][position],
            lambda position: drawings.captions[position],
        )
    files, rules = data.open_images(source), reference.rules_of(sizes, downsample)
    rows: list[int] = []

    def batches(level: str) -> Iterable["np.ndarray"]:
        rows.clear()  # the same records can be read at every level
        return reference.read(files, rules[level], count, found_rows=rows)

    return Pictures(
        batches,
        lambda level, position: decode(files.read(rows[position]).data, rules[level])[0],
        lambda position: files.name(rows[position]),
    )


def of_directory(directory: Path, count: int) -> Pictures:
    """What a model has drawn into a directory."""
    from keras_mdm import data
    from keras_mdm.evaluation.samples import picture_path

    def again(level: str, position: int) -> "np.ndarray":
        return data.read_picture(picture_path(directory, level, position))

    return Pictures(
        lambda level: (again(level, number)[None] for number in range(count)),
        again,
        lambda position: f"picture {position}",
    )


def measured(report: Any, known: Known, drawn: Pictures, features: Any, directory: Path) -> Any:
    """Add to a report how near the drawn pictures are to the training pictures.

    Args:
        report: what `evaluate` returned.
        known: the training pictures.
        drawn: the drawn ones.
        features: the feature network.
        directory: where the nearest pairs of every level are drawn.

    Returns:
        The report with two more rows for each level, and the pairs in `about`.
    """
    from keras_mdm.evaluation import nearest_training
    from keras_mdm.evaluation.memorised import rows_of

    rows, about = [], {}
    for level, (training, held_out) in known.features.items():
        found = nearest_training(_features(features, drawn, level), training, held_out)
        rows += rows_of(level, found)
        sheet = directory / f"nearest-{level}.png"
        pairs = write_sheet(sheet, found, level, drawn, known.pictures)
        about[level] = {
            "threshold": found.threshold,
            "held out": found.held_out,
            "copies left out": found.copies,
            "pairs": pairs,
        }
    return dataclasses.replace(
        report, rows=[*report.rows, *rows], about={**report.about, "nearest training": about}
    )


def write_sheet(
    path: Path, found: "Memorisation", level: str, drawn: Pictures, training: Pictures
) -> list[dict[str, Any]]:
    """Draw the pictures that are nearest to the training pictures, above what they are near to."""
    import numpy as np

    from keras_mdm.files import write_atomically
    from keras_mdm.pictures.grids import captioned_grid, encode_png

    rows = np.argsort(found.distances, kind="stable")[:SHOWN].tolist()
    pairs = [
        {
            "drawn": drawn.name(row),
            "training": training.name(int(found.nearest[row])),
            "distance": float(found.distances[row]),
        }
        for row in rows
    ]
    images = {
        "drawn": np.stack([drawn.again(level, row) for row in rows]),
        "training": np.stack([training.again(level, int(found.nearest[row])) for row in rows]),
    }
    titles = [
        f"{pair['drawn']}, distance {pair['distance']:.3g} to {pair['training']}" for pair in pairs
    ]
    size = max(_SIZE, images["drawn"].shape[1])
    write_atomically(path, encode_png(captioned_grid(images, titles, size=size)))
    return pairs


def _features(features: Any, pictures: Pictures, level: str) -> "np.ndarray":
    """Features of all pictures of a level, in order."""
    import numpy as np

    from keras_mdm.evaluation import moments

    found = [np.zeros((0, features.width), "float32")]
    waiting: list[np.ndarray] = []
    for images in pictures.batches(level):
        waiting.append(images)
        if sum(map(len, waiting)) >= _AT_A_TIME:
            found.append(moments.features_of(features, np.concatenate(waiting)))
            waiting = []
    if waiting:
        found.append(moments.features_of(features, np.concatenate(waiting)))
    return np.concatenate(found)

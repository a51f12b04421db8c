"""The real pictures that `keras-mdm evaluate` compares with."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from keras_mdm import checks

if TYPE_CHECKING:
    import numpy as np

    from keras_mdm.data import EmojiData

# Styles of the embedded drawings by the word that names them on the command line.
EMOJI = {"emoji": "twemoji", "openmoji": "openmoji", "fluent": "fluent"}
HELD_OUT = "held-out"
_SCORED = 5000  # pictures that the scorer of texts is trained on
_AT_A_TIME = 256


@dataclasses.dataclass(frozen=True)
class Real:
    """Real pictures.

    Attributes:
        pictures: by level, read when they are needed; or statistics.
        captions: all their captions.
        pairs: function (level) -> pictures in batches, and one caption for each.
    """

    pictures: Mapping[str, Any]
    captions: list[str] | None = None
    pairs: Callable[[str], tuple[Any, list[str]]] = lambda level: ([], [])


def references(
    reference: str,
    levels: list[str],
    downsample: Any,
    features: Any,
    *,
    count: int | None = None,
    frame: str = "first",
    stride: int = 4,
) -> Real:
    """The real pictures of a source as levels see them.

    Args:
        reference: a source, a word for embedded drawings, or an `.npz` file of statistics.
        levels: names of levels, ascending.
        downsample: the process's D^r.
        features: the feature network.
        count: pictures to read; all by default.
        frame: for clips, the process's: which frame represents a group of frames.
        stride: for clips, every how many frames of a video one is taken.

    Raises:
        ValueError: if the levels cannot be compared with these pictures.
    """
    from keras_mdm import data
    from keras_mdm.cli import clips
    from keras_mdm.evaluation import moments, network_of
    from keras_mdm.levels import LevelShape

    if reference.endswith(".npz"):
        if len(levels) > 1:
            raise checks.error(
                "a file of statistics is of one level",
                fix="choose the level with --levels",
                levels=levels,
            )
        return Real({levels[0]: moments.load(reference, network_of(features, levels[0]))})
    if callable(downsample):
        raise checks.error(
            "real pictures of lower levels need a D^r that has a name",
            fix="evaluate from Python: keras_mdm.evaluation.evaluate(model, {level: pictures})",
            downsample=downsample,
        )
    if any(LevelShape.parse(level).frames for level in levels):
        options: Any = {"frame": frame, "stride": stride, "count": count}
        return clips.of_source(reference, levels, downsample, **options)
    sizes: dict[str, Any] = {level: LevelShape.parse(level).size for level in levels}
    if is_emoji(reference):
        drawings = emoji_drawings(reference, sizes, downsample)
        rows = spread(len(drawings.captions), count)
        pictures = {level: drawings.images[size][rows] for level, size in sizes.items()}
        captions = [drawings.captions[row] for row in rows]
        return Real(pictures, captions, lambda level: (pictures[level], captions))
    source = data.open_images(reference)
    rules = rules_of(sizes, downsample)

    def pairs(level: str) -> tuple[list["np.ndarray"], list[str]]:
        captions: list[str] = []
        some = min(count or _SCORED, _SCORED)
        return list(read(source, rules[level], some, captions, evenly=True)), captions

    return Real(
        {level: read(source, rule, count, evenly=True) for level, rule in rules.items()},
        list(data.captions_of(source)) if count is None else _captions(source, count),
        pairs,
    )


def _captions(source: Any, count: int) -> list[str]:
    """All captions of some records: a source of millions need not be read for them."""
    from keras_mdm.data.pictures.dataset import usable_captions

    def make(row: int) -> list[str]:
        record = source.read(row)
        return usable_captions(record) if record.captions else []

    found = in_batches(source, make, count, "captions", at_a_time=_AT_A_TIME, evenly=True)
    return [caption for _, batch in found for captions in batch for caption in captions]


def spread(total: int, count: int | None) -> list[int]:
    """Rows of a source that stand for all of it: it may be in the order of its classes.

    Example:

    >>> spread(10, 4), spread(3, 5), spread(2, None)
    ([0, 2, 5, 7], [0, 1, 2], [0, 1])
    """
    count = total if count is None else min(count, total)
    return [i * total // count for i in range(count)]


def is_emoji(reference: str) -> bool:
    """Whether a word names embedded drawings: those of a style, or the held-out ones of these."""
    style, colon, part = reference.partition(":")
    return style in EMOJI and part == (HELD_OUT if colon else "")


def emoji_drawings(reference: str, sizes: Mapping[str, Any], downsample: Any) -> "EmojiData":
    """The drawings of the quickstart in a style, or a tenth of all concepts that are held out.

    Args:
        reference: a word for which `is_emoji` holds.
        sizes: sizes of the levels.
        downsample: the process's D^r.

    Raises:
        ValueError: if a level is not a square.
    """
    from keras_mdm import data

    style, _, part = reference.partition(":")
    squares = [size for size in sizes.values() if isinstance(size, int)]
    if len(squares) < len(sizes):
        raise checks.error(
            "the embedded drawings are squares",
            fix="pass pictures of these proportions",
            source=reference,
            levels=list(sizes),
        )
    return data.load_emoji(
        squares,
        downsample=downsample,
        style=EMOJI[style],
        concepts=None if part else "simple",
        split="validation" if part else "train",
    )


def rules_of(sizes: Mapping[str, Any], downsample: Any) -> dict[str, Any]:
    """How files are read for levels, the highest last: lower ones as training makes them."""
    from keras_mdm import data

    highest = list(sizes.values())[-1]
    return {
        level: data.ImageRule(size, of=None if size == highest else highest, downsample=downsample)
        for level, size in sizes.items()
    }


def read(
    source: Any,
    rule: Any,
    count: int | None,
    captions: list[str] | None = None,
    found_rows: list[int] | None = None,
    *,
    evenly: bool = False,
) -> "Iterator[np.ndarray]":
    """Read pictures of a source as a level sees them, in batches.

    Args:
        source: the source.
        rule: how the level sees a picture.
        count: records to read; all by default.
        captions: where the first caption of each picture is appended; pictures without one are
            then left out.
        found_rows: where the number of each picture's record is appended.
        evenly: take `count` records from all parts of the source, not its first ones.
    """
    import numpy as np

    from keras_mdm.data.pictures.rule import decode

    def make(row: int) -> tuple[Any, "np.ndarray"]:
        record = source.read(row)
        return record.captions, decode(record.data, rule)[0]

    for rows, found in in_batches(
        source, make, count, "pictures", at_a_time=_AT_A_TIME, evenly=evenly
    ):
        if captions is not None:
            # Those without a caption are left out.
            pairs = [(row, one) for row, one in zip(rows, found, strict=True) if one[0]]
            rows, found = [row for row, _ in pairs], [one for _, one in pairs]
            captions += [texts[0] for texts, _ in found]
        if found_rows is not None:
            found_rows += rows
        if found:
            yield np.stack([pixels for _, pixels in found])


def in_batches(
    source: Any,
    make: Callable[[int], Any],
    count: int | None,
    what: str,
    *,
    at_a_time: int,
    evenly: bool = False,
) -> Iterator[tuple[list[int], list[Any]]]:
    """Read records of a source on all processors, and say at the end how many were skipped.

    Args:
        source: the source; its `attempt` turns a bad record into a `Skipped`.
        make: function of a record's number to what is read of it.
        count: records to read; all by default.
        what: name of the records in that sentence.
        at_a_time: records of a batch.
        evenly: take `count` records from all parts of the source, not its first ones.

    Yields:
        The numbers of the good records of a batch, at least one, and what was read of each.
    """
    import os
    from concurrent.futures import ThreadPoolExecutor

    from keras_mdm.data import Skipped

    skipped: list[Any] = []
    total = len(source)
    rows = spread(total, count) if evenly else list(range(total))[:count]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(rows), at_a_time):
            part = rows[first : first + at_a_time]
            made = pool.map(lambda row: source.attempt(row, make), part)
            good: dict[int, Any] = {}
            for row, one in zip(part, made, strict=True):
                if isinstance(one, Skipped):
                    skipped.append(one)
                else:
                    good[row] = one
            if good:
                yield list(good), list(good.values())
    if skipped:
        name, reason = skipped[0]
        words = f"{len(skipped)} of {len(rows)} real {what} were skipped"
        print(f"{words}, the first one {name}: {reason}", file=sys.stderr, flush=True)

"""The real pictures that `keras-mdm evaluate` compares with."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from keras_mdm import checks

if TYPE_CHECKING:
    import numpy as np

EMOJI = "emoji"
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
    reference: str, levels: list[str], downsample: Any, features: Any, *, count: int | None = None
) -> Real:
    """The real pictures of a source as levels see them.

    Args:
        reference: a source, "emoji", or an `.npz` file of statistics.
        levels: names of levels, ascending.
        downsample: the process's D^r.
        features: the feature network.
        count: pictures to read; all by default.

    Raises:
        ValueError: if the levels cannot be compared with these pictures.
    """
    from keras_mdm import data
    from keras_mdm.evaluation import moments
    from keras_mdm.levels import LevelShape

    if reference.endswith(".npz"):
        if len(levels) > 1:
            raise checks.error(
                "a file of statistics is of one level",
                fix="choose the level with --levels",
                levels=levels,
            )
        return Real({levels[0]: moments.load(reference, features)})
    if callable(downsample):
        raise checks.error(
            "real pictures of lower levels need a D^r that has a name",
            fix="evaluate from Python: keras_mdm.evaluation.evaluate(model, {level: pictures})",
            downsample=downsample,
        )
    sizes = {level: LevelShape.parse(level).size for level in levels}
    if reference == EMOJI:
        squares = {level: size for level, size in sizes.items() if isinstance(size, int)}
        if len(squares) < len(sizes):
            raise checks.error(
                "the drawings of the quickstart are squares",
                fix="pass --reference SOURCE with pictures of these proportions",
                levels=levels,
            )
        drawings = data.load_emoji(
            list(squares.values()), downsample=downsample, concepts="simple", split="train"
        )
        rows = slice(count)
        pictures = {level: drawings.images[size][rows] for level, size in squares.items()}
        captions = list(drawings.captions[rows])
        return Real(pictures, captions, lambda level: (pictures[level], captions))
    source = data.open_images(reference)
    highest = sizes[levels[-1]]
    rules = {
        level: data.ImageRule(size, of=None if size == highest else highest, downsample=downsample)
        for level, size in sizes.items()
    }

    def pairs(level: str) -> tuple[list["np.ndarray"], list[str]]:
        captions: list[str] = []
        some = min(count or _SCORED, _SCORED)
        return list(read(source, rules[level], some, captions)), captions

    return Real(
        {level: read(source, rule, count) for level, rule in rules.items()},
        list(data.captions_of(source)),
        pairs,
    )


def read(
    source: Any, rule: Any, count: int | None, captions: list[str] | None = None
) -> "Iterator[np.ndarray]":
    """Pictures of a source as a level sees them, in batches. If captions are to be collected, only
    pictures that have some are read, and the first caption of each is appended."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from keras_mdm.data import Skipped
    from keras_mdm.data.pictures.rule import decode

    def make(row: int) -> tuple[Any, "np.ndarray"]:
        record = source.read(row)
        return record.captions, decode(record.data, rule)[0]

    skipped: list[Any] = []
    rows = range(len(source) if count is None else min(count, len(source)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(rows), _AT_A_TIME):
            part = rows[first : first + _AT_A_TIME]

            def work(row: int) -> Any:
                return source.attempt(row, make)

            found: list[np.ndarray] = []
            for one in pool.map(work, part):
                if isinstance(one, Skipped):
                    skipped.append(one)
                    continue
                texts, pixels = one
                if captions is not None and not texts:
                    continue
                found.append(pixels)
                if captions is not None:
                    captions.append(texts[0])
            if found:
                yield np.stack(found)
    if skipped:
        name, reason = skipped[0]
        words = f"{len(skipped)} of {len(rows)} real pictures were skipped"
        print(f"{words}, the first one {name}: {reason}", file=sys.stderr, flush=True)

"""Real clips for `keras-mdm evaluate`, and folders of clips that anything has drawn."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm import checks
from keras_mdm.cli.reference import EMOJI, Real, in_batches, is_emoji, spread

if TYPE_CHECKING:
    import numpy as np

    from keras_mdm.levels import LevelShape

_AT_A_TIME = 32
_SCORED = 1000  # clips that the scorer of texts is trained on, all in memory


def of_source(
    reference: str,
    levels: Sequence[str],
    downsample: Any,
    *,
    frame: str = "first",
    stride: int = 4,
    count: int | None = None,
) -> Real:
    """The real clips of a source as levels see them: one clip of each video, at its own place.

    Args:
        reference: a folder of videos or of prepared clips, or a word for embedded drawings, which
            then move.
        levels: names of levels, ascending; the highest is one of clips.
        downsample: the process's D^r.
        frame: the process's, which frame represents a group of frames at a level with fewer.
        stride: every how many frames of a video one is taken.
        count: clips to read; all by default.

    Raises:
        ValueError: if the source holds no clips, or a level is not square.
    """
    from keras_mdm import data

    shapes = _squares(levels)
    if is_emoji(reference):
        return _moving_emoji(reference, shapes, downsample, frame, count)
    try:
        source: Any = data.open_clips(reference)
        captions = list(source.captions)
    except ValueError:
        # Distances need no captions.
        source, captions = data.open_clips(reference, captions="names"), []
    top = list(shapes.values())[-1]
    side = top.height
    rule = data.ClipRule(
        side, top.frames, stride, flip=False, of=side, downsample=downsample, frame=frame
    )
    source.check(rule)

    def pairs(level: str) -> tuple[Any, list[str]]:
        found: list[int] = []
        some = min(count or _SCORED, _SCORED)
        real = list(read(source, rule, shapes[level], some, rows=found, evenly=True))
        return real, [captions[row] for row in found]

    real = {level: read(source, rule, shape, count, evenly=True) for level, shape in shapes.items()}
    prompts = [captions[row] for row in spread(len(captions), count)]
    return Real(real, prompts or None, pairs)


def read(
    source: Any,
    rule: Any,
    shape: "LevelShape",
    count: int | None,
    *,
    rows: list[int] | None = None,
    evenly: bool = False,
) -> Iterator["np.ndarray"]:
    """Clips of a source as a level sees them, in batches.

    Args:
        source: of clips.
        rule: a `ClipRule` for the highest level.
        shape: the level; one of pictures sees the rule's `frame` of the clips.
        count: clips to read; all by default.
        rows: where the number of each clip's record is appended.
        evenly: as in `in_batches`.
    """
    import dataclasses

    import numpy as np

    small = dataclasses.replace(rule, size=shape.height)
    small = small if shape.frames else small.picture()

    def make(row: int) -> "np.ndarray":
        return fewer_frames(source.read(row, small), shape.frames, rule.frame)

    for found, clips in in_batches(
        source, make, count, "clips", at_a_time=_AT_A_TIME, evenly=evenly
    ):
        if rows is not None:
            rows += found
        yield np.stack(clips)


def fewer_frames(clip: "np.ndarray", frames: int | None, frame: str) -> "np.ndarray":
    """A clip, uint8 (..., F, H, W, 3), as a level with fewer frames sees it: one of each group.

    Example:

    >>> clip = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    >>> fewer_frames(clip, 2, "middle").ravel().tolist()
    [1, 3]
    """
    from keras_mdm.data.reduction import still_frame

    if frames is None or clip.shape[-4] == frames:
        return clip
    groups = clip.reshape(*clip.shape[:-4], frames, -1, *clip.shape[-3:])
    return still_frame(groups, frame)


def of_folder(target: str, level: str, count: int | None) -> tuple[dict[str, Any], list[str], str]:
    """Clips of a folder as a level: pictures with frames below each other, or videos.

    Args:
        target: the folder.
        level: name of the level.
        count: clips to read; all by default.

    Raises:
        ValueError: if it holds neither.
    """
    from keras_mdm import data

    ((name, shape),) = _squares([level]).items()
    if any(Path(target).glob("*.png")):
        return {name: _strips(target, shape, count)}, [name], "area"
    source = data.open_clips(target, captions="names")
    # Drawn clips are taken whole, frame by frame.
    rule = data.ClipRule(shape.height, shape.frames, stride=1, flip=False)
    return {name: read(source, rule, shape, count)}, [name], "area"


def _strips(target: str, shape: "LevelShape", count: int | None) -> Iterator["np.ndarray"]:
    """Clips that `evaluate` drew, as their pictures lie in the folder of their level."""
    import numpy as np
    from PIL import Image

    from keras_mdm.evaluation.samples import cut

    paths = sorted(Path(target).glob("*.png"))[:count]
    for first in range(0, len(paths), _AT_A_TIME):
        clips = []
        for path in paths[first : first + _AT_A_TIME]:
            with Image.open(path) as picture:
                clips.append(cut(np.asarray(picture.convert("RGB")), shape.name))
            if clips[-1].shape != shape.of_sample(3):
                raise checks.error(
                    f"clips of level {shape.name!r} must have its size",
                    fix="pass the level that they are of with --levels",
                    file=str(path),
                    shape=clips[-1].shape,
                )
        yield np.stack(clips)


def _moving_emoji(
    reference: str,
    shapes: Mapping[str, "LevelShape"],
    downsample: Any,
    frame: str,
    count: int | None,
) -> Real:
    from keras_mdm import data

    style, _, part = reference.partition(":")
    top = list(shapes.values())[-1]
    moving = data.load_moving_emoji(
        sorted({shape.height for shape in shapes.values()}),
        frames=top.frames or 1,
        style=EMOJI[style],
        downsample=downsample,
        split="validation" if part else "train",
        progress=False,
    )
    found, rows = {}, spread(len(moving.captions), count)
    for level, shape in shapes.items():
        clips = moving.clips[shape.height][rows]
        one = fewer_frames(clips, shape.frames or 1, frame)
        found[level] = one if shape.frames else one[:, 0]
    captions = [moving.captions[row] for row in rows]
    return Real(found, captions, lambda level: (found[level], captions))


def _squares(levels: Sequence[str]) -> dict[str, "LevelShape"]:
    from keras_mdm.levels import LevelShape

    shapes = {level: LevelShape.parse(level) for level in levels}
    wide = [level for level, shape in shapes.items() if not isinstance(shape.size, int)]
    if wide:
        raise checks.error(
            "clips are read as squares",
            fix="evaluate from Python: keras_mdm.evaluation.evaluate(model, {level: clips})",
            levels=wide,
        )
    return shapes

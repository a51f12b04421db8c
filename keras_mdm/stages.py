"""Models of one stage or several: what evaluation, export and commands ask of both."""

import contextlib
from collections.abc import Iterator
from typing import Any

from keras_mdm.levels import LevelShape

# Added to the seeds of later stages, bit by bit: where two stages have a level of the same name,
# one seed would give both the same noise.
_OTHER_SEED = 0x2545F4914F6CDD1D


def stages_of(model: Any) -> tuple[Any, ...]:
    """The diffusion models that draw one after the other: those of a `Cascade`, that of a
    `LatentDiffusion`, or the model.

    Args:
        model: one of these, or a `MatryoshkaDiffusion`.
    """
    return getattr(model, "stages", (model,))


@contextlib.contextmanager
def without_optimizers(model: Any) -> Iterator[None]:
    """Leave optimizers out of what `save` writes: moments are twice as large as the weights.

    Args:
        model: as in `stages_of`; its codec counts, too.
    """
    held = []
    for part in (*stages_of(model), getattr(model, "codec", None)):
        if getattr(part, "optimizer", None) is not None:
            held.append((part, {n: part.__dict__.get(n) for n in ("optimizer", "compiled")}))
    try:
        for part, _ in held:
            part.__dict__.update(optimizer=None, compiled=False)
        yield
    finally:
        for part, values in held:
            part.__dict__.update(values)


def levels_of(model: Any) -> tuple[str, ...]:
    """Names of all levels that a model draws, ascending.

    Of an upsampler, these are the levels larger than what it enlarges: the others are for itself.
    Of a model of codes with its codec, they are the decoded pictures.

    Args:
        model: a `Cascade`, a `LatentDiffusion` or a `MatryoshkaDiffusion`.
    """
    first, *others = stages_of(model)
    levels = list(first.unet.levels)
    for stage in others:
        enlarged = LevelShape.parse(levels[-1])
        levels += [
            name for name in stage.unet.levels if is_larger(LevelShape.parse(name), enlarged)
        ]
    codec = getattr(model, "codec", None)
    return tuple(levels if codec is None else [decoded_name(name, codec.factor) for name in levels])


def decoded_name(level: str, factor: int) -> str:
    """The name of a level of codes once they are decoded.

    Example:

    >>> decoded_name("16", 4), decoded_name("h6w10", 8)
    ('64', 'h48w80')
    """
    shape = LevelShape.parse(level)
    return LevelShape(shape.frames, (shape.height * factor, shape.width * factor)).name


def channels_of(model: Any) -> int:
    """Channels of what a model draws: of pictures, or of codes if there is no codec.

    Args:
        model: as in `levels_of`.
    """
    codec = getattr(model, "codec", None)
    if codec is not None:
        return getattr(codec, "image_channels", 3)
    return stages_of(model)[-1].unet.spec.out_channels


def is_larger(level: LevelShape, other: LevelShape) -> bool:
    """Whether a level has more pixels or more frames than another, and not less of either."""
    mine, its = ((each.frames or 1, each.height) for each in (level, other))
    return mine != its and all(a >= b for a, b in zip(mine, its, strict=True))


def seed_of_stage(seed: Any, number: int) -> Any:
    """The seed of a stage, whose noise is independent of that of the other stages.

    Args:
        seed: of the picture, an integer below 2**63; or a tensor or an array of these.
        number: of the stage, from 0, which keeps the seed.
    """
    return seed ^ _OTHER_SEED if number else seed

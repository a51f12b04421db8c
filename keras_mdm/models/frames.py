"""A clip network for longer clips, made of the same parts."""

import dataclasses

import keras

from keras_mdm import checks
from keras_mdm.models.nested_unet import NestedUNet, check_nested
from keras_mdm.models.specs import LevelSpec


def with_frames(unet: NestedUNet, frames: int) -> NestedUNet:
    """Reconnect the parts of a network for clips of another length.

    No learned weight depends on the number of frames: convolutions over time see three frames,
    attention over time sees all. All levels get the same multiple of frames, so that each frame of
    a lower level still stands for the same number of frames above it: an image level becomes a clip
    level, each of whose frames shows the first of a stretch. The weights are copied.

    Args:
        unet: a network with a clip level.
        frames: number of frames of the highest level, a multiple of its present number.

    Returns:
        A `NestedUNet`.

    Raises:
        ValueError: if there is no clip level, the number is not a multiple, or an adapter that lays
            frames out as a square would not get a square number of them.

    Example:

    >>> unet = build_nested_unet([LevelSpec(8, channels=(32, 64)), (4, 8)])
    >>> with_frames(unet, 8).levels
    ('2x8', '8x8')

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A, figure 10.
    """
    check_nested(unet, "with_frames")
    frames = checks.integer("frames", frames, minimum=1)
    top = unet.spec.levels[-1].frames
    if top is None:
        raise checks.error(
            "the highest level must be a clip level",
            fix="grow a clip level around the network first",
            levels=unet.levels,
        )
    factor, rest = divmod(frames, top)
    if rest or not factor:
        raise checks.error(
            f"`frames` must be a multiple of the {top} frames that the network has",
            fix=f"pass {top * max(1, round(frames / top))}, and keep only the first frames",
            frames=frames,
        )
    if factor > 1 and any(level.tiled_adapters for level in unet.spec.levels):
        raise checks.error(
            "adapters that lay frames out as a square picture have a fixed number of frames",
            fix="use overlapping windows (keras_mdm.video.extend) for longer clips",
            frames=frames,
        )
    levels = tuple(_stretched(level, factor) for level in unet.spec.levels)
    return reconnect(unet, levels)


def reconnect(unet: NestedUNet, levels: tuple[LevelSpec, ...]) -> NestedUNet:
    """Make a network of other shapes with copies of a network's weights.

    Args:
        unet: the network.
        levels: its levels, resolved, with other frames or sizes.
    """
    spec = dataclasses.replace(unet.spec, levels=levels)
    other = NestedUNet(spec, dtype=unet.policy, name=unet.name)
    for mine, theirs in zip(unet.parts.values(), other.parts.values(), strict=True):
        for old, new in zip(mine.variables, theirs.variables, strict=True):
            _check_shape(old, new)
            new.assign(old.value)
    if unet.trained_alone is not None:
        alone = dict(zip(unet.levels, other.levels, strict=True))
        other.trained_alone = tuple(alone[name] for name in unet.trained_alone)
    return other


def _check_shape(old: keras.Variable, new: keras.Variable) -> None:
    """Raise if a user's layer has weights that depend on the number of frames or the size."""
    if old.shape != new.shape:
        raise checks.error(
            "weights must not depend on the frames or the size that change",
            fix="make the layer without such weights, or train a network for these sizes",
            weight=old.path,
            here=tuple(old.shape),
            needed=tuple(new.shape),
        )


def _stretched(level: LevelSpec, factor: int) -> LevelSpec:
    if factor == 1:
        return level
    changes = {"frames": (level.frames or 1) * factor}
    if level.changes_time:
        changes["resolutions"] = tuple(frames * factor for frames in level.resolutions)
    return dataclasses.replace(level, **changes)

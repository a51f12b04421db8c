"""Clips by conditioning in the sampler: longer clips, clips from a picture, frames in between.

A model that was trained on whole clips can be told some of their frames: at every step its estimate
of these frames is replaced by the given ones, so that the others fit them. This needs no training,
and the given frames come back unchanged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.levels import LevelShape
from keras_mdm.training import MatryoshkaDiffusion


def animate(
    model: MatryoshkaDiffusion, images: Any, prompts: Sequence[str] | None = None, **options: Any
) -> dict[str, np.ndarray]:
    """Make clips that begin with given pictures.

    Args:
        model: a model whose highest level is a clip level.
        images: uint8 or float in [-1, 1], `(B, H, W, C)` or one `(H, W, C)` for all clips; other
            sizes than the model's are resized.
        prompts: what happens in the clips.
        **options: of `generate`.

    Returns:
        As `generate`: clips by level name. Their first frames, and image levels (which show the
        first frame), are the given pictures.

    Raises:
        ValueError: if the model makes no clips, or its image level does not show the first frame.

    Example:

    >>> clips = animate(model, picture, ["a pizza turning"], seed=0)

    Reference: Ho et al. 2022 (arXiv 2204.03458), section 3.1 (replacement).
    """
    top = _clip_level(model, options)
    images = np.asarray(images)
    whole = images if images.ndim == 4 else images[None]
    clips = np.repeat(whole[:, None], top.frames, axis=1)
    return _continue(model, clips, 1, prompts, options)


def extend(
    model: MatryoshkaDiffusion,
    prompts: Sequence[str] | None = None,
    *,
    frames: int,
    overlap: int | None = None,
    clips: Any = None,
    **options: Any,
) -> np.ndarray:
    """Make clips longer than those that the model was trained on, window by window.

    Each window begins with the last frames of the one before, unchanged.

    Args:
        model: a model whose highest level is a clip level.
        prompts: what happens in the clips; the same in every window.
        frames: number of frames to make.
        overlap: number of frames that a window takes from the one before; half a clip unless given.
        clips: uint8 `(B, T, S, S, C)`, the clips to continue, at least `overlap` frames of the
            highest level's size; new clips unless given.
        **options: of `generate`. Every window draws its noise from a different seed.

    Returns:
        uint8 `(B, frames, S, S, C)` at the highest level.

    Raises:
        ValueError: if the model makes no clips, or a number is out of range.

    Example:

    >>> extend(model, ["a pizza turning"], frames=32, seed=0).shape
    (1, 32, 64, 64, 3)

    Reference: Ho et al. 2022 (arXiv 2204.03458), section 3.1 (autoregressive extension).
    """
    top = _clip_level(model, options)
    frames = checks.integer("frames", frames, minimum=1)
    overlap = top.frames // 2 if overlap is None else checks.integer("overlap", overlap, minimum=1)
    if overlap >= top.frames:
        raise checks.error(
            f"`overlap` must be below the {top.frames} frames of a window",
            fix=f"pass {top.frames // 2}",
            overlap=overlap,
        )
    seed = options.pop("seed", 0)
    if clips is None:
        found = model.generate(prompts, seed=seed, **options)[top.name]
    else:
        found = np.asarray(clips)
        if found.ndim != 5 or found.dtype != np.uint8 or found.shape[1] < overlap:
            raise checks.error(
                f"`clips` must be uint8 (B, T, H, W, C) of at least {overlap} frames",
                fix="pass what `generate` returned for the highest level",
                shape=found.shape,
                dtype=str(found.dtype),
            )
    window = 0
    while found.shape[1] < frames:
        window += 1
        given = found[:, -overlap:]
        rest = np.repeat(given[:, -1:], top.frames - overlap, axis=1)
        clip = np.concatenate([given, rest], axis=1)
        moved = _moved_seed(seed, window)
        made = _continue(model, clip, overlap, prompts, {**options, "seed": moved})[top.name]
        found = np.concatenate([found, made[:, overlap:]], axis=1)
    return found[:, :frames]


def interpolate(
    model: MatryoshkaDiffusion, clips: Any, prompts: Sequence[str] | None = None, **options: Any
) -> dict[str, np.ndarray]:
    """Fill in the frames between given frames.

    Args:
        model: a model whose highest level is a clip level of T frames.
        clips: uint8 or float in [-1, 1], `(B, T', H, W, C)`, T' a divisor of T: every T / T'-th
            frame of the clip, the first included.
        prompts: what happens in the clips.
        **options: of `generate`.

    Returns:
        As `generate`: clips by level name, which contain the given frames.

    Raises:
        ValueError: if the model makes no clips, or T' does not divide T.

    Example:

    >>> slow = model.generate(["a pizza turning"])["8x64"]  # every second frame
    >>> interpolate(longer_model, slow, ["a pizza turning"])["16x64"].shape
    (1, 16, 64, 64, 3)
    """
    top = _clip_level(model, options)
    clips = np.asarray(clips)
    stretch, rest = divmod(top.frames, clips.shape[1]) if clips.ndim == 5 else (0, 1)
    if rest or stretch < 2:
        raise checks.error(
            f"`clips` must be (B, T, H, W, C) with T below {top.frames} and a divisor of it",
            fix="leave out frames until T fits",
            shape=clips.shape,
        )
    _require_first_frames(model)
    mask = np.ones(top.of_sample(1)[:-1], "float32")
    mask[::stretch] = 0.0
    held = np.repeat(clips, stretch, axis=1)
    return model.generate(prompts, init_image=held, mask=mask, **options)


def _continue(
    model: MatryoshkaDiffusion, clips: np.ndarray, given: int, prompts: Any, options: dict
) -> dict[str, np.ndarray]:
    """Draw clips whose first `given` frames are those of `clips`."""
    _require_first_frames(model)
    top = LevelShape.parse(model.unet.levels[-1])
    mask = np.ones(top.of_sample(1)[:-1], "float32")
    mask[:given] = 0.0
    return model.generate(prompts, init_image=clips, mask=mask, **options)


def _clip_level(model: MatryoshkaDiffusion, options: dict) -> LevelShape:
    """Return the highest level of a model, which must be a clip level."""
    if not isinstance(model, MatryoshkaDiffusion):
        raise checks.error(
            "`model` must be a MatryoshkaDiffusion",
            fix="load one with keras.saving.load_model",
            model=type(model).__name__,
        )
    for name in ("init_image", "mask", "hold", "strength", "return_steps", "stop_at"):
        if options.get(name) is not None:
            raise checks.error(
                "this function tells the sampler itself which frames are known",
                fix=f"leave `{name}` out, or call model.generate",
                option=name,
            )
    top = LevelShape.parse(model.unet.levels[-1])
    if top.frames is None or top.frames < 2:
        raise checks.error(
            "the highest level of the model must be a clip level",
            fix="use a model that was trained on clips",
            levels=model.unet.levels,
        )
    return top


def _require_first_frames(model: MatryoshkaDiffusion) -> None:
    """Raise unless lower levels show single frames of the clip: only then can they be known."""
    if model.process.frame == "average":
        raise checks.error(
            "levels with fewer frames must show single frames of the clip",
            fix="use a model that was trained with frame='first'",
            frame=model.process.frame,
        )


def _moved_seed(seed: Any, window: int) -> Any:
    """Seeds of a window: its noise differs from that of the windows before."""
    if isinstance(seed, Sequence | np.ndarray):
        return [(int(value) + 7919 * window) % 2**63 for value in seed]
    return (checks.seed(seed) + 7919 * window) % 2**63

"""Moving emoji: clips of drawings with a named motion, for text to video without data sets."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from keras_mdm import checks
from keras_mdm.assets import asset, cache_root, kept
from keras_mdm.assets import path as asset_path
from keras_mdm.assets.attribution import write_attribution
from keras_mdm.assets.table import Asset
from keras_mdm.data.base import area_average, check_sizes
from keras_mdm.data.emoji.catalogue import STYLES, Concept, read_catalogue
from keras_mdm.data.emoji.drawings import choose_concepts
from keras_mdm.data.emoji.motions import MOTIONS, moved, pose_of
from keras_mdm.data.emoji.rasterise import draw
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.diffusion.pyramid import DOWNSAMPLING

# Part of the cache key: raise it whenever a pixel may come out different.
RULE_VERSION = 1

# Frames are drawn at a multiple of their size, not below this, and averaged.
_DRAWN_AT_LEAST = 128

# One in this many pairs of drawing and motion is held out, by a hash of the pair.
HELD_OUT = 8


@dataclass(frozen=True)
class MovingEmoji:
    """Clips in memory.

    Attributes:
        clips: size in pixels to uint8 (n, T, size, size, 3), on white.
        captions: one caption per clip, the drawing's name and the motion: "pizza turning".
        names: the drawing of each clip.
        motions: the motion of each clip.
        attribution: the line to show wherever clips made from this data are published.
    """

    clips: dict[int, np.ndarray]
    captions: tuple[str, ...]
    names: tuple[str, ...]
    motions: tuple[str, ...]
    attribution: str

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes this data: number of clips, and a SHA-256 of captions and the clips at
        the lowest resolution."""
        digest = hashlib.sha256("\0".join(self.captions).encode())
        digest.update(np.ascontiguousarray(self.clips[min(self.clips)]).tobytes())
        return {"clips": len(self), "sha256": digest.hexdigest()}

    def take(self, rows: Sequence[int] | np.ndarray) -> "MovingEmoji":
        """Return a record with only these rows, in this order.

        Args:
            rows: positions, or one boolean per clip.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return MovingEmoji(
            {size: clips[rows] for size, clips in self.clips.items()},
            *(
                tuple(column[row] for row in rows)
                for column in (self.captions, self.names, self.motions)
            ),
            self.attribution,
        )


def load_moving_emoji(
    sizes: int | Sequence[int] = (16, 32),
    *,
    frames: int = 8,
    style: str = "twemoji",
    concepts: None | int | str | Sequence[str] = 50,
    motions: Sequence[str] = tuple(MOTIONS),
    split: str = "all",
    downsample: str = "area",
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> MovingEmoji:
    """Load clips of emoji drawings that move, at one or several sizes.

    Every drawing is shown with every motion. The clips are drawn the first time and read from the
    cache afterwards.

    Args:
        sizes: heights and widths in pixels.
        frames: length of the clips.
        style: "twemoji" (asset `emoji`), "openmoji" or "fluent" (assets of these names).
        concepts: which drawings, as in `load_emoji`; an integer takes that many of the list
            "simple".
        motions: names of motions, see `motions.MOTIONS`.
        split: "all", "train" or "validation". One pair of drawing and motion in eight is held out,
            so that both are known from other pairs.
        downsample: how smaller sizes are made from the largest, the process's D^r: "area" or
            "bilinear".
        cache_dir: as in `keras_mdm.assets.cache_root`.
        progress: show a progress bar.

    Returns:
        The clips, ordered by drawing and then by motion.

    Raises:
        ValueError: if the asset or a package is missing (the error names the command), or an
            argument is not one of those above.

    Example:

    >>> data = load_moving_emoji((16, 32), frames=8)  # doctest: +SKIP
    >>> data.clips[32].shape, data.captions[0]  # doctest: +SKIP
    """
    sizes = check_sizes("sizes", sizes)
    _check(frames, style, motions, split, downsample)
    record = asset(STYLES[style])
    chosen = _concepts(read_catalogue(asset_path(record.name, cache_dir=cache_dir)), concepts)
    pairs = [(concept, motion) for concept in chosen for motion in motions]
    # Averages of areas need no reduction: all sizes are averaged from the same large drawing.
    drawn = sizes if downsample == "area" else sizes[-1:]
    clips = _clips(
        pairs,
        frames,
        drawn,
        record=record,
        directory=cache_root(cache_dir) / "moving-emoji",
        progress=progress,
    )
    clips |= {
        size: reduce_pixels(clips[sizes[-1]], size, downsample)
        for size in sizes
        if size not in clips
    }
    data = MovingEmoji(
        clips=clips,
        captions=tuple(f"{concept.name} {motion}" for concept, motion in pairs),
        names=tuple(concept.name for concept, _ in pairs),
        motions=tuple(motion for _, motion in pairs),
        attribution=record.attribution,
    )
    if split == "all":
        return data
    held_out = np.array([is_held_out(concept.id, motion) for concept, motion in pairs], bool)
    return data.take(held_out if split == "validation" else ~held_out)


def _check(frames: Any, style: Any, motions: Any, split: Any, downsample: Any) -> None:
    checks.integer("frames", frames, minimum=2)
    checks.one_of("style", style, tuple(STYLES))
    checks.one_of("split", split, ("all", "train", "validation"))
    checks.one_of("downsample", downsample, DOWNSAMPLING)
    if isinstance(motions, str) or not motions:
        raise checks.error(
            "`motions` must be a list of names", fix=f"choose from {list(MOTIONS)}", motions=motions
        )
    for motion in motions:
        checks.one_of("motions", motion, tuple(MOTIONS))


def _concepts(catalogue: Sequence[Concept], concepts: Any) -> Sequence[Concept]:
    """The concepts asked for; for a number, that many of the simple ones."""
    if not checks.is_int(concepts):
        return choose_concepts(catalogue, concepts)
    simple = choose_concepts(catalogue, "simple")
    return choose_concepts(simple, min(concepts, len(simple)))


def is_held_out(concept: str, motion: str) -> bool:
    """Whether a pair of drawing and motion belongs to the validation split."""
    digest = hashlib.sha256(f"keras_mdm pairs 1:{concept}:{motion}".encode()).digest()
    return digest[0] % HELD_OUT == 0


def _clips(
    pairs: Sequence[tuple[Concept, str]],
    frames: int,
    sizes: Sequence[int],
    *,
    record: Asset,
    directory: Path,
    progress: bool,
) -> dict[int, np.ndarray]:
    """The clips at all sizes, from the cache if possible."""
    # All sizes are averages of one drawing, as in the pyramid that is trained on.
    drawn_at = sizes[-1] * max(2, -(-_DRAWN_AT_LEAST // sizes[-1]))
    parts = [RULE_VERSION, drawn_at, frames, [source.sha256 for source in record.sources]]
    parts += [[concept.file.name, motion] for concept, motion in pairs]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    targets = {size: directory / f"{record.name}-{size}x{frames}-{key}.npz" for size in sizes}

    def stored(size: int) -> np.ndarray | None:
        def use(archive: Any) -> np.ndarray:
            found = archive["clips"]
            if found.shape != (len(pairs), frames, size, size, 3) or found.dtype != np.uint8:
                raise ValueError(f"clips {found.dtype} {found.shape}")
            return found

        return kept.read(targets[size], use)

    clips = {size: stored(size) for size in sizes}
    if all(array is not None for array in clips.values()):
        return clips
    clips = {size: np.empty((len(pairs), frames, size, size, 3), np.uint8) for size in sizes}
    label = f"drawing {len(pairs)} clips, {', '.join(map(str, sizes))} px"
    for row, (concept, motion) in enumerate(tqdm(pairs, desc=label, disable=not progress)):
        svg = concept.file.read_text(encoding="utf-8")
        poses = [pose_of(motion, frame, frames) for frame in range(frames)]
        drawn = np.stack([draw(moved(svg, pose), drawn_at) for pose in poses])
        for size in sizes:
            clips[size][row] = area_average(drawn, size)
    for size, target in targets.items():
        array = clips[size]
        kept.write(target, lambda file, array=array: np.savez_compressed(file, clips=array))
    write_attribution(directory, record, changes="moved and drawn as pixels on white")
    return clips

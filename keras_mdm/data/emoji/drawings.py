"""Emoji drawings with their names: captioned pictures that need no data set."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_mdm import checks
from keras_mdm.assets import asset, cache_root
from keras_mdm.assets import path as asset_path
from keras_mdm.data.base import CaptionedImages, check_sizes
from keras_mdm.data.emoji.catalogue import (
    GROUPS,
    STYLES,
    CaptionFunction,
    Concept,
    hash_order,
    is_validation,
    plain_caption,
    read_catalogue,
)
from keras_mdm.data.emoji.rasterise import drawing_size, rasterise
from keras_mdm.data.emoji.simple_concepts import SIMPLE_CONCEPTS
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.diffusion.pyramid import DOWNSAMPLING


@dataclass(frozen=True)
class EmojiData(CaptionedImages):
    """Emoji drawings in memory.

    Attributes:
        images: size in pixels to uint8 (n, size, size, 3), on white.
        captions: one caption per drawing.
        labels: int32 (n,), the group of each drawing; -1 for the few without one.
        label_names: names of the nine groups.
        skipped: drawings that could not be rasterised.
        concepts: what each drawing shows, an id that is the same in every style.
        attribution: the line to show wherever pictures made from this data are published.
    """

    concepts: tuple[str, ...] = ()
    attribution: str = ""

    _per_picture: ClassVar[tuple[str, ...]] = ("captions", "labels", "concepts")


def load_emoji(
    sizes: int | Sequence[int] = (16, 64),
    *,
    downsample: str = "area",
    style: str = "twemoji",
    concepts: None | int | str | Sequence[str] = None,
    split: str = "all",
    caption: CaptionFunction = plain_caption,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> EmojiData:
    """Load emoji drawings at one or several sizes.

    The drawings are rasterised the first time and read from the cache afterwards. There is one
    drawing per concept; skin tones are left out.

    Args:
        sizes: heights and widths in pixels; smaller ones are reduced from the largest.
        downsample: how they are reduced, the process's D^r: "area" or "bilinear".
        style: "twemoji" (asset `emoji`), "openmoji" (asset `openmoji`) or "fluent" (asset `fluent`,
            shaded; drawing one takes five times as long).
        concepts: None for all (about 1,900); an integer for that many, a fair sample whose smaller
            sizes are contained in the larger; "simple" for the quickstart's list of distinct
            objects without people, flags and symbols; or a list of names such as "red apple".
        split: "all", "train" or "validation". A tenth of all concepts is held out, by a hash of
            the concept, so that a concept is on the same side in every style and every selection.
        caption: maps (name, style) to the caption; `styled_caption` names the style too.
        cache_dir: as in `keras_mdm.assets.cache_root`.
        progress: show a progress bar.

    Returns:
        The drawings, ordered by concept.

    Raises:
        ValueError: if the asset or a package is missing (the error names the command), or an
            argument is not one of those above.

    Example:

    >>> data = load_emoji((16, 64), concepts="simple")  # doctest: +SKIP
    >>> data.images[64].shape, data.captions[0]  # doctest: +SKIP
    """
    sizes = check_sizes("sizes", sizes)
    checks.one_of("downsample", downsample, DOWNSAMPLING)
    checks.one_of("style", style, tuple(STYLES))
    checks.one_of("split", split, ("all", "train", "validation"))
    record = asset(STYLES[style])
    directory = asset_path(record.name, cache_dir=cache_dir)
    chosen = choose_concepts(read_catalogue(directory), concepts)
    if not chosen:
        raise checks.error(
            "the selection must hold at least one concept",
            fix="choose other concepts",
            concepts=concepts,
        )
    made = [size for size in sizes if is_reduced(size, sizes[-1], downsample)]
    images, skipped = rasterise(
        [concept.file for concept in chosen],
        [size for size in sizes if size not in made],
        record=record,
        directory=cache_root(cache_dir) / "emoji",
        progress=progress,
    )
    images |= {size: reduce_pixels(images[sizes[-1]], size, downsample) for size in made}
    data = EmojiData(
        images=images,
        captions=tuple(caption(concept.name, style) for concept in chosen),
        labels=np.array([concept.group for concept in chosen], np.int32),
        label_names=GROUPS,
        skipped=skipped,
        concepts=tuple(concept.id for concept in chosen),
        attribution=record.attribution,
    )
    unusable = {failed.file for failed in skipped}
    keep = np.array([concept.file.name not in unusable for concept in chosen], bool)
    if split != "all":
        held_out = np.array([is_validation(concept.id) for concept in chosen], bool)
        keep &= held_out if split == "validation" else ~held_out
    return data if keep.all() else data.take(keep)


def is_reduced(size: int, largest: int, downsample: str) -> bool:
    """Whether drawings of a size are made from those of the largest size.

    Areas need this only for different large drawings: `rasterise` averages a common one for both
    sizes."""
    if downsample == "area":
        return largest % size == 0 and drawing_size(size) != drawing_size(largest)
    return size != largest


def choose_concepts(
    catalogue: Sequence[Concept], concepts: None | int | str | Sequence[str]
) -> list[Concept]:
    """Return the chosen concepts in the order of the catalogue.

    Args:
        catalogue: the concepts to choose from.
        concepts: as in `load_emoji`.
    """
    if concepts is None:
        return list(catalogue)
    if checks.is_int(concepts):
        checks.integer("concepts", concepts, minimum=1)
        if concepts > len(catalogue):
            raise checks.error(
                f"`concepts` must be at most the {len(catalogue)} concepts of the style",
                fix="pass concepts=None for all of them",
                concepts=concepts,
            )
        ranked = sorted(catalogue, key=lambda concept: hash_order(concept.id))[:concepts]
        return sorted(ranked, key=lambda concept: concept.id)
    if isinstance(concepts, str):
        checks.one_of("concepts", concepts, ("simple",))
        # A style may lack one of the list; the quickstart then has one concept less.
        wanted = set(SIMPLE_CONCEPTS)
    else:
        wanted = set(concepts)
        unknown = sorted(wanted - {concept.name for concept in catalogue})
        if unknown:
            raise checks.error(
                "`concepts` must be names of drawings",
                fix="use the Unicode names, such as 'red apple'; load_emoji().captions lists all",
                unknown=unknown,
            )
    return [concept for concept in catalogue if concept.name in wanted]

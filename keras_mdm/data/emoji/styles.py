"""Emoji drawings of several styles as one set, with concepts that are held out in one of them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.emoji.catalogue import STYLES, hash_order, styled_caption
from keras_mdm.data.emoji.drawings import EmojiData, load_emoji

# One concept in so many is held out.
HELD_OUT = 10


@dataclass(frozen=True)
class StyledEmoji(EmojiData):
    """Emoji drawings of several styles in memory.

    Attributes:
        styles: the style of each drawing.
    """

    styles: tuple[str, ...] = ()

    _per_picture = (*EmojiData._per_picture, "styles")


def load_styles(
    sizes: int | Sequence[int] = (16, 64),
    styles: Sequence[str] = tuple(STYLES),
    *,
    split: str = "all",
    downsample: str = "area",
    concepts: None | int | str | Sequence[str] = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> StyledEmoji:
    """Load drawings of several styles, whose captions name style and thing.

    A tenth of the concepts that exist in more than one style is held out in one of them, so that a
    model sees each of these, but not in that style: a model that has understood both words of a
    caption can draw it (`evaluation.other_style`). Which ones these are follows from the concept
    and its styles alone.

    Args:
        sizes: as in `load_emoji`, like `downsample`, `concepts`, `cache_dir` and `progress`.
        styles: at least two of "twemoji", "openmoji" and "fluent".
        split: "all", "train" without what is held out, or "validation" with nothing else.

    Returns:
        The drawings, style after style, each in the order of `load_emoji`.

    Raises:
        ValueError: as in `load_emoji`, or if fewer than two styles are given.

    Example:

    >>> data = load_styles((16, 64), split="train")  # doctest: +SKIP
    >>> data.captions[0], data.styles[0]  # doctest: +SKIP
    """
    checks.one_of("split", split, ("all", "train", "validation"))
    if isinstance(styles, str) or len(set(styles)) < 2 or len(set(styles)) != len(styles):
        raise checks.error(
            "`styles` must name at least two different styles",
            fix="pass several, or use load_emoji for one",
            styles=styles,
        )
    given: dict[str, Any] = {"downsample": downsample, "concepts": concepts}
    given |= {"cache_dir": cache_dir, "progress": progress}
    parts = {
        style: load_emoji(sizes, style=style, caption=styled_caption, **given) for style in styles
    }
    joined = _joined(parts)
    if split == "all":
        return joined
    owners: dict[str, list[str]] = {}
    for concept, style in zip(joined.concepts, joined.styles, strict=True):
        owners.setdefault(concept, []).append(style)
    held_out = np.array(
        [
            style == held_out_style(concept, owners[concept])
            for concept, style in zip(joined.concepts, joined.styles, strict=True)
        ],
        bool,
    )
    return joined.take(held_out if split == "validation" else ~held_out)


def held_out_style(concept: str, styles: Sequence[str]) -> str | None:
    """The style in which a concept is held out, if it is; its order does not matter.

    Args:
        concept: id of the concept.
        styles: in which it is drawn.
    """
    if len(styles) < 2 or hash_order(f"styles:{concept}") % HELD_OUT:
        return None
    return min(styles, key=lambda style: hash_order(f"{style}:{concept}"))


def _joined(parts: Mapping[str, EmojiData]) -> StyledEmoji:
    first = next(iter(parts.values()))
    every = list(parts.values())
    joined = {
        field.name: getattr(first, field.name)
        for field in dataclasses.fields(EmojiData)
        if field.name not in ("images", "skipped", "attribution", *EmojiData._per_picture)
    }
    return StyledEmoji(
        images={
            size: np.concatenate([part.images[size] for part in every]) for size in first.images
        },
        captions=tuple(caption for part in every for caption in part.captions),
        labels=np.concatenate([part.labels for part in every]),
        concepts=tuple(concept for part in every for concept in part.concepts),
        skipped=tuple(skipped for part in every for skipped in part.skipped),
        attribution=" ".join(dict.fromkeys(part.attribution for part in every)),
        styles=tuple(style for style, part in parts.items() for _ in part.captions),
        **joined,
    )

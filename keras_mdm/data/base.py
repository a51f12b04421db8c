"""The record that every source of captioned pictures returns."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from keras_mdm import checks
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.pictures.pixels import PICTURE_CHANNELS


class Skipped(NamedTuple):
    """A file that could not be used, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures in memory with one caption and one label each.

    Attributes:
        images: size in pixels to uint8 (n, size, size, C); every size holds the same pictures.
        captions: one caption per picture.
        labels: int32 (n,), positions in `label_names`; -1 for pictures without a label.
        label_names: names of the labels.
        skipped: files that could not be used.
    """

    images: dict[int, np.ndarray]
    captions: tuple[str, ...]
    labels: np.ndarray
    label_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        for size, array in self.images.items():
            fits = array.shape[:-1] == (len(self.captions), size, size)
            if array.dtype != np.uint8 or not fits or array.shape[-1] not in PICTURE_CHANNELS:
                raise checks.error(
                    "`images` must map sizes to uint8 (n, size, size, C), one caption per picture",
                    fix="pass arrays that belong together",
                    size=size,
                    shape=array.shape,
                    dtype=array.dtype.name,
                    captions=len(self.captions),
                )
        if self.labels.shape != (len(self.captions),):
            raise checks.error(
                "`labels` must hold one label per picture",
                fix="pass -1 for pictures without a label",
                labels=self.labels.shape,
                captions=len(self.captions),
            )

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def largest(self) -> np.ndarray:
        """The pictures at the highest resolution that was loaded."""
        return self.images[max(self.images)]

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes this data: number of records, and a SHA-256 of captions, labels and
        the pictures at the lowest resolution."""
        digest = hashlib.sha256("\0".join(self.captions).encode())
        digest.update(np.ascontiguousarray(self.labels, "<i4").tobytes())
        digest.update(np.ascontiguousarray(self.images[min(self.images)]).tobytes())
        return {"records": len(self), "sha256": digest.hexdigest()}

    def take(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Return a record with only these rows, in this order.

        Args:
            rows: positions, or one boolean per picture.

        Returns:
            A record of the same class.

        Example:

        >>> images, labels = {1: np.zeros((2, 1, 1, 3), np.uint8)}, np.array([0, 1], np.int32)
        >>> data = CaptionedImages(images, ("a", "b"), labels, ("x", "y"))
        >>> data.take([1]).captions
        ('b',)
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        changes = {"images": {size: array[rows] for size, array in self.images.items()}}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in self._per_picture and isinstance(value, np.ndarray):
                changes[field.name] = value[rows]
            elif field.name in self._per_picture:
                changes[field.name] = tuple(value[row] for row in rows)
        return dataclasses.replace(self, **changes)

    # Fields besides `images` that hold one entry per picture.
    _per_picture: ClassVar[tuple[str, ...]] = ("captions", "labels")


def area_average(images: np.ndarray, size: int) -> np.ndarray:
    """Shrink uint8 pictures by averaging whole blocks of pixels, rounded to nearest.

    Args:
        images: uint8 (n, s, s, C), s a multiple of `size`.
        size: the new height and width.

    Returns:
        uint8 (n, size, size, C).

    Raises:
        ValueError: if `size` does not divide s.

    Example:

    >>> area_average(np.full((1, 4, 4, 3), 7, np.uint8), 2).shape
    (1, 2, 2, 3)
    """
    return reduce_pixels(images, size)


def check_sizes(name: str, sizes: int | Sequence[int]) -> tuple[int, ...]:
    """Return `sizes` as ascending distinct positive integers, or raise."""
    listed = sizes if isinstance(sizes, Sequence) and not isinstance(sizes, str) else (sizes,)
    if not listed:
        raise checks.error(
            f"`{name}` must name at least one size", fix=f"pass {name}=64", **{name: sizes}
        )
    return tuple(sorted({checks.integer(name, size, minimum=1) for size in listed}))

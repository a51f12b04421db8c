"""Which pictures of a source go into which bucket of a rule."""

from dataclasses import dataclass

import numpy as np

from keras_mdm import checks
from keras_mdm.data.pictures.rule import ImageRule
from keras_mdm.data.pictures.shapes import nearest
from keras_mdm.data.pictures.sizes import sizes_of
from keras_mdm.data.sources.base import ImageSource


@dataclass(frozen=True)
class Buckets:
    """The pictures of a source, sorted by their proportions.

    Attributes:
        rules: what is done to the pictures of each bucket.
        members: the rows of each bucket, ascending.
        numbers: the bucket of each row, -1 for unusable ones.
    """

    rules: tuple[ImageRule, ...]
    members: tuple[np.ndarray, ...]
    numbers: np.ndarray

    @classmethod
    def of(cls, source: ImageSource, rule: ImageRule) -> "Buckets":
        """Sort the pictures of a source; unreadable ones are listed in its `skipped`.

        Args:
            source: the pictures.
            rule: a rule with buckets.

        Raises:
            ValueError: if too many pictures, or all, are unreadable.
        """
        sizes, broken = sizes_of(source)
        source.leave_out(broken)
        numbers = np.full(len(source), -1, np.int32)
        readable = sizes[:, 0] > 0
        numbers[readable] = nearest(rule.buckets, sizes[readable])
        if not readable.any():
            raise checks.error(
                "at least one picture must be readable",
                fix="see why they were skipped",
                skipped=[tuple(entry) for entry in source.skipped[:3]],
            )
        count = range(len(rule.buckets))
        return cls(
            tuple(rule.in_bucket(number) for number in count),
            tuple(np.flatnonzero(numbers == number) for number in count),
            numbers,
        )

    def around(self, row: int) -> tuple[ImageRule, np.ndarray]:
        """The rule for a picture, and the rows of its bucket."""
        number = self.numbers[row]
        return self.rules[number], self.members[number]

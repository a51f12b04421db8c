"""What sources of clips have in common: the next usable record replaces one that gives no clip."""

import numpy as np

from keras_mdm.data.clips.rule import ClipRule
from keras_mdm.data.skipping import Skipping


class Clips(Skipping):
    """Clips in files; arguments and attributes are those of `Skipping`."""

    def read(
        self, row: int, rule: ClipRule, *, place: float | None = None, mirror: bool = False
    ) -> np.ndarray:
        """Read the clip of one record.

        Args:
            row: number of the record.
            rule: which frames, and their size.
            place: in [0, 1), where in the video the clip begins; by default the video's own place.
            mirror: flip left and right.

        Returns:
            uint8 (T, size, size, C), or (size, size, C) for a rule without frames.

        Raises:
            UnusableVideo: if the record gives no clip.
        """
        raise NotImplementedError

    def read_usable(
        self, row: int, rule: ClipRule, *, place: float | None, mirror: bool
    ) -> tuple[np.ndarray, int]:
        """Read the clip of a record, or of the next usable one after it; see `usable`.

        Returns:
            The clip, and the record that was read.
        """

        def make(candidate: int) -> np.ndarray:
            return self.read(candidate, rule, place=place, mirror=mirror)

        return self.usable(row, make)

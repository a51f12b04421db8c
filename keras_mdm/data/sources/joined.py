"""Several sources read as one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm.data.base import Skipped
from keras_mdm.data.order.windows import place_in
from keras_mdm.data.skipping import MAX_SKIPPED
from keras_mdm.data.sources.base import ImageSource, Record
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.strings import Listed


class JoinedImages(ImageSource):
    """The records of several sources, one source after the other; classes are matched by name.

    Args:
        sources: one or more sources whose records can be read alone.
        names: what comes before the records of each in lists of skipped records.
        max_skipped: see `ImageSource`.

    Example:

    >>> both = JoinedImages([TableImages("a.csv"), TableImages("b.csv")], "ab")  # doctest: +SKIP
    """

    def __init__(
        self,
        sources: Sequence[ImageSource],
        names: Sequence[str],
        *,
        max_skipped: float = MAX_SKIPPED,
    ):
        left_out = [
            Skipped(f"{name}{entry.file}", entry.reason)
            for name, source in zip(names, sources, strict=True)
            for entry in source.skipped
        ]
        super().__init__(left_out, max_skipped)
        self.unused = Listed(
            (f"{name}{entry.file}", entry.reason)
            for name, source in zip(names, sources, strict=True)
            for entry in source.unused
        )
        self._sources, self._before = list(sources), list(names)
        self._ends = np.cumsum([len(source) for source in sources])
        together = {name for source in sources for name in source.label_names}
        numbers = all(name.isdecimal() for name in together)
        self.label_names = tuple(sorted(together, key=int if numbers else None))
        places = {name: place for place, name in enumerate(self.label_names)}
        self._labels = [[*(places[name] for name in s.label_names), -1] for s in sources]
        self.check_share()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, row: int) -> tuple[int, int]:
        return place_in(self._ends, row)

    def name(self, row: int) -> str:
        """The source of a record, and what the record is called there."""
        number, place = self._place(row)
        return self._before[number] + self._sources[number].name(place)

    @property
    def identity(self) -> dict[str, Any]:
        """Number of records, and a SHA-256 of the identities of the sources."""
        parts = [sorted(source.identity.items()) for source in self._sources]
        return {"records": len(self), "sha256": digest(self._before, parts)}

    def stamp(self) -> str | None:
        """A digest of the stamps of the sources."""
        found = [source.stamp() for source in self._sources]
        return None if None in found else digest(found)[:32]

    def read(self, row: int) -> Record:
        """Read one record; see `ImageSource.read`."""
        number, place = self._place(row)
        record = self._sources[number].read(place)
        label = self._labels[number][record.label]
        return record._replace(key=self._before[number] + record.key, label=label)

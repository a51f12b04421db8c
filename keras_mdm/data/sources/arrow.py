"""Arrow files, as `save_to_disk` of Hugging Face's datasets writes them."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.order.windows import place_in
from keras_mdm.data.skipping import MAX_SKIPPED, Unusable, reason_of
from keras_mdm.data.sources import columns, file_bytes
from keras_mdm.data.sources.base import ImageSource, Record, class_number
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.folder import read_whole
from keras_mdm.data.sources.index_cache import stamp_of_files
from keras_mdm.data.sources.table import number_classes
from keras_mdm.data.sources.texts import is_text

_FILE_FORMAT = b"ARROW1"


class ArrowImages(ImageSource):
    """Records of Arrow files in either format, mapped from disk and read at random.

    Args:
        files: paths.
        image: name of the column with `{bytes, path}` or bytes of a picture; by default one of the
            usual names, or the first picture.
        caption: likewise for captions; none if there is no such column.
        label: likewise for the class, by number or by name.
        max_skipped: see `ImageSource`.

    Raises:
        ValueError: if there are no files or records, or no column of pictures.

    Example:

    >>> source = ArrowImages(sorted(Path("saved").glob("*.arrow")))  # doctest: +SKIP
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        *,
        image: str | None = None,
        caption: str | None = None,
        label: str | None = None,
        max_skipped: float = MAX_SKIPPED,
    ):
        paths = file_bytes.require_files(files, "Arrow file")
        wanted = {"image": image, "caption": caption, "label": label}
        self._tables, self.paths, broken = [], [], []
        self._names: dict[str, str | None] = {}
        unused: list[Skipped] = []
        for path in paths:
            name = os.path.basename(path)
            try:
                table = _mapped(path)
            except Exception as problem:
                broken.append(Skipped(name, reason_of(problem)))
                continue
            self._names = self._names or columns.choose(table.schema, wanted)
            used = [column for column in self._names.values() if column is not None]
            missing = [column for column in used if column not in table.schema.names]
            if missing:
                reason = f"has no column {missing[0]!r}, which other files have"
                broken.append(Skipped(name, reason))
                continue
            unused = unused or columns.not_chosen(table.schema, self._names)
            self._tables.append(table.select(list(dict.fromkeys(used))))
            self.paths.append(path)
        super().__init__(broken, max_skipped)
        self.check_shards(broken, len(paths))
        sizes = [table.num_rows for table in self._tables]
        if not sum(sizes):
            raise checks.error(
                "the files must hold records", fix="check the files", files=paths[:3], records=0
            )
        self._ends = np.cumsum(sizes)
        self._classes = self._named_classes()
        self.choices |= {part: name for part, name in self._names.items() if name is not None}
        self.unused = tuple(unused)

    def _named_classes(self) -> dict[str, int] | None:
        import pyarrow.compute

        column = self._names["label"]
        if column is None:
            return None
        if not any(columns.is_text(table.schema.field(column).type) for table in self._tables):
            self.label_names = columns.names_of_classes(self._tables[0].schema, column)
            return None
        values = (pyarrow.compute.unique(table.column(column)) for table in self._tables)
        found = {columns.class_name(value) for each in values for value in each.to_pylist()}
        names = sorted(name for name in found if name and is_text(name))
        self.label_names, numbers = number_classes(names)
        return dict(zip(names, numbers.tolist(), strict=False))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, row: int) -> str:
        """File and row."""
        file, place = place_in(self._ends, row)
        return f"{os.path.basename(self.paths[file])}: row {place}"

    @property
    def identity(self) -> dict[str, Any]:
        """Number of records, and a SHA-256 of files and their numbers of rows."""
        return {
            "records": len(self),
            "sha256": digest(map(os.path.basename, self.paths), self._ends.tolist()),
        }

    def stamp(self) -> str | None:
        """Paths, sizes and times of the files, and the columns."""
        return stamp_of_files(self.paths, self.identity, sorted(self.choices.items()))

    def read(self, row: int) -> Record:
        """Read one record; see `ImageSource.read`."""
        file, place = place_in(self._ends, row)
        table, names = self._tables[file], self._names
        data = table.column(names["image"])[place].as_py()
        if isinstance(data, dict):
            # Pictures that were not embedded are files somewhere.
            path = data.get("path")
            data = data.get("bytes") or (path and read_whole(self._beside(file, path)))
        if not data:
            raise Unusable("has no bytes of a picture")
        label = None if names["label"] is None else table.column(names["label"])[place].as_py()
        if self._classes is not None:
            number = self._classes.get(columns.class_name(label) or "", -1)
        else:
            number = class_number(label)
        texts = columns.texts_in(table.column(names["caption"])[place]) if names["caption"] else ()
        return Record(self.name(row), data, tuple(filter(None, texts)), number)

    def _beside(self, file: int, path: str) -> str:
        return file_bytes.join(os.path.dirname(self.paths[file]), path)


def _mapped(path: str) -> Any:
    """The table in a file; its pages are read when they are used."""
    import pyarrow.ipc

    with pyarrow.memory_map(path) as mapped:
        in_one = mapped.read(len(_FILE_FORMAT)) == _FILE_FORMAT
        mapped.seek(0)
        opened = pyarrow.ipc.open_file(mapped) if in_one else pyarrow.ipc.open_stream(mapped)
        return opened.read_all()

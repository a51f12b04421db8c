"""Parquet files with the bytes of pictures, such as the data sets of Hugging Face."""

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.order.windows import place_in
from keras_mdm.data.skipping import MAX_SKIPPED, Unusable, reason_of
from keras_mdm.data.sources import columns, file_bytes
from keras_mdm.data.sources.base import ImageSource, Record, class_number
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.index_cache import stamp_of_files
from keras_mdm.data.sources.kept_groups import KeptGroups
from keras_mdm.data.sources.parquet_contents import downloads
from keras_mdm.data.sources.strings import Listed, short_names
from keras_mdm.data.sources.table import number_classes
from keras_mdm.data.sources.texts import is_text

_log = logging.getLogger(__name__)

# Most bytes of groups of rows in memory.
_MEMORY = 4 * 2**30


class ParquetImages(ImageSource):
    """Records of Parquet files; a group of rows is read as a whole and kept for a while.

    Args:
        files: paths.
        image: name of the column with the bytes of a picture, or with `{bytes, path}`; by default
            one of the usual names.
        caption: likewise for captions, a text or a list; none if there is no such column.
        label: likewise for the class, by number or by name; names are read on opening.
        memory: bytes of groups of rows that are kept, 4 GiB by default. If the groups of two
            windows of the order would take more, fewer groups are mixed at a time; three are kept
            in any case.
        max_skipped: see `ImageSource`.

    Raises:
        ValueError: if there are no files or records, or no column of pictures.

    Example:

    >>> source = ParquetImages(sorted(Path("data").glob("*.parquet")))  # doctest: +SKIP
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        *,
        image: str | None = None,
        caption: str | None = None,
        label: str | None = None,
        memory: int = _MEMORY,
        max_skipped: float = MAX_SKIPPED,
    ):
        import pyarrow.parquet

        memory = checks.integer("memory", memory, minimum=1)
        paths = file_bytes.require_files(files, "Parquet file")
        self._groups, self._meta, self.shard_sizes = [], {}, []
        broken, schemas, sizes = [], [], []
        self._rows: dict[int, np.ndarray] = {}  # of groups in which some rows have no picture
        failed = Listed()
        self._shown = dict(zip(paths, short_names(paths), strict=True))
        wanted = {"image": image, "caption": caption, "label": label}
        for path in paths:
            try:
                with file_bytes.open_file(path) as file:
                    opened = pyarrow.parquet.ParquetFile(file)
                    meta, own = opened.metadata, opened.schema_arrow
                    noted = [downloads(opened, group) for group in range(meta.num_row_groups)]
            except Exception as problem:
                broken.append(Skipped(self._shown[path], reason_of(problem)))
                continue
            if not schemas:
                self._names = columns.choose(own, wanted)
            missing = [name for name in self._names.values() if name and name not in own.names]
            if missing:
                reason = f"has no column {missing[0]!r}, which other files have"
                broken.append(Skipped(self._shown[path], reason))
                continue
            self._meta[path] = meta
            schemas.append(own)
            for group, reasons in enumerate(noted):
                rows = range(meta.row_group(group).num_rows)
                if any(reasons):
                    for row, reason in enumerate(reasons):
                        if reason:
                            failed.append(self._name(path, group, row), reason)
                    rows = np.flatnonzero([reason is None for reason in reasons])
                    self._rows[len(self._groups)] = rows
                self._groups.append((path, group))
                self.shard_sizes.append(len(rows))
                sizes.append(_bytes_of(meta.row_group(group), self._names.values()))
        super().__init__(broken, max_skipped)
        self.unused = failed
        self.check_shards(broken, len(paths))
        self.paths, self._ends = paths, np.cumsum(self.shard_sizes)
        if not sum(self.shard_sizes):
            raise checks.error(
                "the files must hold records", fix="check the files", files=paths[:3], records=0
            )
        self._classes = self._named_classes(schemas) if schemas else None
        self._kept = KeptGroups(sizes, self._load, memory, _bytes_in_memory)
        self.shard_window = self._kept.window
        self.choices |= {part: name for part, name in self._names.items() if name is not None}
        for column in columns.not_chosen(schemas[0], self._names):
            failed.append(*column)
        if self._kept.least > memory:
            self.choices["memory"] = f"{self._kept.least / 1e9:.1f} GB for three groups of rows"
            _log.warning(
                "groups of rows are large: three of them take %.1f GB of memory. To need less, "
                "write the files with a smaller row_group_size, or run `keras-mdm prepare` once",
                self._kept.least / 1e9,
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, row: int) -> tuple[int, int]:
        group, place = place_in(self._ends, row)
        rows = self._rows.get(group)
        return group, place if rows is None else int(rows[place])

    def name(self, row: int) -> str:
        """File, group and row."""
        group, place = self._place(row)
        return self._name(*self._groups[group], place)

    def _name(self, path: str, group: int, row: int) -> str:
        return f"{self._shown[path]}: row {row} of group {group}"

    @property
    def identity(self) -> dict[str, Any]:
        """Number of records, and a SHA-256 of files and the sizes of their groups."""
        names = map(os.path.basename, self.paths)
        return {"records": len(self), "sha256": digest(names, self.shard_sizes)}

    def stamp(self) -> str | None:
        """Paths, sizes and times of the files, and the columns."""
        return stamp_of_files(self.paths, self.identity, sorted(self._names.items()))

    def read(self, row: int) -> Record:
        """Read one record; see `ImageSource.read`."""
        group, place = self._place(row)
        try:
            table = self._kept[group]
        except Exception as problem:
            raise Unusable(reason_of(problem)) from problem
        values = {k: column[place].as_py() for k, column in table.items() if k != "caption"}
        data = values["image"]
        data = data.get("bytes") if isinstance(data, dict) else data
        if not data:
            raise Unusable("has no bytes of a picture")
        captions = columns.texts_in(table["caption"][place]) if "caption" in table else ()
        return Record(
            self.name(row),
            data,
            tuple(filter(None, captions)),
            self._label(values.get("label")),
        )

    def _label(self, value: Any) -> int:
        if self._classes is None:
            return class_number(value)
        return self._classes.get(columns.class_name(value) or "", -1)

    def _named_classes(self, schemas: Sequence[Any]) -> dict[str, int] | None:
        """The number of each class, if files hold names; this reads all names."""
        import pyarrow.compute
        import pyarrow.parquet

        column = self._names["label"]
        if column is None:
            return None
        if not any(columns.is_text(schema.field(column).type) for schema in schemas):
            self.label_names = columns.names_of_classes(schemas[0], column)
            return None
        found: set[str | None] = set()
        for path in self._meta:
            with file_bytes.open_file(path) as file:
                opened = pyarrow.parquet.ParquetFile(file, metadata=self._meta[path])
                for batch in opened.iter_batches(columns=[column]):
                    values = pyarrow.compute.unique(batch.column(0)).to_pylist()
                    found.update(map(columns.class_name, values))
        names = sorted(name for name in found if name and is_text(name))
        self.label_names, numbers = number_classes(names)
        return dict(zip(names, numbers.tolist(), strict=False))

    def _load(self, group: int) -> dict[str, Any]:
        import pyarrow.parquet

        path, number = self._groups[group]
        wanted = [name for name in self._names.values() if name is not None]
        with file_bytes.open_file(path) as file:
            whole = pyarrow.parquet.ParquetFile(file, metadata=self._meta[path])
            table = whole.read_row_group(number, columns=wanted)
        return {
            part: _joined(table.column(name))
            for part, name in self._names.items()
            if name is not None
        }


def _bytes_of(group: Any, names: Iterable[str | None]) -> int:
    """Bytes of some columns of a group of rows, once unpacked."""
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.partition(".")[0] in names
    )


def _bytes_in_memory(columns: dict[str, Any]) -> int:
    return sum(column.nbytes for column in columns.values())


def _joined(column: Any) -> Any:
    """A column in one piece, if one can hold it: places in a piece take 31 bits."""
    return column.combine_chunks() if column.nbytes < 2**31 else column

"""Files of tf.train.Example records: TFRecord and ArrayRecord, as TFDS and `prepare` write them."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import MAX_SKIPPED, Unusable, reason_of
from keras_mdm.data.sources import file_bytes, kinds
from keras_mdm.data.sources.array_records import ArrayRecords
from keras_mdm.data.sources.base import ImageSource, Record, class_number
from keras_mdm.data.sources.digests import digest
from keras_mdm.data.sources.index_cache import stamp_of_files
from keras_mdm.data.sources.strings import short_names
from keras_mdm.data.sources.texts import text_of
from keras_mdm.data.sources.tf_records import TFRecords

# Usual names of features; the first one present counts.
IMAGE = ("image", "image/encoded", "jpg", "png", "webp", "image_bytes", "image_raw")
CAPTION = (
    *("caption", "captions", "captions/text", "caption/text", "text", "image/caption", "txt"),
    "prompt",
)
LABEL = ("label", "image/class/label", "class", "cls")
KEY = ("key", "__key__", "file_name", "image/filename", "image_id", "id")
SIZE = ("original_height", "original_width")


class ExampleImages(ImageSource):
    """Records of ArrayRecord or TFRecord files that are `tf.train.Example` messages.

    Args:
        files: paths; all of one kind, according to their names: `.array_record` or `.tfrecord`.
        image: name of the feature with the bytes of a picture; by default one of the usual names.
        caption: likewise for captions, one or several; none if there is no such feature.
        label: likewise for the number of the class.
        ranges: (first record, one after the last) to use from each file; by default all.
        label_names: names of the classes.
        max_skipped: see `ImageSource`.
        cache_dir: where indexes of TFRecord files are kept, as in `keras_mdm.assets.cache_root`.
        progress: show a progress bar while files are indexed.

    Raises:
        ValueError: if there are no files or records, or the first one has no picture.

    Example:

    >>> source = ExampleImages(sorted(Path("shards").glob("*.array_record")))  # doctest: +SKIP
    """

    _usual = {"image": IMAGE, "caption": CAPTION, "label": LABEL, "key": KEY}

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        *,
        image: str | None = None,
        caption: str | None = None,
        label: str | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
        label_names: Sequence[str] = (),
        max_skipped: float = MAX_SKIPPED,
        cache_dir: str | os.PathLike | None = None,
        progress: bool = True,
    ):
        paths = file_bytes.require_files(files, "record file")
        options = {"cache_dir": cache_dir, "progress": progress}
        of_arrays = kinds.shard_kind(os.path.basename(paths[0])) == "ArrayRecord"
        kind = ArrayRecords if of_arrays else TFRecords
        self._files = kind(paths, **options)
        counts = self._files.counts
        self._ranges = [(0, count) for count in counts] if ranges is None else list(ranges)
        self._ends = np.cumsum([last - first for first, last in self._ranges])
        super().__init__(self._files.broken, max_skipped)
        self.check_shards(self._files.broken, len(paths), usable=len(self))
        self.paths, self.label_names = paths, tuple(label_names)
        self._shown = short_names(paths)
        if not len(self):
            raise checks.error(
                "the files must hold records", fix="check the files", files=paths[:3], records=0
            )
        self._found: set[str] = set()
        self._names = self._choose(image, caption, label)
        self.choices |= {
            part: name for part, name in self._names.items() if name is not None and part != "key"
        }
        unused = [
            Skipped(shown, "is empty")
            for path, shown, count in zip(paths, self._shown, counts, strict=True)
            if not count and not file_bytes.file_size(path)
        ]
        unused += (
            Skipped(f"feature {name}", f"is not read: {part}={name!r} chooses it")
            for part in ("image", "caption", "label")
            for name in self._usual[part]
            if name in self._found and name not in self._names.values()
        )
        self.unused = tuple(unused)

    def _choose(self, image: str | None, caption: str | None, label: str | None) -> dict:
        """Names of the features to use, looked for in the first records."""
        found = self._found
        for row in range(min(8, len(self))):
            try:
                found |= set(self._features(row))
            except Unusable as problem:
                reason_of(problem)  # raises what is not the record's fault
        wanted = {"image": image, "caption": caption, "label": label}
        usual = self._usual
        first = {
            part: next((name for name in names if name in found), None)
            for part, names in usual.items()
        }
        chosen = {part: wanted.get(part) or name for part, name in first.items()}
        # Other features of the same files are other data.
        self._other = {part: name for part, name in chosen.items() if name != first[part]}
        for part, name in chosen.items():
            if (part == "image" or wanted.get(part)) and name not in found:
                raise checks.error(
                    f"the records must have a feature for `{part}`",
                    fix=f"pass {part}=, the name of the feature",
                    looked_for=name or usual[part],
                    features=sorted(found),
                )
        return chosen

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, row: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._ends, row, side="right"))
        first, last = self._ranges[file]
        return file, row - int(self._ends[file]) + last

    def name(self, row: int) -> str:
        """File, and number of the record in it."""
        file, record = self._place(row)
        return f"{self._shown[file]}: record {record}"

    @property
    def identity(self) -> dict[str, Any]:
        """Number of records, a SHA-256 of files, their sizes and ranges, and those features that
        are not the first usual ones."""
        sizes = [file_bytes.file_size(path) for path in self.paths]
        names = map(os.path.basename, self.paths)
        found = {"records": len(self), "sha256": digest(names, sizes, self._ranges)}
        return {**found, "features": dict(self._other)} if self._other else found

    def stamp(self) -> str | None:
        """Paths, sizes and times of the files, and which of their records and features are read."""
        return stamp_of_files(self.paths, self.identity, sorted(self.choices.items()))

    def _features(self, row: int) -> Any:
        from tensorflow.core.example.example_pb2 import Example

        file, record = self._place(row)
        try:
            return Example.FromString(self._files.read(file, record)).features.feature
        # The reader and the parser have their own errors.
        except Exception as problem:
            raise Unusable(f"cannot be read: {problem}") from problem

    def read(self, row: int) -> Record:
        """Read one record; see `ImageSource.read`."""
        features = self._features(row)

        def values(part: str | None) -> list:
            if part is None or part not in features:
                return []
            feature = features[part]
            kind = feature.WhichOneof("kind")
            return list(getattr(feature, kind).value) if kind else []

        data = values(self._names["image"])
        if not data or not isinstance(data[0], bytes):
            raise Unusable("has no bytes of a picture")
        label = values(self._names["label"])
        key = values(self._names["key"])
        size = [value for name in SIZE for value in values(name)]
        return Record(
            _name(key[0]) if key else self.name(row),
            data[0],
            tuple(
                text_of(caption) if isinstance(caption, bytes) else str(caption)
                for caption in values(self._names["caption"])
            ),
            class_number(label[0] if label else None),
            _original_size(size) if len(size) == 2 else None,
        )


def _original_size(values: list) -> tuple[int, int]:
    height, width = map(class_number, values)  # likewise a whole number, or -1
    if height < 1 or width < 1:
        raise Unusable(f"has the original size {values[0]!r:.20} x {values[1]!r:.20}")
    return height, width


def _name(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

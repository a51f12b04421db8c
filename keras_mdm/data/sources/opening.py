"""Which kind of source a path is."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.sources import file_bytes, kinds, listing, saved, splits, table_bytes
from keras_mdm.data.sources.arrow import ArrowImages
from keras_mdm.data.sources.base import ImageSource
from keras_mdm.data.sources.examples import ExampleImages
from keras_mdm.data.sources.folder import FolderImages
from keras_mdm.data.sources.listing import Survey
from keras_mdm.data.sources.parquet import ParquetImages
from keras_mdm.data.sources.parquet_contents import PICTURES, UNREADABLE, content_of
from keras_mdm.data.sources.prepared import manifest_of, open_prepared
from keras_mdm.data.sources.strings import Listed
from keras_mdm.data.sources.table import TableImages
from keras_mdm.data.sources.table_choice import choose_tables, open_tables
from keras_mdm.data.sources.tar import TarImages
from keras_mdm.data.sources.tfds import TfdsImages

TFDS = "tfds:"
# Kinds of shards, in the order in which they are looked for in a folder.
_SHARDS: dict[str, Callable[..., ImageSource]] = {
    "ArrayRecord": ExampleImages,
    "tar": TarImages,
    "Parquet": ParquetImages,
    "TFRecord": ExampleImages,
}


def open_images(
    source: str | os.PathLike, *, split: str | None = None, **options: Any
) -> ImageSource:
    """Open pictures in any of the supported forms.

    Files that are not read are listed in `unused`, with reasons, and `choices` says what was chosen
    among several options. If folders or files are named after splits (train, validation, test, or
    other names for these), one split is read.

    Args:
        source: a folder or one file. A folder with ArrayRecord, tar, Parquet or TFRecord files is
            read from these; the folder of a data set prepared by TFDS, as that; a folder with a
            table (`metadata.csv`, `.tsv`, `.jsonl`, or the only such file in it; in sub-folders
            `metadata` only), as the table says; any other, as a folder of pictures. `tfds:NAME` or
            `tfds:NAME:SPLIT` is a data set of TFDS. URLs that TensorFlow can read work too.
            `SOURCE:SPLIT` names the split.
        split: name of the split; by default the one for training.
        **options: arguments of the kind of source, such as `max_skipped`.

    Returns:
        The source.

    Raises:
        ValueError: if `source` does not exist or holds no pictures, or none of its splits is for
            training.

    Example:

    >>> open_images("cc12m")  # a folder of tar shards  # doctest: +SKIP
    """
    if not isinstance(source, str | os.PathLike):
        raise checks.error(
            "the data must be a folder, a file or tfds:NAME",
            fix="pass its path",
            source=source,
        )
    path = os.fspath(source)
    if path.startswith(TFDS):
        name, _, split = path.removeprefix(TFDS).partition(":")
        return TfdsImages(name, **({"split": split} if split else {}), **options)
    if not file_bytes.exists(path):
        path, split = _without_split(path, split)
    named_split = {} if split is None else {"split": split}
    if not _is_folder(path):
        return _open_file(path, named_split, options)
    if not file_bytes.is_remote(path):
        if _of_tfds(path):
            return TfdsImages(path, **named_split, **options)
        if saved.is_saved(path):
            return saved.open_saved(path, split, options)
    manifest = manifest_of(path)
    if manifest is not None:
        if split is not None:
            splits.choose((), split, path)  # raises, as there is none
        return open_prepared(path, manifest, options)
    return _open_folder(path, split, options)


def _without_split(path: str, split: str | None) -> tuple[str, str | None]:
    """The path and the split in `PATH:SPLIT`."""
    folder, colon, name = path.rpartition(":")
    if colon and "/" not in name and file_bytes.exists(folder):
        return folder, split or name
    raise checks.error(
        "the data must be a folder, a file or tfds:NAME",
        fix="check the path",
        source=path,
    )


def _open_file(path: str, split: dict[str, str], options: dict[str, Any]) -> ImageSource:
    source = _file_of_kind(path, split, options)
    kind = listing.kind_of(os.path.basename(path))
    # The name need not tell: train-00000-of-00001, or a table in a .json file.
    kind = {"other files": "TFRecord files", "texts": "tables"}.get(kind, kind)
    source.found = {kind: 1}
    return source


def _file_of_kind(path: str, split: dict[str, str], options: dict[str, Any]) -> ImageSource:
    name = os.path.basename(path)
    if table_bytes.is_table(name) or kinds.ending_of(name) == ".json":
        return TableImages(path, **split, **options)
    if kinds.ending_of(name) == ".arrow" and not split:
        return ArrowImages([path], **options)
    kind = kinds.shard_kind(name)
    if kind is None and kinds.is_unnamed_tfrecord(path):
        kind = "TFRecord"
    if kind == "Parquet" and not (
        options.get("image") or content_of(path) in (PICTURES, UNREADABLE)
    ):
        return TableImages(path, **split, **options)
    if kind is None:
        raise checks.error(
            "a file must be a table, a tar shard, or a file of records",
            fix="pass a folder, or a file named *.csv, .tsv, .jsonl, .tar, .parquet, .arrow, "
            ".tfrecord or .array_record",
            source=path,
        )
    if split:
        splits.choose((), split["split"], path)  # raises, as there is none
    return _SHARDS[kind]([path], **options)


def _open_folder(path: str, split: str | None, options: dict[str, Any]) -> ImageSource:
    survey = Survey(path)
    empty: list[Skipped] = []  # shards that give no pictures
    for kind, opened in _SHARDS.items():
        shards = survey.shards.get(kind, [])
        # Metadata beside pictures has the same ending.
        if kind == "Parquet" and not options.get("image"):
            shards = _with_pictures(survey, shards)
        if not shards:
            continue
        others = survey.pictures or any(survey.shards[k] for k in survey.shards if k != kind)
        # Otherwise names of files would replace the captions of a damaged table.
        if survey.pictures and any(map(table_bytes.is_metadata, shards)):
            others = 0
        source = _open_shards(survey, opened, shards, split, options, bool(others))
        if source is not None:
            return _without(source, empty)
        empty += [
            Skipped(shard, f"is a {kind} file without a readable picture") for shard in shards
        ]
    tables, table_split = choose_tables(survey, split)
    if tables:
        return _without(open_tables(survey, tables, table_split, split, options), empty)
    if survey.shards.get("Parquet") and not survey.pictures:  # its error lists the columns
        return ParquetImages([file_bytes.join(path, s) for s in survey.shards["Parquet"]])
    # A class may be called train or test, but not if both exist or a split is asked for.
    found = survey.splits
    several = len(found - {None}) > 1 and (None not in found or "train" in found)
    chosen = splits.choose(found, split, path) if several or split is not None else None
    return _without(FolderImages(path, split=chosen, **options), empty)


def _without(source: ImageSource, empty: Sequence[Skipped]) -> ImageSource:
    """The source, with shards beside it listed as unusable rather than as not used."""
    if empty:
        names = {shard.file for shard in empty}
        source.unused = Listed(entry for entry in source.unused if entry.file not in names)
        source.leave_out_files(empty)
    return source


def _with_pictures(survey: Survey, shards: Sequence[str]) -> list[str]:
    """The Parquet files with pictures. Files that cannot be read count as these, so that they are
    reported, but not if they are called like a folder or a shard, whose metadata they then are."""
    records = {os.path.splitext(shard)[0] for shard in survey.shards.get("TFRecord", ())}

    def of_others(shard: str) -> bool:
        stem = os.path.splitext(shard)[0]
        return stem in records or file_bytes.exists(file_bytes.join(survey.root, stem))

    content = {shard: survey.content(shard) for shard in shards}
    some = PICTURES in content.values()
    return [
        shard
        for shard, found in content.items()
        if found == PICTURES or (found == UNREADABLE and (some or not of_others(shard)))
    ]


def _open_shards(
    survey: Survey,
    opened: Callable[..., ImageSource],
    shards: Sequence[str],
    split: str | None,
    options: dict[str, Any],
    others: bool,
) -> ImageSource | None:
    """Open the shards of one kind and one split, and list the files beside them. `None` if they
    give no pictures, for example as the only shard is damaged, and files of other kinds may."""
    of = splits.of_shards(shards)
    chosen = splits.choose(set(of.values()), split, survey.root)
    used = [s for s in shards if chosen is None or of[s] == (chosen or None)]
    paths = [file_bytes.join(survey.root, shard) for shard in used]
    try:
        source = opened(paths, **options)
    except ValueError:
        if others and not _gives_pictures(opened, paths, options):
            return None
        raise

    def reason(path: str) -> str:
        if path in of:
            return splits.not_chosen(of[path], chosen or "")
        return survey.why_not(path, listing.beside_shards)

    left, source.found = listing.account(survey.root, listing.listed(used), reason)
    # The name of a shard need not tell its kind.
    for kind, paths in survey.shards.items():
        unnamed = sum(listing.kind_of(path) == "other files" for path in paths)
        source.found["other files"] -= unnamed
        source.found[f"{kind} files"] += unnamed
    source.found = +source.found
    source.unused = Listed((*source.unused, *left))
    if chosen is not None:
        source.choices = {**source.choices, "split": chosen or "files without a split"}
    return source


def _gives_pictures(
    opened: Callable[..., ImageSource], paths: Sequence[str], options: dict[str, Any]
) -> bool:
    """Whether any record of some shards can be found, however many cannot."""
    try:
        return len(opened(paths, **{**options, "max_skipped": 1.0})) > 0
    except ValueError:
        return False


def _of_tfds(folder: str) -> bool:
    """Whether TFDS prepared a folder; Hugging Face uses a file of the same name."""
    file = Path(folder) / "dataset_info.json"
    if not file.is_file():
        return False
    try:
        info = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return True  # TFDS says what is wrong with it
    of_others = isinstance(info, dict) and ("features" in info or "builder_name" in info)
    return not of_others and not (Path(folder) / "state.json").is_file()


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) if not file_bytes.is_remote(path) else path.endswith("/")

"""Which kind of source a path is."""

import json
import os
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.data import sharding
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.base import ImageSource
from keras_mdm.data.sources.examples import ExampleImages
from keras_mdm.data.sources.folder import FolderImages, sorted_files
from keras_mdm.data.sources.parquet import ParquetImages
from keras_mdm.data.sources.table import ENDINGS, TableImages
from keras_mdm.data.sources.tar import TarImages
from keras_mdm.data.sources.tfds import TfdsImages
from keras_mdm.files import parse_json

TFDS = "tfds:"
# Parts of names by kind of source, in the order in which they are looked for in a folder. TFDS
# appends -00000-of-00001.
_KINDS = (
    ((".array_record",), ExampleImages),
    ((".tar",), TarImages),
    ((".parquet",), ParquetImages),
    ((".tfrecord", ".tfrecords"), ExampleImages),
)


def open_images(source: str | os.PathLike, **options: Any) -> ImageSource:
    """Open pictures, whatever they are in.

    Args:
        source: a folder or one file. A folder that holds ArrayRecord, tar, Parquet or TFRecord
            files is read from these; one that a data set of TFDS was prepared in as that; one with
            a table (`metadata.csv`, `.tsv`, `.jsonl`, or the only such file in it) as the table
            says; any other as a folder of pictures. `tfds:NAME` or `tfds:NAME:SPLIT` is a data set
            of TFDS. URLs that TensorFlow can read will do.
        **options: of the kind of source, such as `max_skipped`.

    Returns:
        The source.

    Raises:
        ValueError: if there is nothing there, or it holds no pictures.

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
        raise checks.error(
            "the data must be a folder, a file or tfds:NAME",
            fix="check the path",
            source=path,
        )
    kinds = [((ending,), TableImages) for ending in ENDINGS]
    for endings, kind in (*_KINDS, *kinds):
        if any(ending in os.path.basename(path) for ending in endings) and not _is_folder(path):
            return kind(path if kind is TableImages else [path], **options)
    if not file_bytes.is_remote(path) and not _is_folder(path):
        raise checks.error(
            "a file must be a table, a tar shard, or of records",
            fix="pass a folder, or a file named *.csv, .tsv, .jsonl, .tar, .parquet, .tfrecord or "
            ".array_record",
            source=path,
        )
    if not file_bytes.is_remote(path) and (Path(path) / "dataset_info.json").is_file():
        return TfdsImages(path, **options)
    manifest = _manifest(path)
    if manifest is not None:
        return _prepared(path, manifest, options)
    for endings, kind in _KINDS:
        files = sorted_files(path, endings)
        if files:
            return kind(files, **options)
    table = _table_of(path)
    return TableImages(table, **options) if table else FolderImages(path, **options)


def _manifest(folder: str) -> dict[str, Any] | None:
    """What `prepare_images` wrote about a folder; `None` for other files of that name."""
    path = file_bytes.join(folder, sharding.MANIFEST)
    if not file_bytes.exists(path):
        return None
    with file_bytes.open_file(path) as file:
        content = file.read()
    if not file_bytes.exists(file_bytes.join(folder, sharding.PLAN)):
        try:
            listed = json.loads(content)
        except (ValueError, RecursionError):
            return None
        if not isinstance(listed, dict) or "shards" not in listed:
            return None
    return parse_json(
        content,
        path,
        what="the manifest of prepared data",
        fix=sharding.MANIFEST_FIX,
        keys={"shards": sharding.SHARDS},
    )


def _prepared(folder: str, manifest: dict[str, Any], options: dict[str, Any]) -> ExampleImages:
    """The shards that a manifest of `prepare_images` lists."""
    if not isinstance(manifest.get("label_names"), list):
        raise checks.error(
            "the folder must hold pictures",
            fix="prepared clips are opened with open_clips",
            source=folder,
        )
    files = [file_bytes.join(folder, shard["file"]) for shard in manifest["shards"]]
    return ExampleImages(files, label_names=manifest["label_names"], **options)


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) if not file_bytes.is_remote(path) else path.endswith("/")


def _table_of(folder: str) -> str | None:
    """The table of a folder: the one called metadata, or the only one."""
    _, names = next(file_bytes.walk(folder), ("", []))
    tables = [name for name in names if name.endswith(ENDINGS)]
    named = [name for name in tables if os.path.splitext(name)[0] == "metadata"]
    if len(tables) > 1 and not named:
        raise checks.error(
            "there must be one table in the folder, or one called metadata",
            fix="pass the table itself",
            tables=tables,
        )
    chosen = (named or tables or [None])[0]
    return file_bytes.join(folder, chosen) if chosen else None

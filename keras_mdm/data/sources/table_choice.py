"""Which tables of a folder are read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.skipping import MAX_SKIPPED
from keras_mdm.data.sources import file_bytes, kinds, listing, splits
from keras_mdm.data.sources.base import ImageSource
from keras_mdm.data.sources.joined import JoinedImages
from keras_mdm.data.sources.listing import Survey
from keras_mdm.data.sources.parquet_contents import NAMES
from keras_mdm.data.sources.strings import Listed
from keras_mdm.data.sources.table import TableImages
from keras_mdm.data.sources.table_bytes import is_metadata, lists_files


def choose_tables(survey: Survey, split: str | None) -> tuple[list[str], str | None]:
    """The tables to read, and their split; no tables if there are none.

    In the folder itself, and in a folder named after a split, the table is the one called metadata,
    or the only one, or all Parquet files that name pictures; in other folders it must be called
    metadata.

    Args:
        survey: survey of the folder.
        split: what the user asked for.

    Raises:
        ValueError: if there are several and none is called metadata.
    """
    by_folder: dict[str, list[str]] = {}
    for table in (*survey.tables, *_in_parquet(survey)):
        folder = table.rpartition("/")[0]
        last = splits.place_in(folder)
        own = not folder or (last is not None and last == folder.count("/"))
        if (own or is_metadata(table)) and _is_table(survey, table):
            by_folder.setdefault(folder, []).append(table)
    tables = [table for found in by_folder.values() for table in found]
    of = {table: splits.of_file(table) for table in tables}
    known = set(of.values())
    chosen = None
    if known - {None} and not (known == {None, "train"} and split is None):
        wanted = split if known - {None} else None
        chosen = splits.choose(known, wanted, survey.root)
    if chosen is not None:
        kept = {t for t in tables if of[t] == (chosen or None)}
        by_folder = {
            folder: kept_here
            for folder, found in by_folder.items()
            if (kept_here := [table for table in found if table in kept])
        }
    if "" in by_folder:  # it covers everything below
        by_folder = {"": by_folder[""]}
    return [table for found in by_folder.values() for table in _whole(found)], chosen


def _in_parquet(survey: Survey) -> list[str]:
    """Parquet files that name pictures."""
    files = survey.shards.get("Parquet", [])
    return [file for file in files if survey.content(file) == NAMES]


def _is_table(survey: Survey, table: str) -> bool:
    """Whether a file is a table; a .json file may be a description of the data instead."""
    return not table.lower().endswith(".json") or lists_files(file_bytes.join(survey.root, table))


def _whole(tables: Sequence[str]) -> list[str]:
    """The table of a folder; several Parquet files are parts of one."""
    named = [table for table in tables if is_metadata(table)]
    if named or len(tables) == 1:
        return [(named or tables)[0]]
    if all(kinds.shard_kind(table) == "Parquet" for table in tables):
        return sorted(tables)
    raise checks.error(
        "there must be one table in the folder, or one called metadata",
        fix="pass the table itself",
        tables=list(tables),
    )


def open_tables(
    survey: Survey,
    tables: Sequence[str],
    chosen: str | None,
    split: str | None,
    options: dict[str, Any],
) -> ImageSource:
    """Open the tables of a folder, and list its other files.

    Args:
        survey: survey of the folder.
        tables: the tables, from `choose_tables`.
        chosen: their split, from the same.
        split: what the user asked for.
        options: arguments of `TableImages`.
    """
    options = dict(options)
    max_skipped = options.pop("max_skipped", MAX_SKIPPED)
    hashes: list[np.ndarray] = []
    # One table may list all splits.
    inside = {"split": None if chosen else split, "named": hashes.append}
    several = len(survey.splits - {None}) > 1 or split is not None
    inside["by_folder"] = chosen is None and several
    paths = [file_bytes.join(survey.root, table) for table in tables]
    if len(paths) == 1:
        source: ImageSource = TableImages(paths[0], max_skipped=max_skipped, **inside, **options)
    else:
        opened = [TableImages(path, max_skipped=1.0, **inside, **options) for path in paths]
        before = [table[: table.rfind("/") + 1] for table in tables]
        source = JoinedImages(opened, before, max_skipped=max_skipped)

    def reason(path: str) -> str:
        of = splits.of_file(path)
        # The pictures of several splits may lie in one folder.
        if chosen is not None and of != (chosen or None) and (of or kinds.shard_kind(path)):
            return splits.not_chosen(of, chosen)
        return survey.why_not(path, listing.beside_tables)

    left, source.found = listing.account(survey.root, listing.named(tables, hashes), reason)
    source.unused = Listed((*source.unused, *left))
    if chosen is not None:
        source.choices = {**source.choices, "split": chosen or "tables without a split"}
    return source

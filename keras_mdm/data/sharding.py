"""Shards, each with a note and written completely or not at all, and a manifest at the end."""

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.csv_lists import read_csv, write_csv
from keras_mdm.data.skipping import LEAST, Skipping, share_error
from keras_mdm.files import (
    is_temporary,
    read_json,
    remove_dead_temporaries,
    temporary_path,
    write_atomically,
    write_once,
)
from keras_mdm.turns import LEASE, take_turn

MANIFEST = "manifest.json"
PLAN = "plan.json"
SKIPPED = "skipped.csv"
_PARTIAL = ".partial"
MANIFEST_FIX = (
    "run `keras-mdm prepare` again, which keeps the shards and writes a new one, or restore it "
    "from a copy"
)
# What readers of a manifest rely on.
SHARDS = [{"file": str, "records": int}]
_NOTE = {"file": str, "records": int, "sha256": str, "skipped": [[str]]}


def claim(directory: str | os.PathLike, plan: dict[str, Any]) -> Path:
    """Write down what a folder is for, and return the folder.

    Args:
        directory: the folder; created if missing.
        plan: plain values that decide what the shards hold.

    Raises:
        ValueError: if the folder has another plan, or holds other files.
    """
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise checks.error(
            "`directory` must be a folder", fix="choose another name", directory=str(directory)
        )
    target.mkdir(parents=True, exist_ok=True)
    remove_dead_temporaries(target)
    note, plan = target / PLAN, json.loads(json.dumps(plan))
    if not note.is_file() and not all(map(_before_a_plan, target.iterdir())):
        raise checks.error(
            "the directory must be empty, or hold shards that an earlier call began",
            fix="choose another directory",
            directory=str(target),
        )
    # If two calls begin at once, the plan of the first one counts.
    if not write_once(note, json.dumps(plan, indent=1)):
        known = read_json(
            note,
            what="the plan of a folder of shards",
            fix="restore it from a copy, or remove the folder and prepare again",
        )
        different = {
            key: (known.get(key), plan[key]) for key in plan if known.get(key) != plan[key]
        }
        if different:
            raise checks.error(
                "the directory must be empty, or hold shards of the same data and rule",
                fix="choose another directory, or remove this one",
                directory=str(target),
                different=different,
            )
    return target


def _before_a_plan(path: Path) -> bool:
    """Whether a file belongs to a call that has begun or is just beginning."""
    return is_temporary(path) or path.name in (PLAN, LEASE)


def take_turn_in(target: Path, progress: bool = True) -> contextlib.AbstractContextManager:
    """The turn of one call that writes shards: another call for the same folder waits, and then
    finds the shards.

    Args:
        target: the folder, as `claim` returned it.
        progress: report that another call is being waited for.
    """

    def waiting() -> None:
        if progress:
            print(f"another process is preparing {target}: waiting for it", flush=True)

    return take_turn(target, waiting, lock=PLAN)  # it exists: no further file in the folder


def write_shard(
    file: Path,
    work: Callable[[int], bytes | Skipped],
    rows: range,
    pool: ThreadPoolExecutor,
    done: Callable[[bytes | Skipped], None] = lambda result: None,
    complete: Callable[[list[int]], None] = lambda kept: None,
) -> dict[str, Any]:
    """Write one ArrayRecord file and its note, unless the note exists.

    Args:
        file: the shard.
        work: makes the bytes of a row, or says why there are none.
        rows: the rows that go into the shard.
        pool: threads that call `work`.
        done: called with the result of each row, in order.
        complete: called with the rows that were written, before the note is written.

    Returns:
        The note: file, records, sha256, skipped.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    note = note_of(file)
    if note.is_file():
        return read_json(
            note,
            what=f"the note of the shard {file.name}",
            fix="remove it: the next call makes the shard again",
            keys=_NOTE,
        )
    # A unique name: a runner may have two workers write the same shard at once.
    partial = temporary_path(file.with_suffix(_PARTIAL))
    # One record per group, as each is read alone; uncompressed, as the content is already packed.
    writer = ArrayRecordWriter(os.fsencode(partial), "group_size:1,uncompressed")
    kept, skipped = [], []
    for row, result in zip(rows, in_order(pool, work, rows), strict=True):
        if isinstance(result, Skipped):
            skipped.append(tuple(result))
        else:
            writer.write(result)
            kept.append(row)
        done(result)
    writer.close()
    complete(kept)
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    os.replace(partial, file)
    found = {"file": file.name, "records": len(kept), "sha256": digest, "skipped": skipped}
    # Last: a note means that its shard is complete.
    write_atomically(note, json.dumps(found))
    return found


def note_of(file: Path) -> Path:
    """The note beside a shard."""
    return file.with_suffix(".json")


def in_order(pool: ThreadPoolExecutor, work: Any, rows: Sequence[int]) -> Iterator[Any]:
    """Results in the order of `rows`: a few are computed at a time, and never all are in memory."""
    waiting: deque[Future] = deque()
    for row in rows:
        waiting.append(pool.submit(work, row))
        if len(waiting) > 4 * (os.cpu_count() or 1):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def require_share(
    shards: Sequence[dict[str, Any]], source: Skipping, per_shard: int, max_skipped: float
) -> None:
    """Raise if too large a share of the records so far was skipped.

    Args:
        shards: notes of the shards so far.
        source: the records that the shards are made from.
        per_shard: records that go into a shard.
        max_skipped: the largest share allowed.

    Raises:
        ValueError: if the share is too large, unless everything so far was skipped.
    """
    skipped = [Skipped(*entry) for shard in shards for entry in shard["skipped"]]
    # Records that turned out unusable while batches were read are found here again.
    others = len({*source.skipped} - {*skipped})
    count = len({*skipped}) + others
    # What was left out from the start is none of the records.
    seen = min(len(source), max(LEAST, len(shards) * per_shard)) + others
    if any(shard["records"] for shard in shards) and count > max_skipped * seen:
        fix = f"{source.advice}, or call again with a higher max_skipped to continue"
        raise share_error(count, seen, max_skipped, what=source.what, fix=fix, first=skipped)


def finish(
    target: Path,
    plan: dict[str, Any],
    shards: Sequence[dict[str, Any]],
    left_out: Sequence[Skipped],
    what: str,
) -> dict[str, Any]:
    """Write the manifest and the list of skipped records; remove what killed calls left behind.

    Args:
        target: the folder.
        plan: the plan given to `claim`.
        shards: notes of all shards, in order.
        left_out: records skipped before the shards were made.
        what: what to call a record in the error.

    Raises:
        ValueError: if all shards are empty.
    """
    skipped = [Skipped(*entry) for shard in shards for entry in shard["skipped"]]
    skipped += [entry for entry in left_out if entry not in skipped]
    total = sum(shard["records"] for shard in shards)
    if not total:
        raise checks.error(
            f"at least one {what} must be usable",
            fix="see why they were skipped",
            skipped=[tuple(entry) for entry in skipped[:5]],
        )
    # Left by earlier versions. Names of today tell the owner, which may still be running.
    for left in target.glob(f"*{_PARTIAL}"):
        if not is_temporary(left):
            left.unlink(missing_ok=True)
    remove_dead_temporaries(target)
    write_csv(target / SKIPPED, ("file", "reason"), skipped)
    rows = [{k: v for k, v in shard.items() if k != "skipped"} for shard in shards]
    manifest = {**plan, "records": total, "skipped": len(skipped), "shards": rows}
    write_atomically(target / MANIFEST, json.dumps(manifest, indent=1))
    return manifest


def read_skipped(directory: str | os.PathLike) -> list[Skipped]:
    """What was left out when shards were prepared, and why.

    Args:
        directory: the folder with the shards.

    Raises:
        ValueError: if it holds no prepared shards, or the list is damaged.
    """
    file = Path(directory) / SKIPPED
    if not file.is_file():
        raise checks.error(
            "the folder must hold prepared shards",
            fix="run `keras-mdm prepare SOURCE FOLDER`",
            directory=str(directory),
        )
    what, fix = (
        "the list of skipped records",
        "run `keras-mdm prepare` again, which rewrites it",
    )
    return [Skipped(*row) for row in read_csv(file, ("file", "reason"), what=what, fix=fix)]

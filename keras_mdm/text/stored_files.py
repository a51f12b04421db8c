"""The files of stored states: where they are, and whether they are whole."""

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.files import DAMAGED, read_json
from keras_mdm.machine_faults import of_the_machine

PLAN, INDEX = "plan.json", "index.npz"


def part_of(root: Path, number: int) -> Path:
    """The file with the states of a group of texts; hashes and counts are beside it, as .npz."""
    return root / f"states-{number:05d}.npy"


def read_plan(root: Path) -> dict[str, Any]:
    """The plan of a folder: whose states it holds."""
    return read_json(
        root / PLAN,
        what="the plan of a folder of states",
        fix="restore it from a copy, or remove the folder and run `keras-mdm embed` again",
        keys={"encoder": dict, "width": int, "length": int},
    )


def read_columns(file: Path, *names: str) -> list[np.ndarray]:
    """Arrays of the index, or of the keys of a part; checksums are 0 where none were written."""
    try:
        with np.load(file) as columns:
            return [
                columns[name]
                if name != "check" or name in columns.files
                else np.zeros(len(columns["hash"]), np.uint32)
                for name in names
            ]
    except DAMAGED as problem:
        raise _damaged(file, problem) from None


def map_states(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """States, mapped rather than read: what is used often stays in the system's cache."""
    try:
        found = np.load(file, mmap_mode="r")
        if found.shape != shape or found.dtype != np.float16:
            raise ValueError(f"it holds {found.dtype} {found.shape} instead of float16 {shape}")
        return found
    except DAMAGED as problem:
        raise _damaged(file, problem) from None


def written(
    root: Path, known: set[int] | None = None, shards: list[int] | None = None
) -> tuple[set[int], list[int]]:
    """Hashes of the texts that were written, and tokens per file."""
    known, shards = known if known is not None else set(), shards if shards is not None else []
    while (keys := part_of(root, len(shards)).with_suffix(".npz")).is_file():
        texts, counts = read_columns(keys, "hash", "count")
        known.update(texts.tolist())
        shards.append(int(counts.sum()))
    return known, shards


def joined(root: Path, shards: Sequence[int]) -> dict[str, np.ndarray]:
    """Hashes, places, numbers of tokens and checksums of all texts, sorted by hash."""
    parts = []
    for number in range(len(shards)):
        keys = part_of(root, number).with_suffix(".npz")
        parts.append(read_columns(keys, "hash", "count", "check"))
    hashes, counts, sums = map(np.concatenate, zip(*parts, strict=True))
    begins = np.cumsum(counts, dtype=np.uint64) - counts
    order = np.argsort(hashes)
    columns = {"hash": hashes, "begin": begins, "count": counts, "check": sums}
    return {name: column[order] for name, column in columns.items()}


def check_index(file: Path, columns: Sequence[np.ndarray]) -> None:
    """Raise unless every text of the index has its tokens in the files."""
    hashes, begins, counts, sums, shards = columns
    if any(column.ndim != 1 or column.dtype.kind not in "iu" for column in columns):
        problem = "its columns are not lists of integers"
    elif not len(hashes) == len(begins) == len(counts) == len(sums) or not len(hashes):
        problem = "its columns are empty, or differ in length"
    elif (begins + counts).max() > shards.sum() or (begins + counts < begins).any():
        problem = "the states of a text are outside the files"
    else:
        return
    raise _damaged(file, ValueError(problem))


def hashes_of(texts: Sequence[str]) -> np.ndarray:
    """64 bits of the SHA-256 of each text."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    return np.frombuffer(b"".join(digest[:8] for digest in digests), "<u8").copy()


def check_of(states: np.ndarray) -> int:
    """The checksum of the states of one text; never 0, which stands for none."""
    return zlib.crc32(np.ascontiguousarray(states)) or 1


def differs(file: Path, text: str) -> ValueError:
    """The error for states of a text that differ from those written with its hash: the file is
    damaged, or comes from another writer."""
    return _damaged(file, ValueError(f"the states of {text!r:.80} do not match their checksum"))


def _damaged(file: Path, problem: Exception) -> ValueError:
    if isinstance(problem, OSError) and of_the_machine(problem):
        raise problem
    return checks.error(
        "files of states must be whole",
        # Without its keys a part counts as not made; the index is always made anew.
        fix=f"remove {file.with_suffix('.npz').name} and run `keras-mdm embed` again",
        file=str(file),
        problem=f"{type(problem).__name__}: {problem}",
    )

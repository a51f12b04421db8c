"""Token states beside the data: encoded once, packed without padding, read at random."""

import functools
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.files import remove_dead_temporaries, write_atomically, write_once
from keras_mdm.open_files import OpenFiles
from keras_mdm.text.encoders import TextEncoder
from keras_mdm.text.stored_files import (
    INDEX,
    PLAN,
    check_index,
    check_of,
    differs,
    hashes_of,
    joined,
    map_states,
    part_of,
    read_columns,
    read_plan,
    written,
)
from keras_mdm.turns import take_turn

_FORMAT = 1
# Texts per call of the encoder.
_CALL = 32
# Texts that are checked before anything is written.
_SAMPLE = 256


class StoredStates:
    """States written by `embed`, in place of the encoder that made them.

    A text is found by its SHA-256; the index takes 29 bytes per text. The states stay on disk, and
    are compared with their checksums when they are first read.

    Attributes:
        width: D, the width of a token's state.
        length: the most tokens of a text.
        identity: the identity of the encoder.
        pads: false: as many tokens are returned as the longest text of a call has.

    Args:
        directory: the folder passed to `embed`.

    Raises:
        ValueError: if there are no states, or a file is missing.

    Example:

    >>> stored = StoredStates("cc12m/embeddings")  # doctest: +SKIP
    >>> states, mask = stored.encode(["a red apple"])  # doctest: +SKIP
    """

    pads = False

    def __init__(self, directory: str | os.PathLike):
        root = Path(directory)
        if not (root / INDEX).is_file():
            raise checks.error(
                "the folder must hold states of texts",
                fix="run `keras-mdm embed DATA FOLDER`; an interrupted one continues",
                directory=str(directory),
                missing=INDEX,
            )
        plan = read_plan(root)
        self.identity, self.width, self.length = plan["encoder"], plan["width"], plan["length"]
        columns = read_columns(root / INDEX, "hash", "begin", "count", "check", "shard")
        check_index(root / INDEX, columns)
        self._hashes, self._begins, self._counts, self._checks, shards = columns
        # Earlier versions wrote no checksums.
        self._known = self._checks == 0
        self._ends = np.cumsum(shards)
        self._files = [part_of(root, number) for number in range(len(shards))]
        missing = [file.name for file in self._files if not file.is_file()]
        if missing:
            raise checks.error(
                "all files of states must be there",
                fix="copy the missing files, or run `keras-mdm embed` again",
                missing=missing[:5],
            )
        parts = list(zip(self._files, shards.tolist(), strict=True))
        # Each map takes a descriptor while it is open.
        self._states = OpenFiles(parts, lambda part: map_states(part[0], (part[1], self.width)))
        for number in range(len(parts)):
            self._states[number]

    def __len__(self) -> int:
        return len(self._hashes)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the states of texts that were encoded before.

        Args:
            texts: n strings.

        Returns:
            States float32 (n, L, D), zero at padding, and their mask float32 (n, L); L is the
            number of tokens of the longest text.

        Raises:
            ValueError: if a text was not encoded, or its states do not match their checksum.
        """
        rows = np.minimum(np.searchsorted(self._hashes, hashes_of(texts)), len(self) - 1)
        found = self._hashes[rows] == hashes_of(texts)
        if not found.all():
            raise checks.error(
                "all texts must have been encoded",
                fix="run `keras-mdm embed` again on the data, with the captions that it has now",
                text=texts[int(np.argmin(found))],
            )
        counts = self._counts[rows]
        states = np.zeros((len(texts), int(counts.max()), self.width), np.float32)
        for place, row in enumerate(rows):
            begin = int(self._begins[row])
            shard = int(np.searchsorted(self._ends, begin, side="right"))
            begin -= int(self._ends[shard - 1]) if shard else 0
            kept = self._states[shard][begin : begin + counts[place]]
            if not self._known[row]:
                if check_of(kept) != self._checks[row]:
                    raise differs(self._files[shard], texts[place])
                self._known[row] = True
            states[place, : counts[place]] = kept
        mask = np.arange(states.shape[1]) < counts[:, None]
        return states, mask.astype(np.float32)


def embed(
    encoder: TextEncoder,
    texts: Iterable[str],
    directory: str | os.PathLike,
    *,
    total: int | None = None,
    texts_per_file: int = 16384,
    progress: bool = True,
) -> StoredStates:
    """Encode texts once and pack their states into files, in half precision, without padding.

    Files are written completely or not at all. Calling again encodes the missing texts, and texts
    that come twice are encoded once. If several processes are given the same folder, such as the
    workers of a run, one encodes and the others wait. The size is estimated from the first texts
    and checked against the free space before the work starts.

    Args:
        encoder: its identity is kept; a folder with states of another encoder is refused.
        texts: read one after the other, never all in memory.
        directory: receives the files.
        total: number of texts, for the estimate and the bar; counted if `texts` is a list.
        texts_per_file: number of texts that a killed run can lose.
        progress: show the estimate and a progress bar.

    Returns:
        The states, open.

    Raises:
        ValueError: if the folder is for another encoder, the states do not fit into half precision
            or onto the disk, or there are no texts.

    Example:

    >>> embed(MiniLM(), ["a red apple", "a cat"], "embeddings")  # doctest: +SKIP
    """
    from tqdm.auto import tqdm

    texts_per_file = checks.integer("texts_per_file", texts_per_file, minimum=1)
    if isinstance(texts, str):
        raise checks.error(
            "`texts` must be several texts", fix="pass a list, even for one text", texts=texts
        )
    root = Path(directory)
    if root.exists() and not root.is_dir():
        raise checks.error(
            "`directory` must be a folder", fix="choose another name", directory=str(directory)
        )
    stream = iter(texts)
    first = list(itertools.islice(stream, _SAMPLE))
    if not all(isinstance(text, str) for text in first):
        raise checks.error("`texts` must be strings", fix="pass captions", texts=first[:3])
    if not first:
        raise checks.error("`texts` must not be empty", fix="check the data", texts=0)
    root.mkdir(parents=True, exist_ok=True)
    remove_dead_temporaries(root)
    plan = {
        "format": _FORMAT,
        "encoder": encoder.identity,
        "width": encoder.width,
        "length": encoder.length,
    }
    _claim(root, json.loads(json.dumps(plan)))
    total = len(texts) if total is None and isinstance(texts, Sequence) else total
    with take_turn(root, functools.partial(_say_waiting, root, progress)):
        known, shards = written(root)
        wanted = _new(itertools.chain(first, stream), known)
        new = list(itertools.islice(wanted, _CALL))
        if new and (progress or total):
            _estimate(encoder, new, total, root, progress)
        wanted = itertools.chain(new, wanted)
        disable = None if progress else True  # None: only on a terminal
        with tqdm(total=total, desc="encoding texts", unit="text", disable=disable) as bar:
            while group := list(itertools.islice(wanted, texts_per_file)):
                _write(encoder, group, root, len(shards), bar)
                known, shards = written(root, known, shards)
        columns = {**joined(root, shards), "shard": np.asarray(shards)}
        write_atomically(root / INDEX, lambda file: np.savez(file, **columns))
    return StoredStates(root)


def _say_waiting(root: Path, show: bool) -> None:
    if show:
        print(f"another process is encoding the texts of {root}: waiting for it", flush=True)


def _claim(root: Path, plan: dict[str, Any]) -> None:
    # Two calls that begin at once may have different encoders: the first plan written counts.
    if write_once(root / PLAN, json.dumps(plan, indent=1)):
        return
    known = read_plan(root)
    different = {key: (known.get(key), plan[key]) for key in plan if known.get(key) != plan[key]}
    if different:
        raise checks.error(
            "the folder must be empty, or hold states of the same encoder",
            fix="choose another folder, or remove this one",
            directory=str(root),
            different=different,
        )


def _new(texts: Iterator[str], known: set[int]) -> Iterator[str]:
    """The texts that are not encoded yet, each once."""
    for text in texts:
        key = int(hashes_of([text])[0])
        if key not in known:
            known.add(key)
            yield text


def _estimate(
    encoder: TextEncoder, sample: Sequence[str], total: int | None, root: Path, show: bool
) -> None:
    tokens = sum(mask.sum() for _, mask in _encoded(encoder, sample))
    per_text = float(tokens) / len(sample)
    size = per_text * encoder.width * 2
    if show:
        whole = f", {size * total / 1e9:.2f} GB for {total} texts" if total else ""
        print(f"{per_text:.1f} tokens per text, {size / 1e3:.1f} kB{whole}", flush=True)
    disk = os.statvfs(root)
    free = disk.f_bavail * disk.f_frsize
    if total and size * total > free:
        raise checks.error(
            "the states must fit onto the disk",
            fix="choose a folder on another disk, or a shorter `length` of the encoder",
            needed=f"{size * total / 1e9:.1f} GB",
            free=f"{free / 1e9:.1f} GB",
        )


def _encoded(encoder: TextEncoder, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(tokens (L, D), mask (L,)) of every text."""
    for begin in range(0, len(texts), _CALL):
        states, mask = encoder.encode(list(texts[begin : begin + _CALL]))
        yield from zip(np.asarray(states), np.asarray(mask), strict=True)


def _write(encoder: TextEncoder, texts: Sequence[str], root: Path, number: int, bar: Any) -> None:
    pieces, counts, sums = [], [], []
    for states, mask in _encoded(encoder, texts):
        kept = states[: int(np.count_nonzero(mask))]
        if not np.all(mask[: len(kept)]):
            raise checks.error(
                "the mask of a text must be ones before zeros",
                fix="have the encoder pad at the end",
                mask=mask.tolist(),
            )
        largest = float(np.abs(kept).max(initial=0.0))
        if not largest <= float(np.finfo(np.float16).max):  # Also catches NaN.
            raise checks.error(
                "states must be finite and fit into float16",
                fix="scale the encoder's states to a standard deviation near 1",
                largest=largest,
            )
        pieces.append(kept.astype(np.float16))
        counts.append(len(kept))
        sums.append(check_of(pieces[-1]))
        bar.update()
    joined = np.concatenate(pieces)
    write_atomically(part_of(root, number), lambda file: np.save(file, joined))
    columns = {
        "hash": hashes_of(texts),
        "count": np.asarray(counts, np.uint32),
        "check": np.asarray(sums, np.uint32),
    }
    # Last: the keys mean that the part is complete.
    keys = part_of(root, number).with_suffix(".npz")
    write_atomically(keys, lambda file: np.savez(file, **columns))

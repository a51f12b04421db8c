"""What is in a source of pictures: counts, sizes, captions, classes, broken records."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.clips.dataset import ClipSource, is_clip_source
from keras_mdm.data.pictures.dataset import usable_captions
from keras_mdm.data.pictures.rule import ImageRule, decode
from keras_mdm.data.sharding import in_order
from keras_mdm.data.sources.base import ImageSource, Record, require_source
from keras_mdm.data.sources.texts import printable

# Bounds between which shorter sides are counted.
_SIDES = (0, 64, 128, 256, 512, 1024, 2048, 10**9)


@dataclass
class Overview:
    """What was found in the records that were read.

    Attributes:
        records: number of records of the source.
        looked_at: number of records that were read and decoded.
        sides: number of pictures by the upper bound (64, 128, ...) of their shorter side.
        caption_lengths: characters of every caption.
        captions_per_record: number of records by their number of captions.
        labels: number of records by class.
        bytes_per_record: mean size of a picture file.
        broken: records that cannot be used, and why.
        unused: files that are not meant to be records, and why.
        choices: what was chosen among several options, such as the split.
        found: number of files of each kind in the folder that was opened.
    """

    records: int
    looked_at: int = 0
    sides: Counter = field(default_factory=Counter)
    caption_lengths: list[int] = field(default_factory=list)
    captions_per_record: Counter = field(default_factory=Counter)
    labels: Counter = field(default_factory=Counter)
    bytes_per_record: float = 0.0
    broken: list[Skipped] = field(default_factory=list)
    unused: Sequence[Skipped] = ()
    choices: dict[str, str] = field(default_factory=dict)
    found: Mapping[str, int] = field(default_factory=dict)


def look(source: ImageSource, *, limit: int | None = 2000, progress: bool = True) -> Overview:
    """Read and decode records of a source, evenly spread over it.

    Args:
        source: what to look at.
        limit: read at most this many records; all if `None`.
        progress: show a progress bar.

    Returns:
        What was found.

    Raises:
        ValueError: if `limit` is not positive.

    Example:

    >>> look(open_images("my_pictures")).sides  # doctest: +SKIP
    """
    from tqdm.auto import tqdm

    require_source(source)
    if limit is not None:
        checks.integer("limit", limit, minimum=1)
    count = len(source) if limit is None else min(limit, len(source))
    rows = np.linspace(0, len(source) - 1, count).astype(np.int64)
    found = Overview(
        len(source),
        count,
        broken=list(source.skipped),
        unused=source.unused,
        choices=source.choices,
        found=source.found,
    )
    rule, sizes = ImageRule(8), 0

    def make(row: int) -> tuple:
        record = source.read(row)
        _, size = decode(record.data, rule)
        captions = usable_captions(record) if record.captions else []
        return record.original_size or size, captions, record.label, len(record.data)

    def work(row: int) -> tuple | Skipped:
        return source.attempt(int(row), make)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = in_order(pool, work, rows)
        for result in tqdm(
            results, total=count, desc="looking at records", disable=None if progress else True
        ):
            if isinstance(result, Skipped):
                found.broken.append(result)
                continue
            size, captions, label, length = result
            found.sides[next(side for side in _SIDES if min(size) < side)] += 1
            found.caption_lengths += map(len, captions)
            found.captions_per_record[len(captions)] += 1
            found.labels[label] += 1
            sizes += length
    found.bytes_per_record = sizes / max(1, sum(found.sides.values()))
    return found


def report(found: Overview, label_names: tuple[str, ...] = ()) -> str:
    """Return an overview as a page of text."""
    usable = sum(found.sides.values())
    lines = [
        f"{found.records} records, looked at {found.looked_at}; "
        f"{found.bytes_per_record / 1000:.1f} kB per picture"
    ]
    if found.found:
        kinds = sorted(found.found.items(), key=lambda item: -item[1])
        lines.append("  files found: " + ", ".join(f"{count} {kind}" for kind, count in kinds))
    lines += [printable(f"  {what}: {chosen}") for what, chosen in found.choices.items()]
    lines += ["", "shorter side in pixels"]
    bounds = list(zip(_SIDES[:-1], _SIDES[1:], strict=True))
    for low, high in bounds:
        count = found.sides[high]
        name = f"{low} and more" if high == _SIDES[-1] else f"{low} to {high - 1}"
        lines.append(f"  {name:>14} {count:8} {'#' * round(40 * count / max(1, usable))}")
    lines += ["", "captions per record"]
    for number, count in sorted(found.captions_per_record.items()):
        lines.append(f"  {number:>14} {count:8}")
    if found.caption_lengths:
        told = ", ".join(f"{name} {mark}" for name, mark in _marks(found.caption_lengths).items())
        lines.append(f"  characters: {told}")
    classes = {label: count for label, count in found.labels.items() if label >= 0}
    if classes:
        lines += ["", f"{len(label_names) or len(classes)} classes"]
        for label, count in sorted(classes.items(), key=lambda item: -item[1])[:10]:
            lines.append(f"  {printable(_named(label, label_names))[:30]:>30} {count:8}")
        if len(classes) > 10:
            lines.append(f"  and {len(classes) - 10} more")
    lines += ["", f"{len(found.broken)} records or files that cannot be used"]
    lines += _by_reason(found.broken)
    lines += ["", f"{len(found.unused)} files or features that are not used"]
    lines += _by_reason(found.unused)
    return "\n".join(lines)


def as_record(found: Overview, label_names: Sequence[str] = ()) -> dict[str, Any]:
    """Return an overview as values that JSON has; of unusable records and files their number."""
    return {
        "records": int(found.records),
        "looked_at": int(found.looked_at),
        "bytes_per_record": float(found.bytes_per_record),
        "shorter_side_below": {str(high): int(count) for high, count in found.sides.items()},
        "captions_per_record": {str(n): int(c) for n, c in found.captions_per_record.items()},
        "caption_characters": _marks(found.caption_lengths),
        "classes": {_named(n, label_names): int(c) for n, c in found.labels.items() if n >= 0},
        "files_found": {kind: int(count) for kind, count in found.found.items()},
        "choices": {what: str(chosen) for what, chosen in found.choices.items()},
        "broken": _counted(found.broken),
        "unused": _counted(found.unused),
    }


def _marks(lengths: Sequence[int]) -> dict[str, int]:
    """How lengths are spread, by the name of each mark."""
    if not lengths:
        return {}
    marks = np.percentile(lengths, [0, 50, 90, 99, 100]).astype(int).tolist()
    return dict(zip(("least", "median", "90 %", "99 %", "most"), marks, strict=True))


def _named(label: int, label_names: Sequence[str]) -> str:
    """A class by its name, or by its number if it has none."""
    return label_names[label] if label < len(label_names) else str(int(label))


def _counted(entries: Sequence[Skipped]) -> dict[str, int]:
    """Number of files by reason."""
    return dict(Counter(reason for _, reason in entries).most_common())


def _by_reason(entries: Sequence[Skipped]) -> list[str]:
    """One line per reason, the most frequent first: its count and its first three files."""
    counts: Counter = Counter()
    first: dict[str, list[str]] = {}
    for file, reason in entries:  # may be millions
        counts[reason] += 1
        if counts[reason] <= 3:
            first.setdefault(reason, []).append(file)
    ordered = counts.most_common()
    lines = [
        printable(f"  {count:6}  {reason}: " + ", ".join(first[reason] + ["..."] * (count > 3)))
        for reason, count in ordered[:20]
    ]
    return lines + ([f"  and {len(ordered) - 20} more reasons"] if len(ordered) > 20 else [])


def captions_of(
    source: ImageSource | ClipSource, *, skipped: Callable[[Skipped], Any] = lambda entry: None
) -> Iterator[str]:
    """All captions of a source as batches will hold them, in order; unusable records give none.

    Args:
        source: pictures, read once, in several threads, never all in memory; or clips, whose
            captions are known.
        skipped: called with every unusable record and the reason.

    Raises:
        ValueError: if `source` is not a source of pictures or clips.
    """
    if is_clip_source(source):
        return iter(source.captions)
    return _captions(require_source(source), skipped)  # a generator would check it later


def _captions(source: ImageSource, skipped: Callable[[Skipped], Any]) -> Iterator[str]:
    def make(row: int) -> list[str]:
        return usable_captions(source.read(row))

    def work(row: int) -> list[str] | Skipped:
        return source.attempt(row, make)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for captions in in_order(pool, work, range(len(source))):
            if isinstance(captions, Skipped):
                skipped(captions)
            else:
                yield from captions


def examples(
    source: ImageSource, sizes: list[int], count: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return pictures as training sees them, with their captions or classes.

    Args:
        source: where they come from.
        sizes: sizes of the levels.
        count: number of pictures; fewer are returned if too few can be used.

    Returns:
        uint8 (n, S, S, 3) by level name, and n texts.
    """
    pictures: dict[str, list] = {str(size): [] for size in sorted(sizes)}
    texts: list[str] = []

    def make(row: int) -> tuple[Record, list[str], list[np.ndarray]]:
        record = source.read(row)
        captions = usable_captions(record) if record.captions else []
        return record, captions, [decode(record.data, ImageRule(int(s)))[0] for s in pictures]

    for row in np.random.default_rng(0).permutation(len(source))[: 4 * count]:
        if len(texts) == count:
            break
        made = source.attempt(int(row), make)
        if isinstance(made, Skipped):
            continue
        record, captions, squares = made
        for square, level in zip(squares, pictures.values(), strict=True):
            level.append(square)
        names = source.label_names
        label = f"class {record.label}" if record.label >= 0 else record.key
        if 0 <= record.label < len(names):
            label = names[record.label]
        texts.append(captions[0] if captions else label)
    if not texts:
        raise checks.error(
            "at least one record must be usable",
            fix="see the list of broken records",
            records=len(source),
        )
    return {level: np.stack(squares) for level, squares in pictures.items()}, texts

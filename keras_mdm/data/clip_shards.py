"""Clips prepared once: cut, resized and packed into files that are read at random."""

import csv
import hashlib
import io
import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_mdm import checks
from keras_mdm.data.base import Skipped, area_average
from keras_mdm.data.clip_reader import ClipRule, UnusableVideo
from keras_mdm.data.videos import VideoFiles, digest_of, find_videos
from keras_mdm.files import write_atomically

MANIFEST = "manifest.json"
# The frames of a clip below each other in one JPEG: 16 at 256 pixels take about 0.3 MB.
_QUALITY = 95
_FORMAT = 1


def prepare_clips(
    videos: VideoFiles,
    directory: str | os.PathLike,
    *,
    rule: ClipRule,
    clips_per_shard: int = 1024,
    workers: int | None = None,
    progress: bool = True,
) -> "ClipShards":
    """Decode the one clip of every video and pack them into shards.

    A shard is an ArrayRecord file of JPEG strips with a CSV file of keys and captions, written
    completely or not at all: the same call again goes on with the shards that are missing. Files
    that give no clip are left out, counted, and listed in `skipped.csv`.

    Args:
        videos: what to read.
        directory: receives the shards and `manifest.json`.
        rule: which frames, and their size; `start` must be "fixed". Mirroring happens when shards
            are read.
        clips_per_shard: videos per shard.
        workers: threads that decode; the number of cores unless given.
        progress: show a bar.

    Returns:
        The shards, open.

    Raises:
        ValueError: if the directory holds shards of other videos or another rule, or no video gives
            a clip.

    Example:

    >>> prepare_clips(find_videos("clips"), "shards", rule=ClipRule(256))  # doctest: +SKIP
    """
    clips_per_shard = checks.integer("clips_per_shard", clips_per_shard, minimum=1)
    if rule.start != "fixed" or rule.frames is None:
        raise checks.error(
            "shards hold the one clip of every video",
            fix="pass a rule with frames and start='fixed'; for random places read the videos",
            start=rule.start,
            frames=rule.frames,
        )
    if workers is not None:
        checks.integer("workers", workers, minimum=1)
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise checks.error(
            "`directory` must be a folder", fix="choose another name", directory=str(directory)
        )
    target.mkdir(parents=True, exist_ok=True)
    plan = {
        "format": _FORMAT,
        "source": videos.identity,
        "rule": {key: value for key, value in asdict(rule).items() if key != "flip"},
        "clips_per_shard": clips_per_shard,
    }
    _claim(target, plan)
    count = -(-len(videos) // clips_per_shard)
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        tqdm(total=len(videos), desc="preparing clips", unit="clip", disable=not progress) as bar,
    ):
        for number in range(count):
            rows = range(number * clips_per_shard, min((number + 1) * clips_per_shard, len(videos)))
            if not _shard(target, number).with_suffix(".json").is_file():
                _write_shard(target, number, videos, rows, rule, pool, bar)
            else:
                bar.update(len(rows))
    shards = [
        json.loads(_shard(target, number).with_suffix(".json").read_text())
        for number in range(count)
    ]
    skipped = [Skipped(*entry) for shard in shards for entry in shard.pop("skipped")]
    skipped += [entry for entry in videos.skipped if entry not in skipped]
    total = sum(shard["records"] for shard in shards)
    if not total:
        raise checks.error(
            "at least one video must give a clip",
            fix="see why they were skipped; a smaller stride or fewer frames take shorter videos",
            skipped=[tuple(entry) for entry in skipped[:5]],
        )
    _write_csv(target / "skipped.csv", ("file", "reason"), skipped)
    manifest = {**plan, "records": total, "skipped": len(skipped), "shards": shards}
    write_atomically(target / MANIFEST, json.dumps(manifest, indent=1))
    return ClipShards(target)


def _claim(target: Path, plan: dict[str, Any]) -> None:
    """Note what the directory is for, or raise if it is for something else."""
    note = target / "plan.json"
    if note.is_file():
        known = json.loads(note.read_text())
        different = {
            key: (known.get(key), plan[key]) for key in plan if known.get(key) != plan[key]
        }
        if different:
            raise checks.error(
                "the directory must be empty, or hold shards of the same videos and rule",
                fix="choose another directory, or remove this one",
                directory=str(target),
                different=different,
            )
        return
    if any(target.iterdir()):
        raise checks.error(
            "the directory must be empty, or hold shards that an earlier call began",
            fix="choose another directory",
            directory=str(target),
        )
    write_atomically(note, json.dumps(plan, indent=1))


def _write_shard(
    target: Path,
    number: int,
    videos: VideoFiles,
    rows: range,
    rule: ClipRule,
    pool: ThreadPoolExecutor,
    bar: tqdm,
) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    def work(row: int) -> bytes | Skipped:
        try:
            return _strip(videos.read(row, rule, place=None, mirror=False))
        except UnusableVideo as problem:
            return Skipped(videos.files[row], str(problem))

    file = _shard(target, number)
    partial = file.with_suffix(".partial")
    # One record per group: a clip is read alone, and JPEG does not compress further.
    writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
    records, skipped = [], []
    for row, result in zip(rows, _in_order(pool, work, rows), strict=True):
        bar.update()
        if isinstance(result, Skipped):
            skipped.append(result)
            bar.set_postfix_str(f"{result.file}: {result.reason}"[:60])
            continue
        writer.write(result)
        records.append((videos.key(row), videos.captions[row]))
    writer.close()
    _write_csv(file.with_suffix(".csv"), ("key", "caption"), records)
    os.replace(partial, file)
    note = {
        "file": file.name,
        "records": len(records),
        "sha256": _hash(file),
        "skipped": [tuple(entry) for entry in skipped],
    }
    # Last: where it is, the shard is complete.
    write_atomically(file.with_suffix(".json"), json.dumps(note))


def _in_order(pool: ThreadPoolExecutor, work: Any, rows: Sequence[int]) -> Iterator[Any]:
    """Results in the order of `rows`, a few of them under way at a time, never all in memory."""
    waiting: deque[Future] = deque()
    for row in rows:
        waiting.append(pool.submit(work, row))
        if len(waiting) > 4 * (os.cpu_count() or 1):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class ClipShards:
    """Clips that `prepare_clips` has written; a source of clips.

    Attributes:
        rule: the frames and the size they were cut with.
        captions: one caption per clip.
        keys: the key of the video of each.

    Args:
        directory: the folder with `manifest.json`.

    Raises:
        ValueError: if there is no manifest, or a shard is missing.
    """

    skipped: tuple[Skipped, ...] = ()

    def __init__(self, directory: str | os.PathLike):
        self.root = Path(directory)
        if not (self.root / MANIFEST).is_file():
            raise checks.error(
                "the folder must hold prepared clips",
                fix="run `keras-mdm prepare VIDEOS FOLDER`; a run that was cut off goes on",
                missing=MANIFEST,
                directory=str(directory),
            )
        manifest = json.loads((self.root / MANIFEST).read_text())
        self.rule = ClipRule(**manifest["rule"], flip=False)
        self._files = [self.root / shard["file"] for shard in manifest["shards"]]
        missing = [file.name for file in self._files if not file.is_file()]
        if missing:
            raise checks.error(
                "all shards of the manifest must be there",
                fix="copy the missing files, or prepare the clips again",
                missing=missing,
            )
        self._ends = np.cumsum([shard["records"] for shard in manifest["shards"]])
        self.keys, self.captions = [], []
        for file in self._files:
            with file.with_suffix(".csv").open(encoding="utf-8", newline="") as table:
                for row in csv.DictReader(table):
                    self.keys.append(row["key"])
                    self.captions.append(row["caption"])
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def identity(self) -> dict[str, Any]:
        """Number of clips, and a SHA-256 of keys, captions and rule."""
        rule = json.dumps(asdict(self.rule), sort_keys=True)
        return {"records": len(self), "sha256": digest_of(self.keys, self.captions, [rule])}

    def check(self, rule: ClipRule) -> None:
        """Raise if the shards cannot give clips of a rule."""
        frames = rule.frames or rule.span or self.rule.frames
        if (
            self.rule.size % rule.size
            or frames != self.rule.frames
            or rule.stride != self.rule.stride
            or rule.start != "fixed"
        ):
            raise checks.error(
                "the rule must be that of the prepared clips, or one for smaller pictures",
                fix="use ClipShards.rule, with a size that divides its size",
                rule=rule,
                prepared=self.rule,
            )

    def read_usable(
        self, row: int, rule: ClipRule, *, place: float | None, mirror: bool
    ) -> tuple[np.ndarray, int]:
        """Read one clip; see `VideoFiles.read_usable`."""
        shard = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        clip = _frames(self._reader(shard).read([row - first])[0], self.rule.size)
        clip = clip[:1] if rule.frames is None else clip
        clip = area_average(clip, rule.size)
        clip = clip[:, :, ::-1] if mirror else clip
        return np.ascontiguousarray(clip if rule.frames is not None else clip[0]), row

    def _reader(self, shard: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = ArrayRecordReader(str(self._files[shard]))
            return self._readers[shard]


def open_clips(directory: str | os.PathLike, **options: Any) -> "ClipShards | VideoFiles":
    """Open prepared clips, or a folder of videos.

    Args:
        directory: either.
        **options: of `find_videos`.
    """
    if (Path(directory) / MANIFEST).is_file():
        return ClipShards(directory)
    return find_videos(directory, **options)


def skipped_clips(directory: str | os.PathLike) -> list[Skipped]:
    """What `prepare_clips` has left out, and why.

    Args:
        directory: the folder with the shards.
    """
    file = Path(directory) / "skipped.csv"
    if not file.is_file():
        raise checks.error(
            "the folder must hold prepared clips",
            fix="run `keras-mdm prepare VIDEOS FOLDER`",
            directory=str(directory),
        )
    with file.open(encoding="utf-8", newline="") as table:
        return [Skipped(row["file"], row["reason"]) for row in csv.DictReader(table)]


def _shard(target: Path, number: int) -> Path:
    return target / f"clips-{number:05d}.array_record"


def _strip(clip: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    strip = Image.fromarray(clip.reshape(-1, *clip.shape[2:]))
    # Without chroma subsampling: at 64 pixels colours would bleed.
    strip.save(buffer, "jpeg", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def _frames(strip: bytes, size: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(strip)) as picture:
        return np.asarray(picture).reshape(-1, size, size, 3)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    table.writerow(header)
    table.writerows(rows)
    write_atomically(path, buffer.getvalue().encode("utf-8"))


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

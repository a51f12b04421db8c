"""Clips prepared once: cut, resized and packed into files that are read at random."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from keras_mdm import checks
from keras_mdm.data import csv_lists, sharding
from keras_mdm.data.base import Skipped
from keras_mdm.data.clips.base import Clips
from keras_mdm.data.clips.files import VideoFiles, digest_of
from keras_mdm.data.clips.rule import ClipRule, UnusableVideo
from keras_mdm.data.order.windows import place_in
from keras_mdm.data.pictures.files import open_picture
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.data.skipping import MAX_SKIPPED, reason_of
from keras_mdm.data.sources.array_records import open_array_record
from keras_mdm.data.sources.texts import printable
from keras_mdm.files import read_json
from keras_mdm.open_files import OpenFiles

# JPEG of all frames of a clip below each other: 16 at 256 pixels take about 0.3 MB.
_QUALITY = 95
# The longest side that a JPEG may have.
_JPEG_SIDE = 2**16 - 1
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
    """Decode one clip of every video and pack the clips into shards.

    A shard is an ArrayRecord file of JPEG strips with a CSV file of keys and captions, written
    completely or not at all: calling again makes the missing shards. Files that give no clip are
    left out, counted, and listed in `skipped.csv`. If these are more than `max_skipped` of the
    videos, the work ends; calling again with a higher share continues it.

    Args:
        videos: what to read.
        directory: receives the shards and `manifest.json`.
        rule: which frames, and their size; `start` must be "fixed". Mirroring happens when shards
            are read.
        clips_per_shard: videos per shard.
        workers: threads that decode; by default as many as cores.
        progress: show a progress bar.

    Returns:
        The shards, open.

    Raises:
        ValueError: if the directory holds shards of other videos or of another rule, or too many
            videos give no clip.

    Example:

    >>> prepare_clips(find_videos("clips"), "shards", rule=ClipRule(256))  # doctest: +SKIP
    """
    clips_per_shard = checks.integer("clips_per_shard", clips_per_shard, minimum=1)
    _check(rule)
    rule = replace(rule, of=None, downsample="area", frame="first")  # these made no difference
    if workers is not None:
        checks.integer("workers", workers, minimum=1)
    plan = {
        "format": _FORMAT,
        "source": videos.identity,
        "rule": {key: value for key, value in rule.facts.items() if key != "flip"},
        "clips_per_shard": clips_per_shard,
    }
    target = sharding.claim(directory, plan)
    with (
        sharding.take_turn_in(target, progress),
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        tqdm(total=len(videos), desc="preparing clips", unit="clip", disable=not progress) as bar,
    ):
        shards = []
        for number in range(-(-len(videos) // clips_per_shard)):
            rows = range(number * clips_per_shard, min((number + 1) * clips_per_shard, len(videos)))
            shards.append(_write_shard(_shard(target, number), videos, rows, rule, pool, bar))
            bar.update(rows.stop - bar.n)  # shards of an earlier call
            sharding.require_share(shards, videos, clips_per_shard, videos.max_skipped)
        sharding.finish(target, plan, shards, videos.skipped, "video")
    return ClipShards(target)


def _check(rule: ClipRule) -> None:
    """Raise unless clips can be prepared by a rule."""
    if rule.start != "fixed" or rule.frames is None:
        raise checks.error(
            "shards must hold exactly one clip of every video",
            fix="pass a rule with frames and start='fixed'; for random places, read the videos",
            start=rule.start,
            frames=rule.frames,
        )
    if rule.channels == 4:
        raise checks.error(
            "prepared clips are JPEG pictures, which cannot hold transparency",
            fix="pass a rule with channels=3 or 1, or read the animations themselves",
            channels=rule.channels,
        )
    if rule.drawn != rule.size:
        raise checks.error(
            "shards must hold clips at the size to which their frames are resized",
            fix="pass a rule of the largest size without `of`; clips are reduced when read",
            size=rule.size,
            of=rule.of,
        )


def _write_shard(
    file: Path,
    videos: VideoFiles,
    rows: range,
    rule: ClipRule,
    pool: ThreadPoolExecutor,
    bar: tqdm,
) -> dict[str, Any]:
    def make(row: int) -> bytes:
        return _strip(videos.read(row, rule, place=None, mirror=False))

    def work(row: int) -> bytes | Skipped:
        return videos.attempt(row, make)

    def done(result: bytes | Skipped) -> None:
        bar.update()
        if isinstance(result, Skipped):
            bar.set_postfix_str(printable(f"{result.file}: {result.reason}")[:60])

    def complete(kept: list[int]) -> None:
        records = [(videos.key(row), videos.captions[row]) for row in kept]
        csv_lists.write_csv(file.with_suffix(".csv"), ("key", "caption"), records)

    return sharding.write_shard(file, work, rows, pool, done, complete)


class ClipShards(Clips):
    """Clips written by `prepare_clips`; a source of clips.

    Attributes:
        rule: the rule that they were prepared with.
        captions: one caption per clip.
        keys: the key of each clip's video.
        skipped: clips that could not be read so far.

    Args:
        directory: the folder with `manifest.json`.
        max_skipped: share of damaged clips, among those seen, above which reading stops.

    Raises:
        ValueError: if there is no manifest, a shard is missing, or a table is damaged.
    """

    what = "clips"
    advice = "copy the shards again, or prepare them again"

    def __init__(self, directory: str | os.PathLike, *, max_skipped: float = MAX_SKIPPED):
        super().__init__(max_skipped=max_skipped)
        self.root = Path(directory)
        if not (self.root / sharding.MANIFEST).is_file():
            raise checks.error(
                "the folder must hold prepared clips",
                fix="run `keras-mdm prepare VIDEOS FOLDER`; an interrupted one continues",
                missing=sharding.MANIFEST,
                directory=str(directory),
            )
        manifest = read_json(
            self.root / sharding.MANIFEST,
            what="the manifest of prepared clips",
            fix=sharding.MANIFEST_FIX,
            keys={"rule": dict, "shards": sharding.SHARDS},
        )
        try:
            self.rule = ClipRule.from_facts({**manifest["rule"], "flip": False})
        except TypeError:
            raise checks.error(
                "the manifest of prepared clips must hold a rule of this version",
                fix=sharding.MANIFEST_FIX,
                file=str(self.root / sharding.MANIFEST),
                rule=manifest["rule"],
            ) from None
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
        for file, shard in zip(self._files, manifest["shards"], strict=True):
            for key, caption in _read_table(file, shard["records"]):
                self.keys.append(key)
                self.captions.append(caption)
        self._readers = OpenFiles(list(map(str, self._files)), open_array_record)

    def __len__(self) -> int:
        return len(self.captions)

    def name(self, row: int) -> str:
        """The key of a clip."""
        return self.keys[row]

    @property
    def identity(self) -> dict[str, Any]:
        """Number of clips, and a SHA-256 of keys, captions and rule."""
        rule = json.dumps(self.rule.facts, sort_keys=True)
        return {"records": len(self), "sha256": digest_of(self.keys, self.captions, [rule])}

    def check(self, rule: ClipRule) -> None:
        """Raise if the shards cannot give clips of a rule."""
        frames = rule.frames or rule.span or self.rule.frames
        if (
            self.rule.size % rule.drawn
            or frames != self.rule.frames
            or rule.stride != self.rule.stride
            or rule.channels != self.rule.channels
            or rule.start != "fixed"
            # Clips spread from short videos are not marked, so they cannot be skipped; the reverse
            # only lacks the short videos.
            or (rule.short, self.rule.short) == ("skip", "spread")
        ):
            raise checks.error(
                "the rule must match the prepared clips, or ask for smaller pictures",
                fix="use ClipShards.rule, with a size that divides its size",
                rule=rule,
                prepared=self.rule,
            )

    def read(
        self, row: int, rule: ClipRule, *, place: float | None = None, mirror: bool = False
    ) -> np.ndarray:
        """Read one clip by a rule that passes `check`; it has only one place. See `Clips.read`."""
        shard, number = place_in(self._ends, row)
        try:
            strip = self._readers[shard].read([number])[0]
            clip = _frames(strip, self.rule.size, self.rule.channels)
        # The reader and Pillow have their own errors.
        except Exception as problem:
            raise UnusableVideo(reason_of(problem)) from problem
        if len(clip) != self.rule.frames:
            raise UnusableVideo(f"has {len(clip)} frames instead of {self.rule.frames}")
        clip = rule.joined(reduce_pixels(rule.kept(clip), rule.drawn))
        clip = reduce_pixels(clip, rule.size, rule.downsample)
        clip = clip[:, :, ::-1] if mirror else clip
        return np.ascontiguousarray(clip if rule.frames is not None else clip[0])


def skipped_clips(directory: str | os.PathLike) -> list[Skipped]:
    """What `prepare_clips` left out, and why."""
    return sharding.read_skipped(directory)


def _shard(target: Path, number: int) -> Path:
    return target / f"clips-{number:05d}.array_record"


def _read_table(shard: Path, records: int) -> list[list[str]]:
    """Key and caption of each clip of a shard."""
    file, what = shard.with_suffix(".csv"), "the table of a shard"
    note = sharding.note_of(shard).name
    fix = f"restore it from a copy, or remove {note} and run `keras-mdm prepare` again, which "
    fix += "makes this shard again"
    if not file.is_file():
        raise checks.error(f"{what} must be there", fix=fix, missing=str(file))
    rows = csv_lists.read_csv(file, ("key", "caption"), what=what, fix=fix, text=("caption",))
    if len(rows) != records:
        # Most such tables were cut off: name the line after the last.
        problem = f"{records} clips need a row each, there are {len(rows)}"
        raise csv_lists.damaged_table(file, problem, what=what, fix=fix, line=len(rows) + 2)
    return rows


def _strip(clip: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    tall = clip.reshape(-1, *clip.shape[2:])
    strip = Image.fromarray(tall[..., 0] if tall.shape[-1] == 1 else tall)
    # Without chroma subsampling, as colours would bleed at 64 pixels.
    strip.save(buffer, "jpeg", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def _frames(strip: bytes, size: int, channels: int) -> np.ndarray:
    picture = open_picture(strip, max_pixels=size * _JPEG_SIDE)
    return np.asarray(picture).reshape(-1, size, size, channels)

"""Pictures prepared once: cropped, resized and packed into files that are read at random."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from keras_mdm import checks
from keras_mdm.data import sharding
from keras_mdm.data.base import Skipped
from keras_mdm.data.pictures.dataset import usable_captions
from keras_mdm.data.pictures.files import open_picture, to_channels
from keras_mdm.data.pictures.rule import ImageRule, cut_out
from keras_mdm.data.skipping import MAX_SKIPPED
from keras_mdm.data.sources.base import ImageSource
from keras_mdm.data.sources.examples import ExampleImages
from keras_mdm.data.sources.opening import open_images

_FORMAT = 1
# Pillow's names, and options for its writers. JPEG without chroma subsampling, as colours would
# bleed at 64 pixels.
FORMATS = {"jpeg": {"quality": 95, "subsampling": 0}, "png": {}, "webp": {"lossless": True}}


class ImagePreparation:
    """A preparation, divided into shards that can be written in any order, anywhere.

    Args:
        source: pictures, or a path for `open_images`. A path can be sent to other machines.
        directory: receives the shards and `manifest.json`.
        size: height and width, one number for squares; 256 by default.
        image_format: "jpeg" (quality 95), "png" or "webp" (both lossless).
        records_per_shard: records of the source per shard.
        channels: 3 for RGB, 1 for grey, 4 for RGB with its transparency, which JPEG cannot hold.
        captions: whether a record needs a caption.
        buckets: several (height, width) instead of `size`, see `ImageRule`; each picture is stored
            at the one nearest to its proportions.
        max_skipped: share of unusable records above which preparation fails.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        source: ImageSource | str | os.PathLike,
        directory: str | os.PathLike,
        *,
        size: int | tuple[int, int] | None = None,
        image_format: str = "jpeg",
        records_per_shard: int = 8192,
        captions: bool = False,
        channels: int = 3,
        buckets: Sequence[tuple[int, int]] | None = None,
        max_skipped: float = MAX_SKIPPED,
    ):
        self.path, self._source = None, source
        if isinstance(source, str | os.PathLike):
            self.path, self._source = os.fspath(source), None
        elif not isinstance(source, ImageSource):
            raise checks.error(
                "`source` must be pictures, or a path",
                fix="pass what open_images takes or returns",
                source=source,
            )
        self.max_skipped = checks.real("max_skipped", max_skipped, minimum=0.0, maximum=1.0)
        size = 256 if size is None and buckets is None else size
        self.rule = ImageRule(size, channels=channels, buckets=buckets)
        self.image_format = checks.one_of("image_format", image_format, tuple(FORMATS))
        if channels == 4 and image_format == "jpeg":
            raise checks.error(
                "JPEG files cannot hold transparency",
                fix='pass image_format="png" or "webp"',
                image_format=image_format,
                channels=channels,
            )
        self.records_per_shard = checks.integer("records_per_shard", records_per_shard, minimum=1)
        self.captions = bool(captions)
        self.directory = Path(directory)

    def __getstate__(self) -> dict[str, Any]:
        if self.path is None:
            raise checks.error(
                "only a source given by its path can be sent to other processes",
                fix="pass the path instead of the opened source",
                source=type(self._source).__name__,
            )
        return {**self.__dict__, "_source": None}

    @property
    def source(self) -> ImageSource:
        """The pictures, opened where they are needed."""
        if self._source is None:
            self._source = open_images(self.path, max_skipped=1.0)
        return self._source

    @property
    def plan(self) -> dict[str, Any]:
        """The values that decide what the shards hold."""
        return {
            "format": _FORMAT,
            "source": self.source.identity,
            "size": self.rule.size,
            "image_format": self.image_format,
            "records_per_shard": self.records_per_shard,
            "captions": self.captions,
            # Left out by default, as in plans that older versions wrote.
            **({} if self.rule.channels == 3 else {"channels": self.rule.channels}),
            **({} if self.rule.buckets is None else {"buckets": self.rule.buckets}),
            "label_names": list(self.source.label_names),
        }

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.source) // self.records_per_shard)

    def write(self, number: int, pool: ThreadPoolExecutor, done: Any = lambda result: None) -> dict:
        """Write one shard unless it exists, and return its note.

        Args:
            number: number of the shard, from 0.
            pool: threads to use.
            done: called after each record with its bytes or the `Skipped`.
        """
        first = number * self.records_per_shard
        rows = range(first, min(first + self.records_per_shard, len(self.source)))
        file = self.directory / f"images-{number:05d}.array_record"

        def work(row: int) -> bytes | Skipped:
            return self.source.attempt(row, self._example)

        return sharding.write_shard(file, work, rows, pool, done)

    def _example(self, row: int) -> bytes:
        record = self.source.read(row)
        captions = usable_captions(record) if self.captions or record.captions else []
        data, size = self._cut(record.data)
        return encode_example(
            data, captions, record.label, record.key, record.original_size or size
        )

    def _cut(self, data: bytes) -> tuple[bytes, tuple[int, int]]:
        picture = open_picture(data, self.rule.max_pixels)
        buffer = io.BytesIO()
        upright = to_channels(picture, self.rule.channels)
        rule = self.rule
        if rule.buckets is not None:
            rule = rule.in_bucket(rule.bucket(upright.height, upright.width))
        cut = cut_out(upright, rule.size)
        cut.save(buffer, self.image_format, **FORMATS[self.image_format])
        return buffer.getvalue(), upright.size[::-1]

    def check_share(self, shards: list[dict[str, Any]]) -> None:
        """Raise if too large a share of the records so far was skipped."""
        sharding.require_share(shards, self.source, self.records_per_shard, self.max_skipped)

    def finish(self, shards: list[dict[str, Any]]) -> ExampleImages:
        """Write the manifest and open the shards."""
        self.check_share(shards)
        sharding.finish(self.directory, self.plan, shards, self.source.skipped, "picture")
        return open_prepared(self.directory)


def prepare_images(
    source: ImageSource | str | os.PathLike,
    directory: str | os.PathLike,
    *,
    workers: int | None = None,
    progress: bool = True,
    **options: Any,
) -> ExampleImages:
    """Crop, resize and encode all pictures of a source, and pack them into shards.

    A shard is an ArrayRecord file of `tf.train.Example` messages (`image`, `caption`, `label`,
    `key`, `original_height`, `original_width`), written completely or not at all: calling again
    makes the missing shards. Records that cannot be used are left out, counted, and listed in
    `skipped.csv`.

    Args:
        source: pictures, or a path for `open_images`.
        directory: receives the shards and `manifest.json`.
        workers: number of threads; by default as many as cores.
        progress: show a progress bar.
        **options: arguments of `ImagePreparation`: size, image_format, records_per_shard, captions,
            channels, buckets, max_skipped.

    Returns:
        The shards, open.

    Raises:
        ValueError: if the folder holds other shards, or no picture can be used.

    Example:

    >>> prepare_images("pictures", "shards", size=256)  # doctest: +SKIP
    """
    if workers is not None:
        checks.integer("workers", workers, minimum=1)
    job = ImagePreparation(source, directory, **options)
    target = sharding.claim(directory, job.plan)
    with (
        sharding.take_turn_in(target, progress),
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        tqdm(
            total=len(job.source),
            desc="preparing pictures",
            unit="picture",
            disable=None if progress else True,
        ) as bar,
    ):
        shards = []
        for number in range(job.count):
            shards.append(job.write(number, pool, lambda result: bar.update()))
            job.check_share(shards)
            bar.update(min((number + 1) * job.records_per_shard, len(job.source)) - bar.n)
        return job.finish(shards)


def open_prepared(directory: str | os.PathLike, **options: Any) -> ExampleImages:
    """Open the shards that `prepare_images` wrote.

    Args:
        directory: the folder with `manifest.json`.
        **options: arguments of `ExampleImages`.

    Raises:
        ValueError: if there is no manifest, or a shard is missing.
    """
    return open_images(directory, **options)


def encode_example(
    image: bytes, captions: list[str], label: int, key: str, size: tuple[int, int]
) -> bytes:
    """Return one record as the bytes of a `tf.train.Example`."""
    from tensorflow.core.example.example_pb2 import Example

    found = Example()
    feature = found.features.feature
    feature["image"].bytes_list.value.append(image)
    feature["key"].bytes_list.value.append(key.encode("utf-8", "surrogateescape"))
    if captions:
        feature["caption"].bytes_list.value.extend(text.encode("utf-8") for text in captions)
    if label >= 0:
        feature["label"].int64_list.value.append(label)
    for name, value in zip(("original_height", "original_width"), size, strict=True):
        feature[name].int64_list.value.append(value)
    return found.SerializeToString()

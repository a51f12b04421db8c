"""Endless batches of pictures from files, decoded in parallel, a pure function of the step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.encoding import Encoder, check_encoder, encoding
from keras_mdm.data.order.batches import Batch, Make, Order, Reading, Shuffled, Windowed
from keras_mdm.data.order.buckets import BucketOrder
from keras_mdm.data.order.pipeline import check_micro_name
from keras_mdm.data.order.windows import WindowOrder
from keras_mdm.data.order.workers import fraction
from keras_mdm.data.pictures.buckets import Buckets
from keras_mdm.data.pictures.rule import ImageRule, decode
from keras_mdm.data.skipping import Unusable
from keras_mdm.data.sources.base import ImageSource, Record, require_source
from keras_mdm.data.sources.texts import NOT_UTF8, is_text

# Records per call into Python: a call costs as much as decoding a tenth of a picture, and so does
# assembling a batch from groups.
_GROUP = 64
# Longer texts are not considered captions.
MAX_CAPTION = 4000


def image_dataset(
    source: ImageSource,
    rule: ImageRule,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    encoder: Encoder | None = None,
    labels: bool = False,
    original_size: str | None = None,
    worker: tuple[int, int] = (0, 1),
    window: int = 8,
    parallel_reads: int = tf.data.AUTOTUNE,
    repeat: bool = True,
) -> tf.data.Dataset:
    """Return training batches of pictures, with texts or classes, endless by default.

    The order is a pure function of seed and position p = step * batch_size + j: every epoch is a
    permutation of all records, batches straddle epochs, and a run that resumes at a step sees what
    it would have seen, at no cost. Sources that have to be read in shards are permuted within
    `window` shards at a time. Mirroring, random crops and the choice among captions also depend on
    the position only. A record that cannot be used is listed in `source.skipped` and replaced by
    the next one that can, always the same.

    If the rule has buckets, every batch holds pictures of one bucket. Each bucket has its own
    permutations and share of the steps; pictures that do not fill a batch at the end of an epoch
    begin the bucket's next one. Sizes are read the first time and come from the cache afterwards.

    Args:
        source: where the pictures come from, see `open_images`.
        rule: what is done to them.
        batch_size: samples per step, over all replicas.
        seed: decides the order and all choices.
        first_step: the step of the first batch, for resuming.
        encoder: encodes the captions of every batch; see `keras_mdm.text.StoredStates` for
            captions that are encoded already. Without an encoder batches hold no text.
        labels: whether batches hold classes; records without a class then cannot be used.
        original_size: name of a micro-condition that receives the shorter side of the picture
            before it was resized; none by default.
        worker: (index, number of workers), see `keras_mdm.distribute.worker`: this worker then
            reads and decodes its own samples only. Its batches hold its parts of as many steps as
            there are workers, and TensorFlow is told not to shard them again. Replicas and workers
            must divide `batch_size`. By default, and with buckets, every worker reads whole batches
            and keeps its part.
        window: number of shards that are mixed, for sources that are read in shards; fewer if
            shards are too large for memory.
        parallel_reads: groups of records decoded at a time.
        repeat: `False` for a dataset that ends after every record has come once, for example for
            validation; its last batch may be smaller, and records that cannot be used are left out.

    Returns:
        A dataset of dicts: "image" uint8 (B, H, W, C), or float32 if the rule says so, where H and
        W are constant within a batch and, with buckets, unknown beforehand; "text" (B, L, D) and
        "text_mask" (B, L) with an encoder; "label" int32 (B,) if asked for; the micro-condition
        float32 (B,); the position, "sample" int64 (B,).

    Raises:
        ValueError: if an argument is out of range.

    Example:

    ```python
    source = keras_mdm.data.open_images("my_pictures")
    batches = image_dataset(source, ImageRule(64), batch_size=8, seed=0, encoder=MiniLM())
    ```

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix D.
    """
    reading = Reading(batch_size, seed, first_step, worker, parallel_reads, repeat)
    _check(source, rule, window, encoder, original_size)
    if labels and not has_labels(source):
        raise checks.error(
            "the data must have classes, named or numbered",
            fix="put the pictures into a folder per class, or leave labels out",
            labels=labels,
        )
    buckets = None if rule.buckets is None else Buckets.of(source, rule)
    if buckets:  # a worker would read parts of several steps, which differ in size
        reading = replace(reading, worker=(0, 1))
    around = buckets.around if buckets else lambda row: (rule, None)
    encode = None if encoder is None else encoding(encoder, "caption", _decoded)

    def finish(batch: Batch) -> Batch:
        found = {"image": batch["image"], "sample": batch["sample"]}
        if labels:
            found["label"] = batch["label"]
        if original_size is not None:
            found[original_size] = batch["side"]
        return found if encode is None else encode({**found, "caption": batch["caption"]})

    return reading.dataset(
        _order(source, reading, window, buckets),
        _making(source, around, seed, texts=encoder is not None, labels=labels),
        _columns(rule),
        together=_group_size(batch_size, divides=buckets is not None),
        finish=finish,
        exactly=lambda row: _columns(around(row)[0]),
    )


def _columns(rule: ImageRule) -> dict[str, tf.TensorSpec]:
    """The columns that are made from every record."""
    kind = tf.uint8 if rule.pixel_range == "symmetric" else tf.float32
    return {
        "image": tf.TensorSpec(rule.shape, kind),
        "label": tf.TensorSpec((), tf.int32),
        "side": tf.TensorSpec((), tf.float32),
        "caption": tf.TensorSpec((), tf.string),
    }


def _check(source: Any, rule: Any, window: Any, encoder: Any, original_size: Any) -> None:
    require_source(source)
    if not isinstance(rule, ImageRule):
        raise checks.error("`rule` must be an ImageRule", fix="pass ImageRule(64)", rule=rule)
    checks.integer("window", window, minimum=1)
    check_encoder(encoder)
    if original_size is not None:
        check_micro_name("original_size", original_size)


def has_labels(source: ImageSource) -> bool:
    """Whether records have classes: named ones, or numbers in one of the first records."""
    return bool(source.label_names) or any(record.label >= 0 for record in first_records(source, 8))


def first_records(source: ImageSource, count: int) -> list[Record]:
    """Up to `count` of the first records that can be read."""
    found = []
    for row in range(min(len(source), 4 * count)):
        record = source.attempt(row, source.read)
        if not isinstance(record, Skipped):
            found.append(record)
        if len(found) == count:
            break
    return found


def _group_size(batch_size: int, *, divides: bool) -> int:
    """Number of records decoded per call: the batch, or a part of it, preferably a divisor. If the
    part must divide the batch and none does, the whole batch."""
    if batch_size <= _GROUP:
        return batch_size
    parts = (n for n in range(_GROUP, _GROUP // 4, -1) if batch_size % n == 0)
    return next(parts, batch_size if divides else _GROUP)


def _order(source: ImageSource, reading: Reading, window: int, buckets: Buckets | None) -> Order:
    window, shards = min(window, source.shard_window or window), source.shard_sizes
    if buckets is None and shards is None:
        return Shuffled(len(source), reading.seed)
    if buckets is None:
        return Windowed(WindowOrder(shards, seed=reading.seed, window=window))
    return BucketOrder(
        buckets.members,
        batch_size=reading.batch_size,
        seed=reading.seed,
        repeat=reading.repeat,
        shard_sizes=shards,
        window=window,
    )


def _making(
    source: ImageSource,
    around: Callable[[int], tuple[ImageRule, Sequence[int] | None]],
    seed: int,
    *,
    texts: bool,
    labels: bool,
) -> Make:
    """Function (row, position) -> picture, class, original shorter side, and caption of a record or
    its replacement. `around` gives the rule for a record, and the records that may replace it."""
    classes = len(source.label_names) or np.iinfo(np.int32).max

    def make(row: int, position: int) -> tuple[tuple[np.ndarray, int, float, bytes], int]:
        rule, among = around(row)
        place = None
        if rule.crop == "random":
            place = fraction(seed, "down", position), fraction(seed, "across", position)
        mirror = rule.flip and fraction(seed, "mirror", position) < 0.5

        def made_of(candidate: int) -> tuple[np.ndarray, int, float, bytes]:
            record = source.read(candidate)
            if labels:
                _require_class(record, classes)
            caption = b""
            if texts:
                captions = usable_captions(record)
                chosen = int(fraction(seed, "caption", position) * len(captions))
                caption = captions[chosen].encode("utf-8")
            pixels, size = decode(record.data, rule, place=place, mirror=mirror)
            if rule.pixel_range == "release":
                pixels = (pixels.astype(np.float32) - 127.0) / 128.0
            return pixels, record.label, float(min(record.original_size or size)), caption

        return source.usable(row, made_of, among)

    return make


def _require_class(record: Record, classes: int) -> None:
    if record.label < 0:
        raise Unusable("has no class")
    if record.label >= classes:
        raise Unusable(f"has class {record.label}, but there are {classes}")


def usable_captions(record: Record) -> list[str]:
    """The usable captions of a record, in one line each.

    Raises:
        Unusable: if there are none.
    """
    found, reason = [], "has no caption"
    for caption in record.captions:
        if "\0" in caption:
            reason = "has a caption with a NUL character"
        elif len(caption) > MAX_CAPTION:
            reason = f"has a caption of {len(caption)} characters, more than {MAX_CAPTION}"
        elif not is_text(caption):  # JSON may even hold halves of characters
            reason = f"has a caption that {NOT_UTF8}"
        elif line := " ".join(caption.split()):
            found.append(line)
    if not found:
        raise Unusable(reason)
    return found


def _decoded(captions: np.ndarray) -> list[str]:
    return [caption.decode("utf-8") for caption in captions.tolist()]

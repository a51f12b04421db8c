"""Endless batches of pictures out of files, decoded in parallel, a pure function of the step."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.encoding import Encoder, check_encoder, encoding
from keras_mdm.data.order.pipeline import check_micro_name, record_index
from keras_mdm.data.order.windows import WindowOrder
from keras_mdm.data.order.workers import fraction, once, share_of
from keras_mdm.data.pictures.rule import ImageRule, decode
from keras_mdm.data.python_calls import call_python
from keras_mdm.data.skipping import Unusable
from keras_mdm.data.sources.base import ImageSource, Record, require_source
from keras_mdm.data.sources.texts import NOT_UTF8, is_text

# Records per call into Python: entering it costs as much as decoding a tenth of a picture, and so
# does putting groups together into a batch.
_GROUP = 64
# Longer captions are taken for something else than a caption.
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
    """Return training batches of pictures, with texts or classes, endless unless asked for.

    The order is a pure function of seed and position p = step * batch_size + j: every epoch is a
    permutation of all records, batches straddle epochs, and a run that resumes at a step sees what
    it would have seen, at no cost. Sources that have to be read in shards are permuted within
    `window` shards at a time. Mirrors, random crops and the choice among captions follow from the
    position as well. A record that cannot be used is replaced by the next one that can, always the
    same, and listed in `source.skipped`.

    Args:
        source: where the pictures come from, see `open_images`.
        rule: what is done to them.
        batch_size: samples per step, over all replicas.
        seed: decides the order and all choices.
        first_step: the step of the first batch, for resuming.
        encoder: encodes the captions of every batch; see `keras_mdm.text.StoredStates` for
            captions that are encoded already. Without one there is no text.
        labels: whether batches hold classes; records without one cannot be used then.
        original_size: name of a micro-condition that receives the shorter side of the picture
            before it was resized; none unless given.
        worker: (index, number) of the workers, `keras_mdm.distribute.worker`: this one then reads
            and decodes its own samples only. Batches hold its parts of as many steps as there are
            workers, and are told to TensorFlow as shared out already. Replicas and workers must
            divide `batch_size`. By default every worker reads whole batches and keeps its part.
        window: shards that are mixed, for sources that are read in shards; fewer where these are
            so large that they do not fit into memory.
        parallel_reads: groups of records decoded at a time.
        repeat: `False` for a dataset that ends after every record has come once, such as one for
            validation; its last batch may be smaller, and records that cannot be used are left out.

    Returns:
        A dataset of dicts: "image" uint8 (B, S, S, C), or float32 if the rule says so; "text"
        (B, L, D) and "text_mask" (B, L) with an encoder; "label" int32 (B,) if asked for; the
        micro-condition float32 (B,); "sample" int64 (B,), the position.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    ```python
    source = keras_mdm.data.open_images("my_pictures")
    batches = image_dataset(source, ImageRule(64), batch_size=8, seed=0, encoder=MiniLM())
    ```

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix D.
    """
    batch_size = checks.integer("batch_size", batch_size, minimum=1)
    first_step = checks.integer("first_step", first_step, minimum=0)
    seed = checks.seed(seed)
    _check(source, rule, window, encoder, original_size)
    if labels and not has_labels(source):
        raise checks.error(
            "the data must have classes, named or numbered",
            fix="put the pictures into a folder per class, or leave labels out",
            labels=labels,
        )
    share = share_of(worker, batch_size)
    end = once(repeat, len(source), first_step, batch_size, share.workers)
    load = _loader(source, rule, seed, texts=encoder is not None, labels=labels, replace=repeat)
    dtype = tf.uint8 if rule.pixel_range == "symmetric" else tf.float32

    def decode_group(rows: tf.Tensor, positions: tf.Tensor) -> dict[str, tf.Tensor]:
        kinds = (dtype, tf.int32, tf.float32, tf.string)
        if end is not None:  # past the end nothing is left
            kept = positions < end
            rows, positions = rows[kept], positions[kept]
        found = call_python(load, (rows, positions), (*kinds, tf.int64))
        pictures, classes, sides, captions, positions = found
        number = group if end is None else None
        pictures.set_shape((number, rule.size, rule.size, rule.channels))
        for value in (classes, sides, captions, positions):
            value.set_shape((number,))
        records = {"image": pictures, "sample": positions}
        if labels:
            records["label"] = classes
        if original_size is not None:
            records[original_size] = sides
        return records | ({"caption": captions} if encoder is not None else {})

    # Batches from which records are left out are not put together of groups.
    group = _group_size(batch_size) if repeat else batch_size
    starts = share.starts(first_step, group, end)
    dataset = starts.map(_order(source, seed, window, lambda start: share.positions(start, group)))
    dataset = dataset.map(decode_group, num_parallel_calls=parallel_reads, deterministic=True)
    if group != batch_size:
        dataset = dataset.rebatch(batch_size, drop_remainder=True)
    if encoder is not None:
        # After the batch: an encoder is called once for all of its captions.
        dataset = dataset.map(encoding(encoder, "caption", _decoded), num_parallel_calls=1)
    return share.told(dataset).prefetch(tf.data.AUTOTUNE)


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


def _group_size(batch_size: int) -> int:
    """Records that are decoded in one call: the batch, or a part of it, if possible a divisor."""
    if batch_size <= _GROUP:
        return batch_size
    return next((n for n in range(_GROUP, _GROUP // 4, -1) if batch_size % n == 0), _GROUP)


def _order(
    source: ImageSource,
    seed: int,
    window: int,
    positions_of: Callable[[tf.Tensor], tf.Tensor],
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Function from the number of a sample to the rows and positions of its group."""
    number = len(source)
    if source.shard_sizes is not None:
        window = min(window, source.shard_window or window)
        order = WindowOrder(source.shard_sizes, seed=seed, window=window)

    def rows(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = positions_of(start)
        if source.shard_sizes is None:
            return record_index(positions, number, seed), positions
        found = call_python(order.rows, (positions,), tf.int64)
        found.set_shape(positions.shape)
        return found, positions

    return rows


def _loader(
    source: ImageSource, rule: ImageRule, seed: int, *, texts: bool, labels: bool, replace: bool
) -> Any:
    """Function (rows, positions) -> pictures, classes, shorter sides before, captions, positions;
    of rows that cannot be used, or of what replaces them."""
    classes = len(source.label_names) or np.iinfo(np.int32).max

    def one(row: int, position: int) -> tuple[tuple[np.ndarray, int, float, bytes], int]:
        place = None
        if rule.crop == "random":
            place = fraction(seed, "down", position), fraction(seed, "across", position)
        mirror = rule.flip and fraction(seed, "mirror", position) < 0.5

        def make(candidate: int) -> tuple[np.ndarray, int, float, bytes]:
            record = source.read(candidate)
            if labels:
                _require_class(record, classes)
            caption = b""
            if texts:
                captions = usable_captions(record)
                chosen = int(fraction(seed, "caption", position) * len(captions))
                caption = captions[chosen].encode("utf-8")
            pixels, size = decode(record.data, rule, place=place, mirror=mirror)
            return pixels, record.label, float(min(record.original_size or size)), caption

        return source.usable(row, make)

    def load(rows: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        found = [one(int(row), int(p)) for row, p in zip(rows, positions, strict=True)]
        if not replace:
            kept = [made == row for (_, made), row in zip(found, rows, strict=True)]
            found, positions = list(itertools.compress(found, kept)), positions[kept]
        made = [value for value, _ in found]
        pictures, classes, sides, captions = zip(*made, strict=True) if made else ((),) * 4
        shape = (len(made), rule.size, rule.size, rule.channels)
        pictures = np.stack(pictures) if made else np.empty(shape, np.uint8)
        if rule.pixel_range == "release":
            pictures = (pictures.astype(np.float32) - 127.0) / 128.0
        # Bytes of one length would lose what they end in: objects.
        return (
            pictures,
            np.asarray(classes, np.int32),
            np.asarray(sides, np.float32),
            np.asarray(captions, object),
            positions,
        )

    return load


def _require_class(record: Record, classes: int) -> None:
    if record.label < 0:
        raise Unusable("has no class")
    if record.label >= classes:
        raise Unusable(f"has class {record.label}, but there are {classes}")


def usable_captions(record: Record) -> list[str]:
    """The captions of a record that are captions, in one line each.

    Raises:
        Unusable: if there is none.
    """
    found, reason = [], "has no caption"
    for caption in record.captions:
        if "\0" in caption:
            reason = "has a caption with a NUL character"
        elif len(caption) > MAX_CAPTION:
            reason = f"has a caption of {len(caption)} characters, more than {MAX_CAPTION}"
        elif not is_text(caption):  # JSON may hold halves of characters besides
            reason = f"has a caption that {NOT_UTF8}"
        elif line := " ".join(caption.split()):
            found.append(line)
    if not found:
        raise Unusable(reason)
    return found


def _decoded(captions: np.ndarray) -> list[str]:
    return [caption.decode("utf-8") for caption in captions.tolist()]

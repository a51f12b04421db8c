"""Batches whose content is a pure function of the step: shuffled, endless, and free to seek.

Sample j of step s has the position p = s * batch_size + j in one endless sequence. Epoch p // n is
a permutation of all n records; its record p % n is found by arithmetic (no shuffle buffer, no
state), and batches straddle epochs. So a run that resumes at step k asks for `first_step=k` and
sees what it would have seen, at no cost. The number of replicas does not matter.
"""

import hashlib
from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.data.base import CaptionedImages
from keras_mdm.data.order.workers import once
from keras_mdm.pictures.pixels import PICTURE_CHANNELS

_KEYS = ("image", "video", "text", "text_mask", "pooled", "label", "low_res", "sample")


def check_micro_name(argument: str, name: object) -> None:
    """Raise unless a micro-condition's name is a string without another meaning in a batch: it
    would replace the pictures, labels or positions."""
    if not isinstance(name, str) or name in (*_KEYS, "caption"):
        raise checks.error(
            f"`{argument}` must name a micro-condition, not one of {', '.join(_KEYS)}, caption",
            fix='pass a name from LevelSpec(micro_conditions=), such as "scale"',
            **{argument: name},
        )


def positions(step: tf.Tensor | int, batch_size: int) -> tf.Tensor:
    """Return the positions of a step's samples, int64 (batch_size,).

    Example:

    >>> positions(2, 4).numpy().tolist()
    [8, 9, 10, 11]
    """
    return tf.cast(step, tf.int64) * batch_size + tf.range(batch_size, dtype=tf.int64)


def record_index(position: tf.Tensor, num_records: int | tf.Tensor, seed: int) -> tf.Tensor:
    """Return the records at some positions of the endless shuffled sequence.

    Args:
        position: int64 (B,).
        num_records: the number n of records.
        seed: a non-negative integer below 2**63.

    Returns:
        int64 (B,), each in 0..n-1. Over the positions of one epoch every record comes once.

    Example:

    >>> sorted(record_index(tf.range(5, dtype=tf.int64), 5, seed=0).numpy().tolist())
    [0, 1, 2, 3, 4]
    """
    # The op behind tf.random.experimental.index_shuffle, whose wrapper cannot take one seed per
    # index, as a batch that straddles epochs needs (it pads the wrong axis). Two more traps: with
    # the wrapper's 4 rounds small seeds hardly shuffle (36 of 40 records stayed in place), and only
    # the lowest bits of each seed word count, about half as many as n has (so 2**32 was seed 0, and
    # epoch 256 would be epoch 0). Hence 16 rounds, and words that are hashes of seed and epoch.
    return tf.raw_ops.RandomIndexShuffle(
        index=position % num_records,
        seed=_key_words(position // num_records, seed),
        max_index=tf.cast(num_records - 1, tf.int64),
        rounds=16,
    )


def _key_words(epoch: tf.Tensor, seed: int) -> tf.Tensor:
    """Return three well-mixed words for each epoch, uint32 (B, 3): the SplitMix64 sequence."""
    start = int.from_bytes(hashlib.sha256(f"order {seed}".encode()).digest()[:8], "little")
    state = tf.cast(epoch, tf.uint64) * _word(0x9E3779B97F4A7C15) + _word(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _word(shift)))
        state *= _word(factor)
    state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _word(31)))
    parts = [tf.bitwise.right_shift(state, _word(shift)) for shift in (0, 21, 42)]
    mask = _word(0x1FFFFF)
    return tf.cast(tf.stack([tf.bitwise.bitwise_and(part, mask) for part in parts], 1), tf.uint32)


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def ordered_dataset(
    num_records: int, batch_size: int, *, seed: int, first_step: int = 0, repeat: bool = True
) -> tf.data.Dataset:
    """Return the dataset of (record index, position) batches, endless by default.

    Use it to feed records from anywhere: map a lookup over the indices.

    Args:
        num_records: number of records.
        batch_size: samples per step, over all replicas.
        seed: decides the order.
        first_step: the step of the first batch; seeking costs nothing.
        repeat: `False` for a dataset that ends after every record has come once, for example for
            validation; its last batch may be smaller.

    Returns:
        A dataset of pairs of int64 (batch_size,).

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> index, position = next(iter(ordered_dataset(10, 4, seed=0, first_step=3)))
    >>> position.numpy().tolist()
    [12, 13, 14, 15]
    """
    num_records = checks.integer("num_records", num_records, minimum=1)
    batch_size = checks.integer("batch_size", batch_size, minimum=1)
    first_step = checks.integer("first_step", first_step, minimum=0)
    seed = checks.seed(seed)

    end = once(repeat, num_records, first_step, batch_size)

    def order(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = positions(step, batch_size)
        if end is not None and num_records % batch_size:
            position = position[position < end]
        return record_index(position, num_records, seed), position

    if end is not None:
        return tf.data.Dataset.range(first_step, -(-end // batch_size)).map(order)
    # The last position must fit into 64 bits.
    last_step = np.iinfo(np.int64).max // batch_size
    return tf.data.Dataset.range(first_step, last_step).map(order)


def image_text_dataset(
    images: np.ndarray | CaptionedImages,
    text: np.ndarray | None = None,
    text_mask: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    pooled: np.ndarray | None = None,
    low_res: np.ndarray | None = None,
    micro: Mapping[str, np.ndarray] | None = None,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    keys: Collection[str] | None = None,
    repeat: bool = True,
) -> tf.data.Dataset:
    """Return training batches from arrays in memory, endless by default.

    Args:
        images: uint8 (n, S, S, C) with 1, 3 or 4 channels, or codes of an autoencoder, float32 with
            any number of channels; or clips, (n, T, S, S, C), which batches hold as "video"; or a
            record as `load_emoji` and `load_folder` return it, whose labels and largest size are
            used (training makes the smaller sizes).
        text: token states (n, L, D), for example from `encode_cached`.
        text_mask: (n, L), 1 for tokens and 0 for padding; goes with `text`.
        labels: int (n,), -1 for unconditional; by default those of the record.
        pooled: (n, P), one vector per prompt, for networks that take it.
        low_res: (n, h, w, C), the picture that a network with more in_channels than out_channels
            sees beside each of `images`; uint8 or float32.
        micro: micro-conditions by name, (n,) each, such as scores or original sizes; NaN where
            unknown.
        batch_size: samples per step, over all replicas.
        seed: decides the order.
        first_step: the step of the first batch, for resuming.
        keys: which of "image" or "video", "low_res", "text", "text_mask", "pooled", "label", the
            micro-conditions and "sample" a batch holds; by default all that are available.
        repeat: as in `ordered_dataset`.

    Returns:
        A dataset of dicts: "image" (B, S, S, C) or "video" (B, T, S, S, C), "text" (B, L, D) and
        "text_mask" (B, L) in the dtypes of the arguments, "pooled" (B, P), "label" int32 (B,),
        micro-conditions float32 (B,), and the position, "sample" int64 (B,).

    Raises:
        ValueError: if the arrays do not belong together or a key is unknown.

    Example:

    >>> images = np.zeros((5, 8, 8, 3), np.uint8)
    >>> batch = next(iter(image_text_dataset(images, batch_size=2, seed=0)))
    >>> sorted(batch), batch["image"].shape.as_list()
    (['image', 'sample'], [2, 8, 8, 3])
    """
    if isinstance(images, CaptionedImages):
        labels = images.labels if labels is None else labels
        images = images.largest
    images = np.asarray(images)
    key = "video" if images.ndim == 5 else "image"
    columns = {key: images, "text": text, "text_mask": text_mask, "label": labels}
    columns |= {"pooled": pooled, "low_res": low_res}
    columns = {key: np.asarray(value) for key, value in columns.items() if value is not None}
    for name in micro or {}:
        check_micro_name("micro", name)
    micro = {key: np.asarray(value, "float32") for key, value in (micro or {}).items()}
    _check(images, columns, micro)
    columns |= micro
    if "label" in columns:
        columns["label"] = columns["label"].astype(np.int32)
    wanted = tuple(keys) if keys is not None else (*columns, "sample")
    checks.known_keys("keys", wanted, (*_KEYS, *micro))
    checks.required_keys("the data", (*columns, "sample"), wanted)
    # One copy in TensorFlow's memory, captured by the map below rather than embedded in its graph.
    with tf.device("CPU"):
        tables = {key: tf.constant(columns[key]) for key in columns if key in wanted}

    def gather(index: tf.Tensor, position: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = {key: tf.gather(table, index) for key, table in tables.items()}
        return batch | ({"sample": position} if "sample" in wanted else {})

    order = ordered_dataset(
        len(images), batch_size, seed=seed, first_step=first_step, repeat=repeat
    )
    return order.map(gather).prefetch(tf.data.AUTOTUNE)


def _check(image: np.ndarray, columns: dict[str, np.ndarray], micro: dict[str, np.ndarray]) -> None:
    pictures = image.dtype == np.uint8 and image.shape[-1:] in {(c,) for c in PICTURE_CHANNELS}
    codes = image.dtype == np.float32
    if not (pictures or codes) or image.ndim not in (4, 5) or not image.size:
        raise checks.error(
            "`images` must be uint8 (n, height, width, C) of 1, 3 or 4 channels, or float32 codes, "
            "or clips (n, T, height, width, C), with n of at least 1",
            fix="convert the pictures, for example with load_folder",
            shape=image.shape,
            dtype=image.dtype.name,
        )
    if ("text" in columns) != ("text_mask" in columns):
        raise checks.error(
            "`text` and `text_mask` must be given together",
            fix="pass both, as encode_cached returns them",
            text="text" in columns,
            text_mask="text_mask" in columns,
        )
    shapes = {key: array.shape for key, array in columns.items()}
    fits = all(len(array) == len(image) for array in columns.values())
    if "text" in columns:
        fits = fits and columns["text"].ndim == 3
        fits = fits and columns["text_mask"].shape == columns["text"].shape[:2]
    if "label" in columns:
        fits = fits and columns["label"].ndim == 1
    if "pooled" in columns:
        fits = fits and columns["pooled"].ndim == 2
    if "low_res" in columns:
        fits = fits and columns["low_res"].ndim in (4, image.ndim)
    shapes |= {key: array.shape for key, array in micro.items()}
    fits = fits and all(array.shape == (len(image),) for array in micro.values())
    if not fits:
        raise checks.error(
            "the arrays must be images (n, S, S, 3), text (n, L, D), text_mask (n, L), pooled "
            "(n, P), low_res (n, h, w, C), labels and micro-conditions (n,)",
            fix="encode the captions of these pictures, in their order",
            **shapes,
        )
    if "label" in columns and not np.issubdtype(columns["label"].dtype, np.integer):
        raise checks.error(
            "`labels` must be integers, the numbers of classes",
            fix="cast whole numbers with astype(int); take the argmax of one-hot rows",
            dtype=columns["label"].dtype.name,
        )

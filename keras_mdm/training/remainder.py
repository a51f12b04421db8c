"""Batches of one size: the rest of an epoch is filled up with rows that do not count.

The last batch of an epoch may be smaller, and need not divide over replicas and micro-batches. Its
rows are repeated until it has the size of the others, which also saves another trace of the step.
Weights per row, computed here from the whole batch before anything is split, make means over equal
parts equal means over the rows that count. So no part has to know the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_mdm.training import batches

# What a group of a filled batch holds besides its data. WEIGHT (B, n) float32: the factor of the
# row's loss at each of its n levels. PLACE (B, 5) int64: the columns below.
WEIGHT, PLACE = "row_weight", "row_place"
KEYS = (WEIGHT, PLACE)
# The user's weights, (B,); they become part of WEIGHT.
SAMPLE_WEIGHT = "sample_weight"

# Columns of PLACE: row of the group, rows of a full batch, place among the rows that count in all
# groups, number of rows that count in all groups, number of those in this group.
_ROW, _FULL, _COUNTED_PLACE, _COUNTED, _OWN = range(5)


def filled(
    dataset: tf.data.Dataset, levels: Sequence[str], parts: int, *, full: int | None = None
) -> tf.data.Dataset:
    """Return the batches of a dataset, each divisible into `parts` and as large as the first.

    A dataset whose batches have one fixed size that can be divided is returned as it is.

    Args:
        dataset: batches, see `batches.split_groups`.
        levels: level names, ascending.
        parts: replicas times micro-batches.
        full: rows of a full batch, if known other than from the dataset.

    Raises:
        ValueError: if the batches are not dicts.

    Example:

    >>> rest = tf.data.Dataset.from_tensor_slices({"image": tf.zeros((5, 8, 8, 3))}).batch(4)
    >>> [batch["row_weight"][:, 0].numpy().tolist() for batch in filled(rest, ["8"], 2)]
    [[1.0, 1.0, 1.0, 1.0], [4.0, 0.0, 0.0, 0.0]]
    """
    groups = batches.split_groups(dataset.element_spec, levels)
    rows = {level: _static_rows(group) for level, group in groups.items()}
    if all(count and count % parts == 0 for count in rows.values()) and not any(
        SAMPLE_WEIGHT in group for group in groups.values()
    ):
        return dataset
    nested = all(isinstance(value, Mapping) for value in dataset.element_spec.values())
    if full is not None and not nested:
        rows = dict.fromkeys(rows, full)
    start = {level: tf.zeros((), tf.int32) for level in groups}

    def fill(largest: dict, batch: Mapping[str, Any]) -> tuple[dict, Any]:
        split = batches.split_groups(batch, levels)
        found = {level: batches.rows_of(group) for level, group in split.items()}
        # The largest so far: the first one, unless batches are of many sizes.
        largest = {
            level: tf.constant(rows[level])
            if rows[level]
            else tf.maximum(largest[level], found[level])
            for level in split
        }
        whole = _fill(split, found, largest, rows, levels, parts)
        return largest, whole if nested else next(iter(whole.values()))

    return dataset.scan(start, fill)


def filled_batch(
    batch: Mapping[str, Any], largest: dict[str, int], levels: Sequence[str], parts: int
) -> Mapping[str, Any]:
    """Return one batch of eager tensors, filled as by `filled`.

    Args:
        batch: see `batches.split_groups`.
        largest: rows of the largest batch so far by group; updated here.
        levels: level names, ascending.
        parts: replicas times micro-batches.
    """
    groups = batches.split_groups(batch, levels)
    rows = {level: batches.rows_of(group) for level, group in groups.items()}
    for level, count in rows.items():
        largest[level] = max(largest.get(level, 0), int(count))
    full = {level: tf.constant(largest[level]) for level in groups}
    whole = _fill(groups, rows, full, dict.fromkeys(groups), levels, parts)
    nested = all(isinstance(value, Mapping) for value in batch.values())
    return whole if nested else next(iter(whole.values()))


def _static_rows(group: Mapping[str, Any]) -> int | None:
    found = {value.shape[0] for value in group.values()} - {None}
    return next(iter(found)) if len(found) == 1 else None


def _fill(
    groups: Mapping[str, Mapping[str, tf.Tensor]],
    rows: Mapping[str, tf.Tensor],
    full: Mapping[str, tf.Tensor],
    static: Mapping[str, int | None],
    levels: Sequence[str],
    parts: int,
) -> dict[str, dict[str, tf.Tensor]]:
    """Fill the groups of one batch, from the highest level down."""
    size = {level: -(-full[level] // parts) * parts for level in groups}
    # At least 1: no row of a batch may be usable, and 0 must not become a divisor.
    counted = tf.maximum(tf.add_n([tf.cast(count, tf.int64) for count in rows.values()]), 1)
    whole, before = {}, tf.zeros((), tf.int64)
    for level, group in groups.items():
        data = {key: value for key, value in group.items() if key != SAMPLE_WEIGHT}
        place, own = tf.range(size[level]), rows[level]
        index = place % tf.maximum(own, 1)
        given = group.get(SAMPLE_WEIGHT)
        # Nothing is copied where nothing is missing.
        data = tf.cond(
            tf.equal(own, size[level]),
            lambda data=data: {key: tf.identity(value) for key, value in data.items()},
            lambda data=data, index=index: {k: _repeated(v, index) for k, v in data.items()},
        )
        counts = tf.cast(place < own, tf.float32)
        if given is not None:
            counts *= _repeated(tf.cast(given, tf.float32), index)
        scales = [
            _scale(below, rows, size, levels) for below in levels[: 1 + _index(level, levels)]
        ]
        columns = [
            tf.cast(place, tf.int64),
            tf.fill(tf.shape(place), tf.cast(full[level], tf.int64)),
            tf.minimum(before + tf.cast(place, tf.int64), counted - 1),
            tf.fill(tf.shape(place), counted),
            tf.fill(tf.shape(place), tf.cast(own, tf.int64)),
        ]
        data[WEIGHT] = tf.stack([counts * scale for scale in scales], axis=1)
        data[PLACE] = tf.stack(columns, axis=1)
        if static[level]:
            for value in data.values():
                value.set_shape([-(-static[level] // parts) * parts, *value.shape[1:]])
        whole[level] = data
        before += tf.cast(own, tf.int64)
    return whole


def _index(level: str, levels: Sequence[str]) -> int:
    return list(levels).index(level)


def _scale(level: str, rows: Mapping, size: Mapping, levels: Sequence[str]) -> tf.Tensor:
    """Number of rows of a level divided by the number that count there."""
    having = [name for name in rows if _index(name, levels) >= _index(level, levels)]
    total, counted = (tf.add_n([of[name] for name in having]) for of in (size, rows))
    return tf.cast(total, tf.float32) / tf.cast(tf.maximum(counted, 1), tf.float32)


def _repeated(value: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Rows by their number; zeros in the place of a row 0 that is missing."""
    spare = tf.zeros([1, *tf.unstack(tf.shape(value)[1:])], value.dtype)
    return tf.gather(tf.concat([value, spare], axis=0), index)


# What a step reads from a filled batch; groups that are not filled are accepted too.


def level_weights(groups: Mapping[str, Mapping[str, Any]], levels: Sequence[str]) -> dict | None:
    """Weight of every row at its levels, `(B',)` by level as `batches.join_levels` joins them;
    `None` for batches that are not filled.

    Args:
        groups: of a replica or a micro-batch, from the highest level down.
        levels: level names, ascending.
    """
    if WEIGHT not in next(iter(groups.values())):
        return None
    found = {}
    for number, level in enumerate(levels):
        columns = [g[WEIGHT][:, number] for g in groups.values() if g[WEIGHT].shape[1] > number]
        if columns:
            found[level] = tf.concat(columns, axis=0)
    return found


def counted_share(groups: Mapping[str, Mapping[str, Any]], replicas: int) -> tf.Tensor | None:
    """`(B,)`: 1 for rows that count and 0 for others, scaled to a mean of 1 over replicas; `None`
    for batches that are not filled."""
    if PLACE not in next(iter(groups.values())):
        return None
    counts = [tf.cast(g[PLACE][:, _ROW] < g[PLACE][:, _OWN], tf.float32) for g in groups.values()]
    total = tf.add_n([batches.rows_of(group) for group in groups.values()]) * replicas
    counted = next(iter(groups.values()))[PLACE][0, _COUNTED]
    return tf.concat(counts, axis=0) * (tf.cast(total, tf.float32) / tf.cast(counted, tf.float32))


def counted_rows(group: Mapping[str, Any], replicas: int) -> tf.Tensor:
    """A replica's share of the rows of a group that count, float32."""
    if PLACE not in group:
        return tf.cast(batches.rows_of(group), tf.float32)
    return tf.cast(group[PLACE][0, _OWN], tf.float32) / float(replicas)


def sample_places(group: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor] | None:
    """(place of every row in its global batch, rows of a full one), int64, as filled."""
    if PLACE not in group:
        return None
    return group[PLACE][:, _ROW], group[PLACE][:, _FULL]


def counted_places(group: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor] | None:
    """(place of every row among those of all groups that count, their number), int64."""
    if PLACE not in group:
        return None
    return group[PLACE][:, _COUNTED_PLACE], group[PLACE][0, _COUNTED]


def unweighted(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without the keys that weight its rows, the user's or those of filling."""
    return {key: value for key, value in data_of(group).items() if key != SAMPLE_WEIGHT}


def data_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without the keys that filling added."""
    return {key: value for key, value in group.items() if key not in KEYS}

"""What a batch is: one group of samples, or several that differ in their highest level."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning.conditions import cast_conditions, condition_names, pad_tokens
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.levels import LevelShape, Size
from keras_mdm.models.network import NetworkFacts
from keras_mdm.pictures import pixels


def split_groups(batch: Any, levels: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the groups of a batch by their highest level, highest first.

    Args:
        batch: a dict of tensors, whose samples have all levels; or a mixed-resolution batch: a dict
            of such dicts by the highest level of their samples.
        levels: level names, ascending.

    Returns:
        dict of dicts of tensors.

    Raises:
        ValueError: if the batch is not a dict, or no group has the highest level.

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.3 (mixed-resolution training).
    """
    if not isinstance(batch, Mapping):
        raise checks.error(
            "a batch must be a dict",
            fix="yield dicts with `image` or `video`, or dicts of them by level name",
            type=type(batch).__name__,
        )
    if not batch or not all(isinstance(value, Mapping) for value in batch.values()):
        return {levels[-1]: batch}
    checks.known_keys("the groups of a batch", batch, levels)
    if levels[-1] not in batch:
        raise checks.error(
            f"a mixed batch must have a group of the highest level {levels[-1]!r}",
            fix="give it a share of the samples, or train a network without the level",
            groups=sorted(batch),
        )
    return {level: batch[level] for level in reversed(levels) if level in batch}


def prepare_group(
    group: Mapping[str, Any], process: LevelProcess, spec: NetworkFacts
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Turn a group into the data of its levels and its conditions.

    Args:
        group: dict of tensors.
        process: of the group's levels.
        spec: the network.

    Returns:
        (x0 by level name, float32 in [-1, 1]; conditions by key).

    Raises:
        ValueError: if a key is missing or unknown, or the data has another size or type.
    """
    top = process.shapes[-1]
    key = "image" if top.frames is None else "video"
    checks.required_keys("the batch", group, [key])
    checks.known_keys("the batch", group, [key, "sample", *condition_names(spec)])
    data = tf.convert_to_tensor(group[key])
    shape = process.shapes_of(data)[-1]
    expected = shape.of_sample(spec.out_channels)
    check_shape(key, data.shape, expected, top.name, process.sizes)
    data = tf.ensure_shape(data, (None, *expected))  # as far as it is not known
    if data.dtype == tf.uint8:
        data = pixels.to_unit(data)
    elif data.dtype != tf.float32:
        raise checks.error(
            f"`{key}` must be uint8, or float32 in [-1, 1]",
            fix="cast the data in the pipeline",
            dtype=tf.as_dtype(data.dtype).name,
        )
    return process.pyramid(data), cast_conditions(group, spec, _highest(shape, process, spec))


def _highest(shape: LevelShape, process: LevelProcess, spec: NetworkFacts) -> LevelShape:
    """The highest level of the network in the size of a group's data."""
    whole, top = spec.levels[-1].shape, process.shapes[-1]
    ratio = whole.height // top.height
    return LevelShape(whole.frames, (shape.height * ratio, shape.width * ratio))


def check_shape(
    key: str,
    shape: tf.TensorShape,
    expected: tuple[int | None, ...],
    level: str,
    sizes: Sequence[Size] = (),
) -> None:
    """Raise if data cannot have the shape of a level, as far as it is known.

    Args:
        key: `"image"` or `"video"`.
        shape: of a batch.
        expected: of a sample.
        level: name of the level.
        sizes: other sizes that the level takes, for the error.
    """
    if shape.is_compatible_with((None, *expected)):
        return
    others = shape.rank == len(expected) + 1 and tf.TensorShape(expected[:-1]).is_compatible_with(
        shape[1:-1]
    )
    raise checks.error(
        f"`{key}` must have the shape (B, {', '.join(map(str, expected))})",
        fix=f"decode the data with {expected[-1]} channels, or build the network with "
        f"in_channels={shape[-1]}"
        if others
        else f"resize the data to the level {level}"
        + (f", or to one of the buckets {list(sizes)}" if sizes else ""),
        shape=tuple(shape),
    )


def join_levels(parts: Sequence[Mapping[str, tf.Tensor]], levels: Sequence[str]) -> dict:
    """Put the levels of groups one after the other, the group with the highest level first.

    The samples that have a level are then the first rows of the levels below, as the network
    expects.

    Args:
        parts: tensors by level name, groups from the highest level down.
        levels: level names, ascending.
    """
    found = {level: [part[level] for part in parts if level in part] for level in levels}
    for level, tensors in found.items():
        if len({tuple(tensor.shape[1:]) for tensor in tensors}) > 1:
            raise checks.error(
                "the groups of a mixed batch must be pictures of one bucket",
                fix="make the batches of all groups from one order of buckets",
                level=level,
                shapes=[tuple(tensor.shape[1:]) for tensor in tensors],
            )
    return {
        level: tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis=0)
        for level, tensors in found.items()
        if tensors
    }


def join_conditions(
    parts: Sequence[Mapping[str, tf.Tensor]], spec: NetworkFacts
) -> dict[str, tf.Tensor]:
    """Put the conditions of groups one after the other, texts padded to one length.

    Args:
        parts: conditions of the groups, from the highest level down. Micro-conditions that only
            some groups have are NaN in the others, which means the level's default.
        spec: the network.
    """
    if len(parts) == 1:
        return dict(parts[0])
    parts = [dict(part) for part in parts]
    for name in spec.micro_conditions:
        if any(name in part for part in parts):
            for part in parts:
                part.setdefault(name, tf.fill([rows_of(part)], float("nan")))
    if "text" in parts[0]:
        longest = tf.reduce_max(tf.stack([tf.shape(part["text"])[1] for part in parts]))
        for part in parts:
            part["text"], part["text_mask"] = pad_tokens(part["text"], part["text_mask"], longest)
    return {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}


def rows_of(group: Mapping[str, Any]) -> tf.Tensor:
    """Number of samples of a group, int32."""
    return tf.shape(next(iter(group.values())))[0]


def check_divisible(groups: Mapping[str, Mapping[str, Any]], parts: int) -> None:
    """Raise unless every group of a replica's batch can be cut into equal micro-batches.

    Args:
        groups: from `split_groups`.
        parts: number of micro-batches.
    """
    sizes = {level: next(iter(group.values())).shape[0] for level, group in groups.items()}
    wrong = {name: rows for name, rows in sizes.items() if rows is not None and rows % parts}
    if wrong:
        nearest = {name: max(1, round(rows / parts)) * parts for name, rows in wrong.items()}
        raise checks.error(
            f"every group of a replica's batch must be divisible by the {parts} micro-batches",
            fix=f"the nearest sizes that work: {nearest}",
            rows=wrong,
        )


def take_part(group: Mapping[str, tf.Tensor], index: tf.Tensor, parts: int) -> dict:
    """Return micro-batch number `index` of `parts` of a group."""
    size = rows_of(group) // parts
    cut = {}
    for name, value in group.items():
        # XLA must know that all parts have the same number of rows; `value[a:b]` does not say so.
        begin = tf.pad([index * size], [[0, len(value.shape) - 1]])
        part = tf.slice(value, begin, tf.concat([[size], tf.shape(value)[1:]], axis=0))
        rows = value.shape[0]
        part.set_shape([None if rows is None else rows // parts, *value.shape[1:]])
        cut[name] = part
    return cut

"""What batches of pictures and of clips have in common: order, workers, replacements, the end."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.data.order.pipeline import record_index
from keras_mdm.data.order.windows import WindowOrder
from keras_mdm.data.order.workers import once, share_of
from keras_mdm.data.python_calls import call_python

# Function (row, position) -> one value per column, and the row that was read: the given one or its
# replacement.
Make = Callable[[int, int], tuple[tuple[Any, ...], int]]
Batch = dict[str, tf.Tensor]


class Order(Protocol):
    """Which record comes at which position of an endless sequence.

    Attributes:
        length: number of positions after which every record has come once.
    """

    length: int

    def rows(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the records at some positions, int64 (B,); -1 where there is none."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Every epoch is another permutation of all records.

    Args:
        length: number of records.
        seed: decides the order.
    """

    length: int
    seed: int

    def rows(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the records at some positions."""
        return record_index(positions, self.length, self.seed)


@dataclass(frozen=True)
class Windowed:
    """Every epoch shuffles within a few shards at a time.

    Args:
        order: order of shards and records.
    """

    order: WindowOrder

    @property
    def length(self) -> int:
        """Number of records."""
        return self.order.length

    def rows(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the records at some positions."""
        found = call_python(self.order.rows, (positions,), tf.int64)
        found.set_shape(positions.shape)
        return found


@dataclass(frozen=True)
class Reading:
    """Which batches are read, and by which worker; `image_dataset` describes the arguments.

    Raises:
        ValueError: if an argument is out of range.
    """

    batch_size: int
    seed: int
    first_step: int = 0
    worker: tuple[int, int] = (0, 1)
    parallel_reads: int = tf.data.AUTOTUNE
    repeat: bool = True

    def __post_init__(self) -> None:
        checks.integer("first_step", self.first_step, minimum=0)
        checks.seed(self.seed)
        share_of(self.worker, self.batch_size)

    def dataset(
        self,
        order: Order,
        make: Make,
        columns: Mapping[str, tf.TensorSpec],
        *,
        together: int,
        finish: Callable[[Batch], Batch],
        exactly: Callable[[int], Mapping[str, tf.TensorSpec]] | None = None,
    ) -> tf.data.Dataset:
        """Return the batches.

        Args:
            order: which record comes when.
            make: makes the values of one record.
            columns: names and specs of these values; sides that differ between batches are `None`.
            together: number of records made per call.
            finish: function of a whole batch with the columns, "row" (the records' numbers) and
                "sample" (their positions), called on one batch after the other.
            exactly: function from a record to the columns of its batch, if batches differ.
        """
        share = share_of(self.worker, self.batch_size)
        end = once(self.repeat, order.length, self.first_step, self.batch_size, share.workers)
        # Batches that leave out records are not assembled from groups.
        group = together if self.repeat else self.batch_size
        load = _loader(make, exactly or (lambda row: columns), replace=self.repeat)
        kinds = [*(spec.dtype for spec in columns.values()), tf.int64, tf.int64]

        def place(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            positions = share.positions(start, group)
            return order.rows(positions), positions

        def read(rows: tf.Tensor, positions: tf.Tensor) -> Batch:
            if end is not None:
                kept = (positions < end) & (rows >= 0)
                rows, positions = rows[kept], positions[kept]
            found = call_python(load, (rows, positions), kinds)
            number = group if end is None else None
            for value, shape in zip(
                found, [*(spec.shape for spec in columns.values()), (), ()], strict=True
            ):
                value.set_shape((number, *shape))
            return dict(zip((*columns, "row", "sample"), found, strict=True))

        dataset = share.starts(self.first_step, group, end).map(place)
        dataset = dataset.map(read, num_parallel_calls=self.parallel_reads, deterministic=True)
        if group != self.batch_size:
            dataset = dataset.rebatch(self.batch_size, drop_remainder=True)
        # On whole batches: an encoder is called once for all captions.
        dataset = dataset.map(finish, num_parallel_calls=1)
        return share.told(dataset).prefetch(tf.data.AUTOTUNE)


def _loader(
    make: Make, columns: Callable[[int], Mapping[str, tf.TensorSpec]], *, replace: bool
) -> Any:
    """Function (rows, positions) -> columns, rows, positions. Without `replace`, unusable records
    are left out, as their replacements also come in their own places."""

    def load(rows: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        found = [make(int(row), int(p)) for row, p in zip(rows, positions, strict=True)]
        if not replace:
            kept = [made == row for (_, made), row in zip(found, rows, strict=True)]
            found, positions = list(itertools.compress(found, kept)), positions[kept]
        specs = columns(int(rows[0])).values()
        values = zip(*(value for value, _ in found), strict=True) if found else [()] * len(specs)
        stacked = [_stacked(*pair) for pair in zip(values, specs, strict=True)]
        return (*stacked, np.array([made for _, made in found], np.int64), positions)

    return load


def _stacked(values: tuple[Any, ...], spec: tf.TensorSpec) -> np.ndarray:
    # As objects: bytes of fixed length would lose trailing zeros.
    kind = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
    if not values:
        return np.empty((0, *spec.shape), kind)
    return np.asarray(values, kind) if not spec.shape.rank else np.stack(values)

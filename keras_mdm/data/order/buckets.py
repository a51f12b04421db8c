"""Which record comes when, if each batch must hold records of one bucket only.

Every bucket has its own endless sequence, shuffled as if the bucket were all of the data, and cut
into batches one after the other: records that do not fill a batch at the end of an epoch begin the
first batch of the next. By the end of epoch e, a bucket of n records has had floor(e * n / B)
batches of B. This gives the number of batches of each bucket in an epoch, and the step at which the
epoch begins, so that any step is found without those before it. Within an epoch the buckets are
mixed evenly: the r-th of a bucket's m batches comes at a random place in the r-th of m equal parts.
"""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.data.order.pipeline import record_index
from keras_mdm.data.order.windows import WindowOrder
from keras_mdm.data.python_calls import call_python


class BucketOrder:
    """An order in which each batch holds records of one bucket, a pure function of the position.

    Attributes:
        length: number of positions in one pass. Without `repeat` some of them hold no record, as
            the last batch of each bucket may be smaller.

    Args:
        members: the records of each bucket.
        batch_size: samples per step; position p is sample p % batch_size of step p // batch_size.
        seed: decides the order.
        repeat: whether the order is endless. If not, the rest of each bucket forms a smaller batch.
        shard_sizes: records per shard, if they are read in shards: the buckets then go through the
            shards side by side, `window` shards at a time.
        window: shards that are mixed.

    Example:

    >>> order = BucketOrder([[0, 2, 4], [1, 3, 5]], batch_size=3, seed=0)
    >>> steps = [tf.range(first, first + 3, dtype=tf.int64) for first in (0, 3)]
    >>> sorted(sorted(order.rows(positions).numpy().tolist()) for positions in steps)
    [[0, 2, 4], [1, 3, 5]]
    """

    def __init__(
        self,
        members: Sequence[Sequence[int] | np.ndarray],
        *,
        batch_size: int,
        seed: int,
        repeat: bool = True,
        shard_sizes: Sequence[int] | None = None,
        window: int = 8,
    ):
        self._seed, self._repeat = checks.seed(seed), repeat
        self._batch_size = checks.integer("batch_size", batch_size, minimum=1)
        self._members = [np.asarray(rows, np.int64) for rows in members]
        self._counts = np.array([len(rows) for rows in self._members], np.int64)
        self.length = int((-(-self._counts // batch_size)).sum()) * batch_size
        self._windows = None
        if shard_sizes is not None:
            ends = [np.searchsorted(rows, np.cumsum(shard_sizes)) for rows in self._members]
            sizes = [np.diff(end, prepend=0) for end in ends]
            self._windows = [WindowOrder(size, seed=seed, window=window) for size in sizes]
        # Several batches may be made at a time, from two epochs where one ends.
        self._epoch = functools.lru_cache(maxsize=4)(self._make_epoch)
        # One copy in TensorFlow's memory, rather than one in every graph.
        with tf.device("CPU"):
            self._table = tf.constant(np.concatenate(self._members))

    def rows(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the records at some positions of one step; -1 where there is none."""
        if self._windows is not None:
            found = call_python(self._windowed, (positions,), tf.int64)
            found.set_shape(positions.shape)
            return found
        begin, count, places = call_python(self._places, (positions,), (tf.int64,) * 3)
        begin.set_shape(())
        count.set_shape(())
        places.set_shape(positions.shape)
        found = tf.gather(self._table, begin + record_index(places, count, self._seed))
        return found if self._repeat else tf.where(places < count, found, tf.constant(-1, tf.int64))

    def batch(self, step: int) -> tuple[int, int]:
        """Return the bucket of a step, and how many batches of this bucket came before."""
        epoch = 0
        if self._repeat:  # earlier epochs have at most as many batches as their records fill
            epoch = step * self._batch_size // int(self._counts.sum())
            while self._before(epoch + 1).sum() <= step:
                epoch += 1
        buckets, numbers = self._epoch(epoch)
        place = step - int(self._before(epoch).sum())
        return int(buckets[place]), int(numbers[place])

    def _before(self, epoch: int) -> np.ndarray:
        """Batches of each bucket before an epoch."""
        if self._repeat:
            return epoch * self._counts // self._batch_size
        return min(epoch, 1) * -(-self._counts // self._batch_size)

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Bucket and number of each batch of an epoch."""
        before = self._before(epoch)
        counts = self._before(epoch + 1) - before
        buckets = np.repeat(np.arange(len(counts)), counts)
        ranks = np.arange(len(buckets)) - np.repeat(np.cumsum(counts) - counts, counts)
        # Seed words that the windows do not use.
        drawn = np.random.default_rng([self._seed, epoch, 0, 1]).random(len(buckets))
        order = np.argsort((ranks + drawn) / counts[buckets], kind="stable")
        return buckets[order], (before[buckets] + ranks)[order]

    def _placed(self, positions: np.ndarray) -> tuple[int, np.ndarray]:
        """The bucket of some positions, and their places in its own sequence."""
        bucket, number = self.batch(int(positions[0]) // self._batch_size)
        return bucket, number * self._batch_size + positions % self._batch_size

    def _places(self, positions: np.ndarray) -> tuple[np.int64, np.int64, np.ndarray]:
        bucket, places = self._placed(positions)
        return np.int64(self._counts[:bucket].sum()), self._counts[bucket], places

    def _windowed(self, positions: np.ndarray) -> np.ndarray:
        bucket, places = self._placed(positions)
        there = places < (self._counts[bucket] if not self._repeat else np.iinfo(np.int64).max)
        found = np.full(len(places), -1, np.int64)
        found[there] = self._members[bucket][self._windows[bucket].rows(places[there])]
        return found

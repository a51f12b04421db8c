"""Which record comes when, if shards have to be read as a whole."""

import functools
from collections.abc import Sequence

import numpy as np

from keras_mdm import checks


def place_in(ends: Sequence[int] | np.ndarray, row: int) -> tuple[int, int]:
    """Return which part a row is in, and which row of that part it is.

    Args:
        ends: number of rows up to the end of each part.
        row: number of the row, from 0.

    Example:

    >>> place_in([2, 5], 3)
    (1, 1)
    """
    part = int(np.searchsorted(ends, row, side="right"))
    return part, row - (int(ends[part - 1]) if part else 0)


class WindowOrder:
    """An endless order that visits a few shards at a time, a pure function of the position.

    Every epoch takes the shards in a new order, a window of them at a time, and shuffles the
    records of each window anew. So a reader that keeps a window and the next one in memory reads
    every shard once per epoch.

    Attributes:
        length: number of records.

    Args:
        shard_sizes: records per shard.
        seed: decides the order.
        window: shards that are mixed.

    Example:

    >>> order = WindowOrder([2, 3, 2], seed=0, window=2)
    >>> sorted(order.rows(np.arange(7)).tolist())
    [0, 1, 2, 3, 4, 5, 6]
    """

    def __init__(self, shard_sizes: Sequence[int], *, seed: int, window: int = 8):
        self._sizes = np.asarray(shard_sizes, np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self.length = int(self._sizes.sum())
        self._seed = checks.seed(seed)
        self._window = checks.integer("window", window, minimum=1)
        # A batch may straddle two epochs, and two windows; threads may be a little ahead.
        self._epoch = functools.lru_cache(maxsize=4)(self._make_epoch)
        self._permuted = functools.lru_cache(maxsize=8)(self._make_window)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return the records at some positions of the endless sequence.

        Args:
            positions: int64 (B,).

        Returns:
            int64 (B,).
        """
        return np.fromiter((self._row(int(position)) for position in positions), np.int64)

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, self.length)
        _, ends = self._epoch(epoch)
        window, place = place_in(ends, place)
        return int(self._permuted(epoch, window)[place])

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the shards, and where each window ends."""
        shards = np.random.default_rng([self._seed, epoch]).permutation(len(self._sizes))
        sums = np.cumsum(self._sizes[shards])
        last = np.append(np.arange(self._window, len(shards), self._window), len(shards)) - 1
        return shards, sums[last]

    def _make_window(self, epoch: int, window: int) -> np.ndarray:
        shards = self._epoch(epoch)[0][window * self._window : (window + 1) * self._window]
        rows = np.concatenate(
            [np.arange(self._starts[s], self._starts[s] + self._sizes[s]) for s in shards]
        )
        return np.random.default_rng([self._seed, epoch, window + 1]).permutation(rows)

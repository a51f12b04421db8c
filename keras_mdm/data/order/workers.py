"""Which samples of a batch a worker makes, and where they are in the endless order."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks


@dataclass(frozen=True)
class Share:
    """The samples of every batch that one of several workers makes.

    A worker's pipeline strings together its parts of the steps, so that a batch of the pipeline
    holds the parts of as many steps as there are workers. TensorFlow cuts each such batch into as
    many parts as there are workers, and takes them one after the other.

    Args:
        batch_size: samples per step, over all workers.
        index: number of this worker, from 0.
        workers: number of workers.

    Example:

    >>> Share(6, index=1, workers=3).positions(0, 4).numpy().tolist()
    [2, 3, 8, 9]
    """

    batch_size: int
    index: int = 0
    workers: int = 1

    @property
    def own(self) -> int:
        """Samples per step of this worker."""
        return self.batch_size // self.workers

    def starts(self, first_step: int, count: int, records: int | None = None) -> tf.data.Dataset:
        """Numbers of every `count`-th of the worker's own samples.

        Args:
            first_step: the step to begin with.
            count: samples that are made at a time.
            records: number of records, after which to end; endless by default.
        """
        last = np.iinfo(np.int64).max // 2**20  # positions may be larger by this factor
        return tf.data.Dataset.range(first_step * self.own, records or last, count)

    def positions(self, start: tf.Tensor | int, count: int) -> tf.Tensor:
        """Positions, in the order of all samples, of some of the worker's own.

        Args:
            start: number of the first one.
            count: how many.

        Returns:
            int64 (count,).
        """
        place = tf.cast(start, tf.int64) + tf.range(count, dtype=tf.int64)
        return place // self.own * self.batch_size + self.index * self.own + place % self.own

    def told(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, marked so that TensorFlow does not shard them again."""
        if self.workers == 1:
            return dataset
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return dataset.with_options(options)


def share_of(worker: Any, batch_size: int) -> Share:
    """Return the share of a worker.

    Args:
        worker: (index, number), as `keras_mdm.distribute.worker` returns it.
        batch_size: samples per step, over all workers.

    Raises:
        ValueError: if `worker` is not such a pair, or the number does not divide the batch size.
    """
    batch_size = checks.integer("batch_size", batch_size, minimum=1)
    pair = isinstance(worker, tuple) and len(worker) == 2 and all(map(checks.is_int, worker))
    if not pair or not 0 <= worker[0] < worker[1] or batch_size % worker[1]:
        raise checks.error(
            "`worker` must be (index, number), the number a divisor of the batch size",
            fix="pass keras_mdm.distribute.worker(), or leave it out",
            worker=worker,
            batch_size=batch_size,
        )
    return Share(batch_size, *worker)


def once(
    repeat: bool, records: int, first_step: int, batch_size: int, workers: int = 1
) -> int | None:
    """Return after how many records a dataset ends: `None` for an endless one.

    Args:
        repeat: whether the dataset is endless.
        records: number of records.
        first_step: the step of the first batch.
        batch_size: samples per step.
        workers: number of workers among which batches are divided.

    Raises:
        ValueError: if the dataset would be empty, or workers would divide batches of different
            sizes.
    """
    if not isinstance(repeat, bool):
        raise checks.error("`repeat` must be a bool", fix="pass True or False", repeat=repeat)
    if repeat:
        return None
    if workers > 1 or first_step * batch_size >= records:
        raise checks.error(
            "with repeat=False every worker must read all batches, and there must be one",
            fix="leave worker out, and pass an earlier first_step",
            workers=workers,
            first_step=first_step,
            records=records,
        )
    return records


def fraction(seed: int, purpose: str, position: int) -> float:
    """A number in [0, 1), determined by seed, purpose and position."""
    digest = hashlib.sha256(f"{seed} {purpose} {int(position)}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56

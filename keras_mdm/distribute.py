"""The distribution strategy that a process should train under."""

import json
import os
from collections.abc import Callable

import tensorflow as tf

from keras_mdm import checks


def strategy() -> tf.distribute.Strategy:
    """Return the strategy for the available devices and workers.

    With several workers in `TF_CONFIG` (`keras-mdm launch` sets it), all their devices train one
    model. Otherwise all GPUs of the machine do, or, without a GPU, all logical CPU devices. A
    single device gets the default strategy.

    Call it before anything else uses TensorFlow: with several workers, this call connects them.

    Returns:
        A `MultiWorkerMirroredStrategy`, a `MirroredStrategy`, or the default strategy.

    Raises:
        ValueError: if `TF_CONFIG` is not JSON with a cluster.

    Example:

    ```python
    strategy = keras_mdm.distribute.strategy()
    model = keras_mdm.fit_progressively(phases, make_model, make_dataset, run_dir="runs/x",
                                        strategy=strategy)
    ```
    """
    if workers() > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def workers() -> int:
    """Number of workers that `TF_CONFIG` names; 1 without it."""
    written = os.environ.get("TF_CONFIG")
    if not written:
        return 1
    try:
        cluster = json.loads(written)["cluster"]
        return max(1, len(cluster.get("worker", ())) + len(cluster.get("chief", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise checks.error(
            "`TF_CONFIG` must be JSON with a cluster of workers",
            fix="start the processes with keras-mdm launch, or unset the variable",
            TF_CONFIG=written,
        ) from None


def worker(*batch_sizes: int) -> tuple[int, int]:
    """Return this worker's index and the number of workers, so that a pipeline reads only its part.

    Args:
        *batch_sizes: global batch sizes of the groups. Unless all are multiples of the number of
            replicas, each worker has to read whole batches, and the result is (0, 1).

    Returns:
        (index, number of workers) from `TF_CONFIG`; (0, 1) without it.

    Example:

    >>> worker(512)
    (0, 1)
    """
    count = workers()
    if count == 1:
        return 0, 1
    # `MultiWorkerMirroredStrategy` uses all GPUs of a machine, or one CPU device.
    replicas = count * max(1, len(tf.config.list_physical_devices("GPU")))
    if any(batch_size % replicas for batch_size in batch_sizes):
        return 0, 1
    written = json.loads(os.environ["TF_CONFIG"])
    task = written.get("task", {})
    chiefs = len(written["cluster"].get("chief", ()))
    index = int(task.get("index", 0))
    return (index if task.get("type") == "chief" else chiefs + index), count


def is_chief(chosen: tf.distribute.Strategy | None = None) -> bool:
    """Whether this process writes the files: worker 0, or the only one.

    Args:
        chosen: the training's strategy; unless given, `TF_CONFIG` decides.

    Returns:
        `True` without several workers.
    """
    if chosen is None:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    else:
        resolver = chosen.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def barrier(chosen: tf.distribute.Strategy) -> None:
    """Wait until all workers get here; a single worker does not wait.

    Args:
        chosen: the strategy that is trained under.
    """
    if not isinstance(chosen, tf.distribute.MultiWorkerMirroredStrategy):
        return

    def meet() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.ones(()))

    chosen.run(tf.function(meet, autograph=False))


def agreement(chosen: tf.distribute.Strategy) -> Callable[[bool], bool] | None:
    """Return a function that tells each worker whether any said yes; `None` for a single worker.

    Args:
        chosen: the strategy that is trained under. All workers must call the function at the same
            places.
    """
    if not isinstance(chosen, tf.distribute.MultiWorkerMirroredStrategy):
        return None

    @tf.function(autograph=False)
    def total(mine: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        # An operation has a device to send from; an argument has none.
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(mine))

    def ask(mine: bool) -> bool:
        found = chosen.run(total, args=(tf.constant(float(mine)),))
        return bool(chosen.experimental_local_results(found)[0] > 0.0)

    return ask

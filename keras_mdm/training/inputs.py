"""The data that `fit`, `evaluate` and `train_on_batch` take: batches by name from Keras' forms."""

import dataclasses
import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.training import arrays, remainder
from keras_mdm.training.naming import Naming
from keras_mdm.training.shapes import shaped
from keras_mdm.training.untuned import untuned

BATCH_SIZE = 32  # Keras' own
# Streams that end at the last 64-bit number are endless.
ENDLESS = 2**31


def is_endless(data: Any) -> bool:
    """Whether `data` is a dataset that calls itself endless."""
    if not isinstance(data, tf.data.Dataset):
        return False
    size = int(data.cardinality())
    return size == tf.data.INFINITE_CARDINALITY or size > ENDLESS


def check_ends(data: Any, steps: int | None, *, argument: str, steps_name: str) -> None:
    """Raise if an evaluation of this data would never end.

    Args:
        data: the argument.
        steps: number of batches to use, if given.
        argument: name of the data.
        steps_name: name of the argument for `steps`.
    """
    if steps is None and is_endless(data):
        raise checks.error(
            f"`{argument}` must be finite",
            fix=f"make the dataset with repeat=False, end it with .take(batches), or pass "
            f"{steps_name}",
            batches=int(data.cardinality()),
            **{steps_name: None},
        )


@dataclasses.dataclass(frozen=True)
class Inputs:
    """How a model takes data.

    Args:
        model: a `MatryoshkaDiffusion`.
        class_weight: weight of every class's samples; 1 for classes that are not named.
    """

    model: Any
    class_weight: Mapping[int, float] | None = None

    @property
    def parts(self) -> int:
        """Parts that every batch is cut into."""
        return self.model.distribute_strategy.num_replicas_in_sync * self.model.micro_batches

    def batches(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | None = None,
        shuffle: bool = False,
    ) -> Any:
        """Return the batches that Keras' own loop iterates over.

        Args:
            x: pictures `(n, H, W, C)` or clips; a dict of arrays; a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or a generator of batches, each a dict, pictures, or a pair
                or triple as here; or a distributed dataset of dicts, which is passed on.
            y: see `naming.Naming`; for arrays only.
            sample_weight: `(n,)`; for arrays only.
            batch_size: samples of a batch of arrays, over all replicas; 32 unless given.
            shuffle: whether arrays come in a new order in every epoch.

        Raises:
            ValueError: if these do not fit each other or the network.
        """
        naming = Naming(self.model, self.class_weight)
        if arrays.is_arrays(x):
            element = arrays.element(x, y, sample_weight)
            naming.check(element)
            rows = arrays.rows(element)
            size = min(rows, checks.integer("batch_size", batch_size or BATCH_SIZE, minimum=1))
            dataset = arrays.slices(element, size, seed=self._order_seed() if shuffle else None)
            return self._prepared(dataset, naming, full=size)
        given = {"y": y, "sample_weight": sample_weight}
        given = {name: type(value).__name__ for name, value in given.items() if value is not None}
        if given:
            raise checks.error(
                "`y` and `sample_weight` belong to arrays; a dataset or generator yields them",
                fix="let it yield (x, y) or (x, y, sample_weight)",
                x=type(x).__name__,
                **given,
            )
        if isinstance(x, tf.data.Dataset):
            return self._prepared(x, naming)
        if isinstance(x, keras.utils.PyDataset):
            return _NamedBatches(x, self._one(naming))
        if inspect.isgenerator(x):
            return self._prepared(_generated(x), naming)
        if not isinstance(x, tf.distribute.DistributedDataset) or self.class_weight is not None:
            raise checks.error(
                "data must be arrays, a tf.data.Dataset, a PyDataset or a generator, or a "
                "distributed dataset without `class_weight`",
                fix="pass x=pictures, y=classes, or a dataset of dicts",
                x=type(x).__name__,
            )
        return x

    def one_batch(self, x: Any, y: Any, sample_weight: Any) -> tf.data.Dataset:
        """Return the dataset of one batch; arguments as in `batches`, arrays only."""
        if not arrays.is_arrays(x):
            raise checks.error(
                "one batch must be arrays, or a dict of arrays",
                fix="pass pictures, or an element of the dataset",
                x=type(x).__name__,
            )
        naming = Naming(self.model, self.class_weight)
        element = arrays.element(x, y, sample_weight)
        naming.check(element)
        dataset = tf.data.Dataset.from_tensors(element).map(_as_written(naming))
        levels = self.model.unet.levels
        return distributed(remainder.filled(dataset, levels, self.parts))

    def split(
        self, x: Any, y: Any, sample_weight: Any, share: float
    ) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
        """Keras' `validation_split`: (first part, last part) of arrays.

        Args:
            x: arrays, like `y` and `sample_weight`.
            share: of the last part.
        """
        if not arrays.is_arrays(x):
            raise checks.error(
                "`validation_split` belongs to arrays",
                fix="pass validation_data",
                x=type(x).__name__,
                validation_split=share,
            )
        whole = arrays.element(x, y, sample_weight)
        rows = arrays.rows(whole)
        first = int(rows * (1.0 - checks.real("validation_split", share, minimum=0.0, maximum=1.0)))
        if not 0 < first < rows:
            raise checks.error(
                "both parts of `validation_split` must hold a sample",
                fix="pass another share, or more samples",
                validation_split=share,
                samples=rows,
            )
        cut = tf.nest.map_structure
        parts = cut(lambda v: v[:first], whole), cut(lambda v: v[first:], whole)
        return tuple(unpack(part) for part in parts)

    def _prepared(
        self, dataset: tf.data.Dataset, naming: Naming, *, full: int | None = None
    ) -> tf.data.Dataset:
        policy = tf.data.experimental.AutoShardPolicy
        shared_out = dataset.options().experimental_distribute.auto_shard_policy == policy.OFF
        if naming.needed(dataset.element_spec):
            dataset = dataset.map(_as_written(naming), num_parallel_calls=1)
        dataset = shaped(dataset, self.model)
        # Of a batch that is shared out already, a worker's part does not tell the whole size.
        if not shared_out:
            dataset = remainder.filled(dataset, self.model.unet.levels, self.parts, full=full)
        return distributed(dataset)

    def _one(self, naming: Naming) -> Any:
        """Return a function that names and fills one batch made by Python."""
        levels, largest = self.model.unet.levels, {}

        def one(element: Any) -> dict[str, Any]:
            element = element if isinstance(element, tuple) else (element,)
            with tf.device("CPU"):
                element = tf.nest.map_structure(tf.convert_to_tensor, arrays.as_arrays(element))
                batch = naming(*element)
                return remainder.filled_batch(batch, largest, levels, self.parts)

        return one

    def _order_seed(self) -> int:
        """Seed of the order of arrays; every `fit` has another."""
        return (self.model.seed * 1_000_003 + int(self.model.optimizer.iterations.numpy())) % 2**31


def distributed(data: Any) -> Any:
    """Have every worker take its part of each global batch, in the order of the dataset; by
    default TensorFlow would share out files. Also turn off the tuning of the pipeline.

    Args:
        data: a dataset; all else is returned as it is.
    """
    if not isinstance(data, tf.data.Dataset):
        return data
    data, policy = untuned(data), tf.data.experimental.AutoShardPolicy
    if data.options().experimental_distribute.auto_shard_policy == policy.OFF:
        return data  # it holds this worker's part already
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy.DATA
    return data.with_options(options)


def unpack(data: Any) -> tuple[Any, Any, Any]:
    """(x, y, sample_weight) of validation data, which may be a tuple of two or three.

    Args:
        data: as in `keras.Model.fit`.
    """
    if not isinstance(data, tuple | list):
        return data, None, None
    if len(data) not in (1, 2, 3):
        raise checks.error(
            "`validation_data` must be data, or a tuple (x, y) or (x, y, sample_weight)",
            fix="pass the arrays or the dataset",
            entries=len(data),
        )
    return (*data, *([None] * (3 - len(data))))


def _as_written(naming: Naming) -> Any:
    """Without AutoGraph, which would reword its errors."""
    return tf.autograph.experimental.do_not_convert(lambda *element: naming(*element))


def _generated(generator: Iterator[Any]) -> tf.data.Dataset:
    """The dataset of a generator's elements. The first one tells the types; numbers of samples and
    tokens may change."""
    first = next(generator, None)
    if first is None:
        raise checks.error("a generator must yield a batch", fix="make a new one", batches=0)

    def spec(value: Any) -> tf.TensorSpec:
        value = tf.convert_to_tensor(arrays.as_array(value))
        # The number of rows is open, and outside pictures the number of tokens.
        fixed = value.shape[1:] if len(value.shape) > 3 else [None, *value.shape[2:]]
        shape = [None, *fixed][: len(value.shape)]
        return tf.TensorSpec(shape, value.dtype)

    def elements() -> Iterator[Any]:
        for element in itertools.chain([first], generator):
            yield arrays.as_arrays(element)

    signature = tf.nest.map_structure(spec, first)
    return tf.data.Dataset.from_generator(elements, output_signature=signature)


class _NamedBatches(keras.utils.PyDataset):
    """A `PyDataset` that names and fills the batches of another one."""

    def __init__(self, dataset: keras.utils.PyDataset, one: Any):
        if dataset.use_multiprocessing:
            raise checks.error(
                "a PyDataset must make its batches in this process",
                fix="pass workers=N without use_multiprocessing, or yield from tf.data",
                use_multiprocessing=True,
            )
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self._dataset, self._one = dataset, one

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._one(self._dataset[index])

    @property
    def num_batches(self) -> int | None:
        return self._dataset.num_batches

    def on_epoch_begin(self) -> None:
        self._dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._dataset.on_epoch_end()

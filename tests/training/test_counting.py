"""A step that is counted was made: data that ends within an execution, or unexpectedly."""

import contextlib
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, make_batch, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.callbacks import StepCallback
from keras_mdm.optimizers import SGD
from keras_mdm.tracing import SharedTrace
from keras_mdm.training import steps

BATCHES = 10


def dataset(*, known):
    rng = np.random.default_rng(0)
    batches = [make_batch(rng, 4, size=8, text=False) for _ in range(BATCHES)]
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), batches[0])
    made = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=specs)
    return made.apply(tf.data.experimental.assert_cardinality(BATCHES)) if known else made


def make_model(steps_per_execution=1, **options):
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    model.compile(SGD(0.1), steps_per_execution=steps_per_execution, **options)
    return model


class Count(StepCallback):
    def on_step_end(self, previous_step, logs):
        self.seen = self.step


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    ("steps_per_execution", "known"),
    [(4, True), (4, False), *(pytest.param(1, k, marks=pytest.mark.slow) for k in (True, False))],
)
def test_steps_are_those_that_were_made(steps_per_execution, known):
    model, count = make_model(steps_per_execution), Count()
    for epochs in (1, 2, 3):
        model.fit(dataset(known=known), epochs=1, verbose=0, callbacks=[count])
        assert int(model.optimizer.iterations.numpy()) == BATCHES * epochs == count.seen
        assert int(model.optimizer.state()["updates/" + model.unet.variables[0].path]) == (
            BATCHES * epochs
        )


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_and_on_two_replicas(two_replicas):
    with two_replicas.scope():
        model = make_model(4)
    model.fit(dataset(known=False), epochs=2, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 2 * BATCHES


def test_the_network_is_traced_once_for_all_replicas(two_replicas, monkeypatch):
    calls = []
    original = steps._backward

    def counted(model, *args):
        calls.append(tf.distribute.get_replica_context().replica_id_in_sync_group)
        return original(model, *args)

    monkeypatch.setattr(steps, "_backward", counted)
    for strategy, options in ((None, {}), (two_replicas, {}), (two_replicas, {"micro_batches": 2})):
        calls.clear()
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = make_model(**options)
        model.fit(dataset(known=True).take(2), verbose=0)
        assert len(calls) == 1


def test_what_replicas_share_must_not_know_the_step_that_traces_it(two_replicas):
    def step(x):
        return SharedTrace(lambda y: x + y, list)(x)

    with pytest.raises(ValueError, match="must not use tensors of the step"):
        tf.function(lambda: two_replicas.run(step, (tf.ones(()),)), autograph=False)()


def test_replicas_on_one_processor_compute_one_after_the_other(two_replicas):
    """At once they would need the memory of both, and be no faster."""
    shared = SharedTrace(lambda x: 2.0 * x, list)

    @tf.function
    def step():
        return two_replicas.run(lambda: shared(tf.ones(())))

    operations = step.get_concrete_function().graph.get_operations()
    first, second = (e for e in operations if e.type.endswith("PartitionedCall"))
    assert first in second.control_inputs


@pytest.mark.parametrize(("asked", "given"), [(None, False), (True, True), (False, False)])
def test_a_pipeline_is_not_tuned_while_it_runs(asked, given, monkeypatch):
    """The thread that tunes sleeps for up to a minute, and freeing its iterator waits for that."""
    seen = []

    def fit(self, data, **_):
        seen.append(data.options().autotune.enabled)

    monkeypatch.setattr(keras.Model, "fit", fit)
    data, options = dataset(known=True), tf.data.Options()
    if asked is not None:
        options.autotune.enabled = asked
    make_model().fit(data.with_options(options))
    assert seen == [given]


@pytest.mark.slow
def test_the_end_of_fit_waits_for_nothing(two_replicas):
    """After 25 s the threads that tune would sleep for another 15 s."""

    class Slow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(2.5)
            self.last = time.monotonic()

    slow = Slow()
    with two_replicas.scope():
        model = make_model()
    data = dataset(known=True).map(lambda batch: batch, num_parallel_calls=tf.data.AUTOTUNE)
    model.fit(data.prefetch(tf.data.AUTOTUNE), verbose=0, callbacks=[slow])
    del data
    assert time.monotonic() - slow.last < 3.0

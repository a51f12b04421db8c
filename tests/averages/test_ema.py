import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.averages.ema import ExponentialMovingAverage


def weight(value, name="w"):
    return keras.Variable(np.asarray(value, "float32"), name=name)


def values(steps, shape=(3,)):
    return np.random.default_rng(0).normal(size=(steps, *shape)).astype("float32")


def test_constant_decay_in_closed_form():
    w, sequence, d = weight(np.ones(3)), values(20), 0.8
    ema = ExponentialMovingAverage([w], decay=d, warmup=False)
    for step, value in enumerate(sequence):
        w.assign(value)
        ema.update(step)
    powers = d ** np.arange(19, -1, -1)[:, None]
    want = d**20 * np.ones(3) + (1 - d) * np.sum(powers * sequence, axis=0)
    np.testing.assert_allclose(ema.averages[0], want, atol=1e-6)


def test_warmup_forgets_the_start():
    # With d = (1+n)/(10+n) the weight of the start is prod d, which falls like n^-9.
    w = weight(np.ones(3))
    ema = ExponentialMovingAverage([w], decay=0.9999)
    w.assign(np.zeros(3))
    product = 1.0
    update = tf.function(ema.update)
    for n in range(50):
        update(tf.constant(n))
        product *= (1 + n) / (10 + n)
    np.testing.assert_allclose(ema.averages[0], product, rtol=1e-4)
    assert product < 1e-8


def test_decay_at():
    w = weight(np.ones(3))
    ema = ExponentialMovingAverage([w], decay=0.9999)
    n = np.array([0, 1, 90, 89_990, 10**7])
    np.testing.assert_allclose(ema.decay_at(n), np.minimum(0.9999, (1 + n) / (10 + n)), rtol=1e-6)
    np.testing.assert_array_equal(
        ExponentialMovingAverage([w], decay=0.5, warmup=False, copy_steps=2).decay_at([0, 1, 2]),
        [0.0, 0.0, 0.5],
    )


def test_does_not_disturb_the_weights():
    w = weight(np.ones(3))
    ema = ExponentialMovingAverage([w], decay=0.5, warmup=False)
    ema.averages[0].assign_add(np.full(3, 4.0))
    ema.update(0)
    np.testing.assert_array_equal(w, np.ones(3))
    np.testing.assert_array_equal(ema.averages[0], np.full(3, 3.0))
    w.assign(np.full(3, 7.0))
    ema.reset()
    w.assign(np.zeros(3))
    np.testing.assert_array_equal(ema.averages[0], np.full(3, 7.0))


def test_bfloat16_weights_have_float32_averages():
    w = keras.Variable(np.ones(2, "float32"), dtype="bfloat16")
    ema = ExponentialMovingAverage([w], decay=0.999, warmup=False)
    w.assign(np.zeros(2))
    ema.update(0)
    np.testing.assert_allclose(ema.averages[0], 0.999, rtol=1e-6)  # bfloat16 would give 1.0


def test_later_weights_count_from_their_own_start():
    old, new = weight(np.ones(3), "old"), weight(np.ones(2), "new")
    first = ExponentialMovingAverage([old], decay=0.9)
    for step in range(4):
        old.assign(values(8)[step])
        first.update(step)
    saved = {key: np.array(np.asarray(value)) for key, value in first.state().items()}
    grown = ExponentialMovingAverage([new, old], decay=0.9)
    with pytest.raises(ValueError, match=r"missing=\['average/new', 'start/new'\]"):
        grown.set_state(saved)
    new.assign([5.0, 6.0])
    assert grown.set_state(saved, new_start=4) == ["new"]
    np.testing.assert_array_equal(grown.averages[0], [5.0, 6.0])
    assert grown.starts == [4, 0]
    want_old, want_new = np.asarray(grown.averages[1]), np.array([5.0, 6.0])
    for step in range(4, 8):
        old.assign(values(8)[step])
        new.assign(values(8)[step][:2])
        grown.update(step)
        d_old, d_new = ((1 + n) / (10 + n) for n in (step, step - 4))
        want_old = d_old * want_old + (1 - d_old) * values(8)[step]
        want_new = d_new * want_new + (1 - d_new) * values(8)[step][:2]
    np.testing.assert_allclose(grown.averages[1], want_old, atol=1e-6)
    np.testing.assert_allclose(grown.averages[0], want_new, atol=1e-6)
    # And the starts survive a restart.
    again = ExponentialMovingAverage([new, old], decay=0.9)
    again.set_state({key: np.asarray(value) for key, value in grown.state().items()})
    assert again.starts == [4, 0]


def test_replica_copies_are_equal_and_equal_to_one_device(two_replicas):
    def train(strategy):
        with strategy.scope():
            w = weight(np.zeros(3))
            ema = ExponentialMovingAverage([w], decay=0.9)

        def replica_step(step):
            # As an optimizer leaves them: the same value on both replicas.
            merge = tf.__internal__.distribute.interim.maybe_merge_call
            new = tf.gather(tf.constant(values(6)), step)
            merge(
                lambda s, v: s.extended.update(w.value, lambda c, x: c.assign(x), args=(v,)),
                tf.distribute.get_strategy(),
                new,
            )
            ema.update(step)

        for step in range(6):
            tf.function(strategy.run)(replica_step, args=(tf.constant(step),))
        value = ema.averages[0].value
        return [np.asarray(part) for part in getattr(value, "values", [value])]

    (single,) = train(tf.distribute.get_strategy())
    first, second = train(two_replicas)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, single)
    assert np.max(np.abs(single)) > 0.1


def test_differences_are_taken_when_they_are_needed():
    """Those of frozen weights wait for nothing else: all would be kept through the whole step."""
    frozen = [keras.Variable(np.ones((8, 8), "float32"), trainable=False) for _ in range(3)]
    ema = ExponentialMovingAverage(frozen)

    def step(late):
        ema.update(tf.constant(1, tf.int64), late)
        return late

    traced = tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec((), tf.float32))
    differences = [op for op in traced.graph.get_operations() if op.type == "Sub"]
    differences = [op for op in differences if op.outputs[0].shape == (8, 8)]
    assert len(differences) == 3
    (late,) = traced.inputs[:1]
    for op in differences:
        before, waiting = set(), [op]
        while waiting:
            found = waiting.pop()
            if found not in before:
                before.add(found)
                waiting += [each.op for each in found.inputs] + list(found.control_inputs)
        assert late.op in before

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.optimizers.learning_rates import Warmup, WarmupCosine


def test_warmup_is_the_released_rule():
    peak, warmup = 5e-5, 10_000
    steps = np.array([0, 1, 2, 5000, 9999, 10_000, 10_001, 10**7])
    want = [peak * (max(1, k) / warmup if k < warmup else 1.0) for k in steps.tolist()]
    schedule = Warmup(peak, warmup)
    np.testing.assert_allclose(schedule(steps), want, rtol=1e-6)
    # One by one, as int64 variables and inside a graph: the same float32 numbers.
    traced = tf.function(schedule)
    for k, value in zip(steps, want, strict=True):
        variable = keras.Variable(int(k), dtype="int64", trainable=False)
        for got in (schedule(int(k)), schedule(variable), traced(tf.constant(k, tf.int64))):
            assert got.dtype == tf.float32
            assert float(got) == pytest.approx(value, rel=1e-6)


def test_no_warmup():
    np.testing.assert_array_equal(Warmup(0.5, 0)(np.arange(3)), [0.5] * 3)


@pytest.mark.parametrize(
    "make", [lambda s: Warmup(0.3, 5, start=s), lambda s: WarmupCosine(0.3, 5, 20, 0.1, start=s)]
)
def test_start_shifts_the_clock(make):
    steps = np.arange(40)
    np.testing.assert_array_equal(make(1000)(steps + 1000), make(0)(steps))
    # Beyond 2**24, where float32 steps would run together.
    far = 2**26
    np.testing.assert_array_equal(make(far)(steps.astype("int64") + far), make(0)(steps))


def test_cosine_in_closed_form_and_continuous():
    schedule = WarmupCosine(2.0, 10, 110, 0.25)
    for k in (10, 35, 60, 85, 110, 111, 9999):
        progress = min((k - 10) / 100, 1.0)
        want = 2.0 * (0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi * progress)))
        assert float(schedule(k)) == pytest.approx(want, rel=1e-5)
    np.testing.assert_array_equal(schedule(np.arange(10)), Warmup(2.0, 10)(np.arange(10)))
    assert np.max(np.abs(np.diff(schedule(np.arange(10, 200))))) < 2.0 * math.pi / 100


def test_each_variable_has_its_own_warmup():
    schedule = Warmup(1.0, 10)
    np.testing.assert_allclose(schedule.per_variable(500, np.array([500, 3, 0])), [1, 0.3, 0.1])
    # A phase start makes all of them warm up again, but none beyond its own count.
    restarted = Warmup(1.0, 10, start=496)
    np.testing.assert_allclose(restarted.per_variable(500, np.array([500, 3, 0])), [0.4, 0.3, 0.1])
    # The cosine follows the common clock.
    cosine = WarmupCosine(1.0, 10, 510)
    rates = np.asarray(cosine.per_variable(260, np.array([260, 5])))
    np.testing.assert_allclose(rates, float(cosine(260)) * np.array([1.0, 0.5]), rtol=1e-6)


@pytest.mark.parametrize(
    "schedule", [Warmup(0.3, 7, start=2), WarmupCosine(0.3, 7, 9, 0.2, start=4)]
)
def test_config_round_trip(schedule):
    serialize = keras.optimizers.schedules.serialize
    again = keras.optimizers.schedules.deserialize(serialize(schedule))
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()


def test_refuses_a_cosine_that_ends_before_the_warmup():
    with pytest.raises(ValueError, match="total_steps=5"):
        WarmupCosine(1.0, 5, 5)

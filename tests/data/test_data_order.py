"""The order over shards: each epoch a permutation, within a few shards at a time."""

import numpy as np
import pytest

from keras_mdm.data.order.windows import WindowOrder

SIZES = [5, 1, 7, 3, 4, 6, 2]
TOTAL = sum(SIZES)


def epochs(window, count=3, seed=0):
    order = WindowOrder(SIZES, seed=seed, window=window)
    return order.rows(np.arange(count * TOTAL)).reshape(count, TOTAL)


@pytest.mark.parametrize("window", [1, 3, 7, 20])
def test_every_epoch_is_another_permutation(window):
    found = epochs(window)
    assert all(sorted(epoch) == list(range(TOTAL)) for epoch in found.tolist())
    assert len({tuple(epoch) for epoch in found.tolist()}) == 3
    assert np.any(found != epochs(window, seed=1))


def test_it_visits_a_few_shards_at_a_time():
    shard = np.repeat(np.arange(len(SIZES)), SIZES)
    for epoch in epochs(3):
        seen = shard[epoch]
        first = [np.flatnonzero(seen == s)[0] for s in range(len(SIZES))]
        last = [np.flatnonzero(seen == s)[-1] for s in range(len(SIZES))]
        open_at_once = [
            sum(f <= place <= e for f, e in zip(first, last, strict=True)) for place in range(TOTAL)
        ]
        assert max(open_at_once) == 3
        inside = seen[: sum(SIZES[s] for s in np.argsort(first)[:3])]
        assert np.any(np.diff(inside) != 0) and len(set(inside)) == 3  # mixed, not one by one


def test_any_position_by_itself():
    whole = epochs(2).ravel()
    order = WindowOrder(SIZES, seed=0, window=2)
    rng = np.random.default_rng(0)
    for _ in range(20):
        places = rng.integers(0, 3 * TOTAL, 5)
        np.testing.assert_array_equal(order.rows(places), whole[places])


def test_arguments():
    with pytest.raises(ValueError, match="window=0"):
        WindowOrder(SIZES, seed=0, window=0)

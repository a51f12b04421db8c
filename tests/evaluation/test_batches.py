"""Whole batches: one shape for the network, whatever the number of pictures."""

import numpy as np
import pytest

from keras_mdm.evaluation.batches import checked, in_batches


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_items_come_in_order_and_in_one_shape(count):
    seen = []

    def network(items):
        seen.append(tuple(items.shape))
        return 2 * items

    items = np.arange(2.0 * count).reshape(count, 2)
    found = in_batches(network, items, 4, 2)
    np.testing.assert_array_equal(found, 2 * items)
    assert found.dtype == np.float32 and found.shape == (count, 2)
    assert seen == [(4, 2)] * -(-count // 4)


def test_pictures_and_clips_are_told_apart():
    pictures, clips = np.zeros((2, 4, 4, 3), "uint8"), np.zeros((2, 5, 4, 4, 3), "uint8")
    assert checked(pictures) is pictures and checked(clips, clips=True) is clips
    for wrong in (clips, pictures[..., :1], pictures / 255, pictures[0]):
        with pytest.raises(ValueError, match=r"pictures must be uint8 \(B, H, W, 3\). Received"):
            checked(wrong)
    with pytest.raises(ValueError, match=r"clips must be uint8 \(B, F, H, W, 3\). Received"):
        checked(pictures, clips=True)

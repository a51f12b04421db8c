"""Moving emoji: every drawing with every motion, drawn once, split by pairs."""

import numpy as np
import pytest

from keras_mdm import assets
from keras_mdm.data import load_moving_emoji


@pytest.fixture(scope="module")
def options():
    if not assets.is_fetched("emoji"):
        pytest.skip("needs `keras-mdm assets fetch emoji`")
    pytest.importorskip("resvg_py")
    names = ("red apple", "pizza", "panda")
    return {"sizes": (8, 32), "frames": 4, "concepts": names, "progress": False}


def test_every_drawing_moves_in_every_way(options):
    motions = ("moving right", "growing")
    data = load_moving_emoji(motions=motions, **options)
    assert data.clips[32].shape == (6, 4, 32, 32, 3) and data.clips[8].shape == (6, 4, 8, 8, 3)
    assert set(data.captions) == {f"{n} {m}" for n in options["concepts"] for m in motions}
    averaged = data.clips[32].reshape(6, 4, 8, 4, 8, 4, 3).mean(axis=(3, 5))
    assert np.max(np.abs(averaged - data.clips[8])) <= 1.0  # rounded once more
    row = data.captions.index("pizza moving right")
    dark = 255.0 - data.clips[32][row].mean(axis=-1)
    centre = (dark * (np.arange(32) + 0.5)).sum((1, 2)) / dark.sum((1, 2))
    np.testing.assert_allclose(np.diff(centre), 0.48 * 32 / 3, atol=0.7)
    again = load_moving_emoji(motions=motions, **options)  # from the cache
    np.testing.assert_array_equal(again.clips[32], data.clips[32])
    assert again.identity == data.identity


def test_pairs_are_held_out_and_their_parts_are_not(options):
    options = {**options, "concepts": 12, "frames": 2, "sizes": 8}
    kept, held = (load_moving_emoji(split=split, **options) for split in ("train", "validation"))
    assert len(kept) + len(held) == 12 * 8 and 3 <= len(held) <= 24
    assert not set(kept.captions) & set(held.captions)
    assert set(held.names) <= set(kept.names) and set(held.motions) <= set(kept.motions)


@pytest.mark.parametrize(
    "wrong", [{"motions": ["flying"]}, {"motions": []}, {"frames": 1}, {"split": "test"}], ids=str
)
def test_bad_input(options, wrong):
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        load_moving_emoji(**{**options, **wrong})

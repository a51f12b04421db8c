import math

import numpy as np
import pytest

from keras_mdm.evaluation.retrieval import area_average, retrieval


def drawings(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype="uint8")


def test_area_average_is_block_mean_and_keeps_the_mean():
    images = drawings(3, 32)
    blocks = images.reshape(3, 16, 2, 16, 2, 3).astype("float64").mean(axis=(2, 4))
    np.testing.assert_allclose(area_average(images, 16), blocks)
    # 20 is no multiple of 16: cells cover fractions of pixels.
    odd = drawings(2, 20)
    averaged = area_average(odd, 16)
    np.testing.assert_allclose(averaged.mean(axis=(1, 2)), odd.mean(axis=(1, 2)))
    want = (odd[:, 0].astype(float) + 0.25 * odd[:, 1]) / 1.25  # rows of the first cell
    want = (want[:, 0] + 0.25 * want[:, 1]) / 1.25
    np.testing.assert_allclose(averaged[:, 0, 0], want)


def test_copies_are_found_at_other_sizes_too():
    gallery = drawings(30)
    large = gallery.repeat(2, axis=1).repeat(2, axis=2)
    record = retrieval(large, range(30), gallery, range(30))
    assert record.share == {1: 1.0, 5: 1.0} and record.standard_error == {1: 0.0, 5: 0.0}
    assert record.chance == {1: pytest.approx(1 / 30), 5: pytest.approx(5 / 30)}


def test_equals_a_loop_and_chunks_do_not_show(monkeypatch):
    gallery, images = drawings(40), drawings(25, 48, seed=1)
    concepts = np.arange(40) % 13
    targets = np.random.default_rng(2).integers(0, 13, 25)
    record = retrieval(images, targets, gallery, concepts, size=8, k=(1, 3, 10))
    small, other = area_average(images, 8), area_average(gallery, 8)
    hits = {1: 0, 3: 0, 10: 0}
    for image, target in zip(small, targets, strict=True):
        order = np.argsort([np.sum((image - drawing) ** 2) for drawing in other])
        for k in hits:
            hits[k] += target in concepts[order[:k]]
    assert record.share == {k: pytest.approx(n / 25) for k, n in hits.items()}
    p = record.share[10]
    assert record.standard_error[10] == pytest.approx(math.sqrt(p * (1 - p) / 25))
    monkeypatch.setattr("keras_mdm.evaluation.retrieval._CHUNK", 4)
    assert retrieval(images, targets, gallery, concepts, size=8, k=(1, 3, 10)) == record


def test_noise_reaches_the_chance_level():
    # Several drawings per concept: the hypergeometric chance, not k / G.
    gallery, images = drawings(60, 16), drawings(2000, 16, seed=5)
    concepts = np.arange(60) // 3
    targets = np.random.default_rng(1).permutation(np.arange(2000) % 20)
    record = retrieval(images, targets, gallery, concepts)
    assert record.chance[1] == pytest.approx(3 / 60)
    assert record.chance[5] == pytest.approx(1 - math.comb(57, 5) / math.comb(60, 5))
    for k in (1, 5):
        assert abs(record.share[k] - record.chance[k]) < 4 * record.standard_error[k]
    assert "chance 5 %" in str(record)


def test_refuses_targets_without_drawings_and_lengths_that_differ():
    with pytest.raises(ValueError, match=r"missing_concepts=\[7\]"):
        retrieval(drawings(2), [0, 7], drawings(3), range(3))
    with pytest.raises(ValueError, match="concept_ids=2"):
        retrieval(drawings(2), [0, 1], drawings(3), range(2))

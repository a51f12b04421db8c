import math

import numpy as np
import pytest

from keras_mdm.evaluation import clip_score, inception_score, r_precision


def naive_score(p):
    mean = [sum(row[c] for row in p) / len(p) for c in range(len(p[0]))]
    divergences = [
        sum(q * math.log(q / m) for q, m in zip(row, mean, strict=True) if q > 0.0) for row in p
    ]
    return math.exp(sum(divergences) / len(p))


def test_closed_forms_with_zeros():
    """Sure of one class each: the number of classes seen, and not that of the classes there are."""
    sure = np.tile(np.eye(7)[:5], (20, 1))
    found = inception_score(sure)
    assert found.value == pytest.approx(5.0, rel=1e-12)
    assert found.standard_deviation == pytest.approx(0.0, abs=1e-12)
    assert inception_score(np.full((30, 7), 1 / 7)).value == pytest.approx(1.0, rel=1e-12)
    # Half sure: a with 1 - e, the other class with e; KL is log 2 minus the entropy of (e, 1 - e).
    e = 0.1
    halves = np.tile([[e, 1 - e], [1 - e, e]], (10, 1))
    entropy = -e * math.log(e) - (1 - e) * math.log(1 - e)
    want = math.exp(math.log(2) - entropy)
    assert inception_score(halves, splits=2).value == pytest.approx(want, rel=1e-12)


def test_parts_one_by_one(rng):
    p = rng.gamma(0.1, size=(47, 9)) * (rng.random((47, 9)) > 0.3) + 1e-300
    p = p / p.sum(axis=1, keepdims=True)
    edges = [0, 9, 18, 28, 37, 47]  # floor(47 i / 5)
    scores = [naive_score(p[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    found = inception_score(p.astype("float32"), splits=5)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-5)
    assert found.standard_deviation == pytest.approx(np.std(scores), rel=1e-4)
    assert str(found).startswith(f"{np.mean(scores):.2f} +- {np.std(scores):.2f} (47 pictures")
    whole = inception_score(p, splits=1)
    assert whole.value == pytest.approx(naive_score(p), rel=1e-12)
    assert whole.standard_deviation is None and "in one part" in str(whole)


def test_r_precision_against_all_others(rng):
    """With all others there is nothing to draw: a brute-force count."""
    texts = rng.normal(size=(40, 6))
    pictures = texts + 0.8 * rng.normal(size=(40, 6))
    hits = 0
    for i, picture in enumerate(pictures):
        cosines = [picture @ t / np.linalg.norm(picture) / np.linalg.norm(t) for t in texts]
        hits += int(np.argmax(cosines) == i)
    share = hits / 40
    assert 0.2 < share < 0.9
    found = r_precision(pictures * 7.0, texts * rng.uniform(0.1, 9.0, (40, 1)), others=39)
    assert found.value == pytest.approx(share, abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(share * (1 - share) / 40))
    assert found.chance == 1 / 40


def test_r_precision_with_drawn_others(rng):
    """A picture with b better texts among n - 1 hits with C(n - 1 - b, r) / C(n - 1, r)."""
    n, r = 60, 9
    texts = rng.normal(size=(n, 5))
    pictures = texts + 1.0 * rng.normal(size=(n, 5))
    unit_pictures, unit_texts = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pictures, texts)
    )
    cosines = unit_pictures @ unit_texts.T
    better = (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    want = np.array([math.comb(n - 1 - int(b), r) / math.comb(n - 1, r) for b in better])
    values = [r_precision(pictures, texts, others=r, seed=seed).value for seed in range(100)]
    error = math.sqrt(np.sum(want * (1 - want))) / n / 10
    assert abs(np.mean(values) - want.mean()) < 4 * error
    assert len(set(values)) > 1
    assert values[3] == r_precision(pictures, texts, others=r, seed=3).value


def test_features_without_information_reach_chance(rng):
    found = r_precision(rng.normal(size=(3000, 8)), rng.normal(size=(3000, 8)), others=9)
    assert abs(found.value - 0.1) < 4 * found.standard_error
    assert found.standard_error == pytest.approx(math.sqrt(0.1 * 0.9 / 3000), rel=0.1)
    assert "chance 10 %" in str(found)
    # All pictures alike, and all texts in one direction: ties, not hits.
    alike = r_precision(np.ones((50, 8)), np.ones((50, 8)) * np.arange(1, 51)[:, None], others=9)
    assert alike.value == pytest.approx(0.1) and alike.standard_error == pytest.approx(0.0)


def test_a_text_of_several_pictures_is_not_among_its_own_others(rng):
    texts = np.eye(12).repeat(5, axis=0)
    found = r_precision(texts, texts, others=11)
    assert (found.value, found.pictures) == (1.0, 60)
    with pytest.raises(ValueError, match="different_texts=12"):
        r_precision(texts, texts, others=12)


def test_clip_score_term_by_term(rng):
    pictures, texts = rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    scores = [
        100 * max(0.0, p @ t / math.sqrt(p @ p) / math.sqrt(t @ t))
        for p, t in zip(pictures, texts, strict=True)
    ]
    assert 0 < sum(score == 0.0 for score in scores) < 30
    found = clip_score(pictures.astype("float32"), texts.astype("float32"))
    assert found.value == pytest.approx(np.mean(scores), rel=1e-5)
    assert found.standard_error == pytest.approx(np.std(scores) / math.sqrt(30), rel=1e-4)
    assert str(found) == f"{found.value:.2f} +- {found.standard_error:.2f} (30 pictures)"
    assert clip_score(pictures, 1e200 * pictures).value == pytest.approx(100.0)
    assert clip_score(pictures, -pictures).value == 0.0


@pytest.mark.parametrize(
    ("probabilities", "splits", "says"),
    [
        (np.zeros(5), 1, "of shape"),
        (np.full((20, 4), 1.0), 10, "sum to 1.*sums="),
        (np.tile([1.5, -0.5], (20, 1)), 10, "at least 0"),
        (np.full((19, 4), 0.25), 10, "two pictures.*pictures=19, splits=10"),
        (np.full((20, 4), 0.25), 0, "`splits` must be"),
        (np.full((20, 4), np.nan), 10, "finite"),
    ],
)
def test_bad_probabilities(probabilities, splits, says):
    with pytest.raises(ValueError, match=f"{says}.*To fix it: "):
        inception_score(probabilities, splits=splits)


@pytest.mark.parametrize("measure", [r_precision, clip_score])
@pytest.mark.parametrize(
    ("pictures", "texts", "says"),
    [
        (np.ones((200, 4)), np.ones((200, 3)), "of one width"),
        (np.ones((200, 4)), np.ones((199, 4)), "same number of rows"),
        (np.ones((1, 4)), np.ones((1, 4)), "at least 2 rows"),
        (np.ones((200, 4)), np.full((200, 4), np.inf), "not_finite_in_text_features=800"),
        (np.eye(200) * np.arange(200), np.eye(200) + 1, "no row of `picture_features`.*rows=1"),
    ],
)
def test_bad_pairs(measure, pictures, texts, says):
    with pytest.raises(ValueError, match=f"{says}.*To fix it: "):
        measure(pictures, texts)

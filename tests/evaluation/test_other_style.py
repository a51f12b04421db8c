"""Drawings of another style are told from drawings of the style that training showed."""

import numpy as np
import pytest

from keras_mdm.evaluation import other_style

CONCEPTS, STYLES = [f"concept {n}" for n in range(30)], ("flat", "line")
DRAWINGS = [(concept, style) for style in STYLES for concept in CONCEPTS]
ASKED = [(concept, "line") for concept in CONCEPTS[:10]]


def features_of(pairs, noise=0.0, seed=0):
    """A direction for each concept and for each style."""
    rng = np.random.default_rng(seed)
    parts = {name: rng.normal(size=40) for name in (*CONCEPTS, *STYLES)}
    found = np.stack([parts[concept] + parts[style] for concept, style in pairs])
    return found + noise * np.random.default_rng(5).normal(size=found.shape)


@pytest.mark.parametrize(
    ("drawn", "outcome"),
    [
        (ASKED, "right"),
        ([(concept, "flat") for concept, _ in ASKED], "repeated"),
        ([(concept, "line") for concept in CONCEPTS[10:20]], "style"),
        ([(concept, "flat") for concept in CONCEPTS[10:20]], "neither"),
    ],
)
def test_each_outcome_is_told(drawn, outcome):
    gallery = features_of(DRAWINGS)
    found = other_style(3.0 * features_of(drawn, noise=0.3), ASKED, gallery, DRAWINGS)
    assert found.share[outcome] == 1.0 and sum(found.share.values()) == pytest.approx(1.0)
    assert [DRAWINGS[row] for row in found.nearest] == drawn
    assert found.standard_error[outcome] == 0.0 and "10 pictures, 60 drawings" in str(found)


def test_random_pictures_reach_the_chance():
    rng = np.random.default_rng(0)
    asked = [ASKED[number % 10] for number in range(4000)]
    # Directions of equal worth: without styles and concepts in them, every drawing is as near.
    found = other_style(rng.normal(size=(4000, 60)), asked, np.eye(60), DRAWINGS)
    assert found.chance == pytest.approx(
        {"right": 1 / 60, "repeated": 1 / 60, "style": 29 / 60, "neither": 29 / 60}
    )
    for name, share in found.share.items():
        assert abs(share - found.chance[name]) < 4 * found.standard_error[name]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (ASKED[:-1], "for each picture"),
        ([*ASKED[:-1], ("concept 3", "oil")], r"in the asked style.*\('concept 3', 'oil'\)"),
    ],
)
def test_what_does_not_fit_is_an_error(asked, message):
    gallery = features_of(DRAWINGS)
    with pytest.raises(ValueError, match=rf"{message}.*To fix it: "):
        other_style(features_of(ASKED), asked, gallery, DRAWINGS)

"""A model that begins with a trained one: what it takes, what stays its own."""

import numpy as np
import pytest

from keras_mdm import MatryoshkaDiffusion
from training.drawing import scramble_averages
from training.tiny_models import INNER, PLAIN_INNER, outer, tiny_unet


def make(levels, seed=0, scramble=True, **options):
    unet = tiny_unet(levels, num_classes=2, seed=seed, scramble=scramble)
    return MatryoshkaDiffusion(unet, **options)


def values(variables):
    return {variable.path: np.asarray(variable) for variable in variables}


def averages(ema):
    return {
        v.path: np.asarray(average) for v, average in zip(ema.variables, ema.averages, strict=True)
    }


def test_inner_levels_and_their_averages_are_taken_over():
    trained = make([INNER], seed=1)
    scramble_averages(trained)
    model = make([INNER, outer(16)], scramble=False, power_emas=(0.1,))  # zeros where it begins
    before = values(model.unet.weights)
    new = model.start_from(trained)
    after = values(model.unet.weights)
    old = values(trained.unet.weights)
    assert new and set(new) == after.keys() - old.keys()
    assert all("level_16" in name for name in new)
    for path in after:
        np.testing.assert_array_equal(after[path], old.get(path, before[path]))
    for ema in (model.ema, *model.power_emas.values()):
        found, expected = averages(ema), averages(trained.ema)
        for path, value in expected.items():
            np.testing.assert_array_equal(found[path], value)
    # What growth promises: the inner level draws what it drew.
    drawn = [m.generate(labels=[0, 1], steps=2, progress=False)["8"] for m in (trained, model)]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() <= 1


def test_all_levels_of_a_model_of_the_same_form():
    trained, model = make([INNER, outer(16)], seed=1), make([INNER, outer(16)])
    assert model.start_from(trained) == []


def test_what_has_no_place_is_an_error():
    with pytest.raises(ValueError, match="trained model"):
        make([PLAIN_INNER]).start_from(make([PLAIN_INNER, outer(16)]))

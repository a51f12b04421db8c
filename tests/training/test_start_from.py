"""A model that begins with a trained one: what it takes, what stays its own."""

import dataclasses
import re

import numpy as np
import pytest

from keras_mdm import MatryoshkaDiffusion
from training.drawing import scramble_averages
from training.tiny_models import INNER, PLAIN_INNER, THREE_PARTS, outer, tiny_unet


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


def test_what_was_measured_comes_along():
    trained = make([INNER, outer(16)], residual={"16": 0.2})
    model = make([INNER, outer(16), outer(32)], residual=True)
    model.start_from(trained)
    assert float(model.residual_std["16"]) == np.float32(0.2)
    assert np.isnan(float(model.residual_std["32"]))


def test_averages_of_the_same_width_are_taken_and_others_begin_with_the_ema():
    trained, model = make([INNER], power_emas=(0.1,)), make([INNER], power_emas=(0.1, 0.2))
    scramble_averages(trained)
    model.start_from(trained)
    for name, expected in (("ema_0.1", trained.power_emas["ema_0.1"]), ("ema_0.2", trained.ema)):
        for path, value in averages(model.power_emas[name]).items():
            np.testing.assert_array_equal(value, averages(expected)[path])


WIDER = dataclasses.replace(PLAIN_INNER, channels=(32,))
DIFFERENT = {
    "channels": ([WIDER], {}, r"channels of level 8: \(32,\) here, \(16,\) trained"),
    # Weights of the same shapes that were trained to mean something else.
    "heads": (
        [dataclasses.replace(PLAIN_INNER, heads=2)],
        {},
        r"heads of level 8: 2 here, 8 trained",
    ),
    "classes": ([PLAIN_INNER], {"num_classes": 3}, r"num_classes: 3 here, 2 trained"),
    "a text model": (
        [PLAIN_INNER],
        {"num_classes": None, "text_width": 6},
        r"num_classes: None here, 2 trained.*text_width: 6 here, None trained",
    ),
    "pictures": ([PLAIN_INNER], {"in_channels": 4}, r"in_channels: 4 here, 3 trained"),
    "other levels": (
        [dataclasses.replace(PLAIN_INNER, size=16)],
        {},
        r"levels: \['16'\] here, \['8'\] trained",
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_all_differences_are_named_before_anything_is_taken(kind):
    levels, network, message = DIFFERENT[kind]
    model = MatryoshkaDiffusion(tiny_unet(levels, **{"num_classes": 2, **network}))
    before = values(model.variables)
    with pytest.raises(ValueError, match=message) as failure:
        model.start_from(make([PLAIN_INNER], seed=1))
    assert re.search(THREE_PARTS, str(failure.value))
    for path, value in values(model.variables).items():
        np.testing.assert_array_equal(value, before[path])


def test_texts_of_another_width_and_more_levels_than_there_are():
    text = [MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], text_width=width)) for width in (6, 8)]
    with pytest.raises(ValueError, match=r"text_width: 8 here, 6 trained"):
        text[1].start_from(text[0])
    with pytest.raises(ValueError, match=r"levels: \['8'\] here, \['8', '16'\] trained"):
        make([PLAIN_INNER]).start_from(make([PLAIN_INNER, outer(16)]))
    with pytest.raises(ValueError, match=r"trained='NestedUNet'"):
        text[0].start_from(text[1].unet)

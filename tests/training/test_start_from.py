"""A model that begins with a trained one: what it takes, what stays its own."""

import ast
import dataclasses
import fnmatch
import re

import numpy as np
import pytest
from sampling.drawing import scramble_averages
from tiny_models import INNER, PLAIN_INNER, THREE_PARTS, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion

pytestmark = pytest.mark.usefixtures("eagerly")


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


# Parts that stay new.


def conditional(**network):
    return MatryoshkaDiffusion(tiny_unet([INNER, outer(16)], **network), power_emas=(0.1,))


def test_other_classes_are_new_and_all_else_is_taken():
    trained, model = conditional(num_classes=3, seed=1), conditional(num_classes=5)
    scramble_averages(trained)
    before = values(model.variables)
    with pytest.raises(ValueError, match=r"leave parts new with skip=\['class_embedding'\]"):
        model.start_from(trained)
    np.testing.assert_equal(values(model.variables), before)
    first = values(model.unet.weights)
    report = model.start_from(trained, skip=["class_embedding"])
    assert report == report.new == report.left == ["class_embedding/table"]
    after, old = values(model.unet.weights), values(trained.unet.weights)
    assert set(report.taken) == old.keys() - {"class_embedding/table"}
    assert after["class_embedding/table"].shape == (6, 32)
    for path in after:
        source = first if path == "class_embedding/table" else old
        np.testing.assert_array_equal(after[path], source[path])
    found, expected = averages(model.ema), averages(trained.ema)
    for path in found:
        source = before_average(before, path) if path in report else expected[path]
        np.testing.assert_array_equal(found[path], source)
    said = str(report)
    assert said.startswith("taken: level_16_down (28)") and "new: class_embedding (1)" in said
    assert said.endswith("left behind: class_embedding (1)")
    # It draws the new classes, and the class that stands for none is new like them.
    drawn = model.generate(labels=[0, 4], steps=2, progress=False, guidance_scale=1.0)["16"]
    assert drawn.shape == (2, 16, 16, 3)


def before_average(before, path):
    (value,) = (v for p, v in before.items() if p.endswith(f"/ema__{path.replace('/', '__')}"))
    return value


def test_taken_averages_keep_their_age_and_new_ones_begin():
    """Or the first step would replace what was taken by nine tenths, and power averages wholly."""
    trained, model = conditional(num_classes=3, seed=1), conditional(num_classes=5)
    scramble_averages(trained)
    trained.averages.age = 40
    for ema in trained.averages.by_name.values():
        ema.starts = [30 if v.path.startswith("level_16") else 0 for v in ema.variables]
    model.start_from(trained, skip=["class_embedding"])
    assert model.averages.age == 40
    (table,) = (v for v in model.unet.weights if v.path == "class_embedding/table")
    table.assign_add(np.ones(table.shape))
    exponent = model.power_emas["ema_0.1"].exponent + 1.0
    for name, decay in (
        ("ema", lambda n: (1 + n) / (10 + n)),
        ("ema_0.1", lambda n: (n / (n + 1)) ** exponent),
    ):
        ema = model.averages.by_name[name]
        before, weights = averages(ema), values(model.unet.weights)
        before = {path: value.copy() for path, value in before.items()}
        ema.update(model.averages.age)
        for path, value in averages(ema).items():
            n = 0 if path == table.path else 10 if path.startswith("level_16") else 40
            expected = weights[path] + decay(n) * (before[path] - weights[path])
            np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=f"{name} {path}")


SKIPS = {
    "the same number of classes": ({"num_classes": 3}, {"num_classes": 3}, ["class_embedding"]),
    "classes instead of none": ({}, {"num_classes": 3}, ["class_embedding"]),
    "none instead of classes": ({"num_classes": 3}, {}, ["class_embedding"]),
    "another text": (
        {"text_width": 6, "text_projection": 8},
        {"text_width": 10, "text_projection": 8},
        ["text_conditioning/project"],
    ),
    "text instead of classes": (
        {"num_classes": 3},
        {"text_width": 6},
        ["class_embedding", "text_conditioning", "*/text_norm", "*/text_kv"],
    ),
    "pictures with alpha": (
        {},
        {"in_channels": 4, "out_channels": 4},
        ["*/conv_in", "*/conv_out"],
    ),
}


@pytest.mark.parametrize("kind", SKIPS)
def test_what_is_named_is_new_and_the_advice_names_it(kind):
    source, target, skip = SKIPS[kind]
    trained, model = conditional(seed=1, **source), conditional(**target)
    first, old = values(model.unet.weights), values(trained.unet.weights)
    if source != target:
        with pytest.raises(ValueError, match=THREE_PARTS) as failure:
            model.start_from(trained)
        (advice,) = re.findall(r"skip=(\[.*?\])", str(failure.value))
        other = conditional(**target).start_from(trained, skip=ast.literal_eval(advice))
    report = model.start_from(trained, skip=skip)
    after = values(model.unet.weights)
    assert set(report) | set(report.taken) == after.keys()
    for path in after:
        new = path in report
        np.testing.assert_array_equal(after[path], first[path] if new else old[path])
        assert new == any(fnmatch.fnmatch(path, f"{name}/*") for name in skip)
    if source != target:
        assert set(other) == set(report)


def test_a_level_that_is_named_may_have_another_form():
    wider = dataclasses.replace(outer(16), channels=(32, 8))
    trained = make([INNER, outer(16)], seed=1, residual={"16": 0.2})
    model = make([INNER, wider], residual={"16": 0.7})
    with pytest.raises(ValueError, match="channels of level 16"):
        model.start_from(trained, skip=["level_16_down"])
    report = model.start_from(trained, skip=["level_16_*"])
    assert all(path.startswith("level_16_") for path in report) and "level_8" in str(report)
    assert float(model.residual_std["16"]) == np.float32(0.7)


@pytest.mark.parametrize(
    ("skip", "words"),
    [
        ("class_embedding", "list of names"),
        (["classes"], r"unknown=\['classes'\].*choose among \['class_embedding'"),
        (["level_8/conv_in"], r"class_embedding/table: \(6, 32\) here, \(4, 32\) trained"),
    ],
)
def test_names_that_do_not_cover_it(skip, words):
    model = conditional(num_classes=5)
    before = values(model.variables)
    with pytest.raises(ValueError, match=words) as failure:
        model.start_from(conditional(num_classes=3, seed=1), skip=skip)
    assert re.search(THREE_PARTS, str(failure.value))
    np.testing.assert_equal(values(model.variables), before)


def test_options_that_no_shape_shows_are_not_covered_by_other_names():
    heads = [dataclasses.replace(PLAIN_INNER, heads=2)]
    with pytest.raises(ValueError, match="heads of level 8: 2 here, 8 trained"):
        make(heads).start_from(make([PLAIN_INNER], seed=1), skip=["class_embedding"])

"""Features of a model beside one another: what one of them leaves must suit the others."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import INNER, PLAIN_INNER, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, load
from keras_mdm.evaluation.samples import Request, draw
from keras_mdm.optimizers import Adam
from keras_mdm.runs.snapshot import restore_snapshot, save_snapshot

pytestmark = [
    pytest.mark.usefixtures("eagerly"),
    pytest.mark.filterwarnings("ignore:.*without mixed resolutions"),
]


def nest(**options):
    return MatryoshkaDiffusion(tiny_unet([INNER, outer(16)], num_classes=3), **options)


def batch(size=8, rows=2, **more):
    picture = np.random.default_rng(0).uniform(-1, 1, (rows, size, size, 3)).astype("float32")
    return {"image": picture, "label": np.arange(rows) % 3, **more}


def test_what_is_cut_out_of_the_highest_loss_alone_can_be_trained():
    small = nest(level_weights="highest").cut("8")
    small.compile(Adam(1e-3))
    before = [np.array(weight) for weight in small.unet.trainable_weights]
    assert float(small.train_on_batch(batch())[0]) > 0.0
    moved = [np.any(a != b) for a, b in zip(before, small.unet.trainable_weights, strict=True)]
    assert any(moved)


def test_shares_of_dropout_of_an_outer_levels_condition_go_with_it():
    level = dataclasses.replace(outer(16), micro_conditions={"scale": 16.0})
    unet = tiny_unet([INNER, level], num_classes=3)
    model = MatryoshkaDiffusion(unet, cond_dropout={"label": 0.1, "scale": 0.2})
    assert model.cut("8").cond_dropout == {"label": 0.1}


def test_a_restored_model_has_what_growth_brought(tmp_path):
    def make():
        model = nest()
        model.compile(Adam(1e-3))
        return model

    trained = nest(class_names=["a", "b", "c"], notes={"data": "d"}, sampling={"steps": 7})
    model = make()
    model.start_from(trained)
    path = save_snapshot(model, tmp_path, 1, {"phase": 1})
    again = make()
    restore_snapshot(again, path)
    assert again.class_names == ("a", "b", "c") and again.notes == {"data": "d"}
    assert again.sampling == {"steps": 7}


@pytest.mark.parametrize("after", ["file", "merged"])
def test_what_is_cut_under_lora_is_as_trainable_as_before(tmp_path, after):
    model = nest()
    expected = len(model.cut("8").unet.trainable_weights)
    model.enable_lora(2)
    small = model.cut("8")
    if after == "merged":
        small.merge_lora()
    else:
        small.save(tmp_path / "small.keras")
        small = load(tmp_path / "small.keras")
    assert len(small.unet.trainable_weights) == expected


def test_frozen_layers_stay_frozen_in_what_is_cut_under_lora():
    model = nest()
    model.unet.parts["level_8"].trainable = False
    expected = len(model.cut("8").unet.trainable_weights)
    model.enable_lora(2)
    small = model.cut("8")
    small.merge_lora()
    assert len(small.unet.trainable_weights) == expected


def test_one_level_with_residual_may_change():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), residual=True)
    model.downsample = "bilinear"
    model.output_limit = 5.0
    assert model.generate(num_images=1, steps=1, progress=False)["8"].shape == (1, 8, 8, 3)
    assert nest(residual={"16": 0.3}).cut("8").enable_lora(2) is not None


def test_defaults_that_do_not_fit_are_left_behind_and_the_rest_is_taken():
    trained = MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER]), sampling={"steps": 50}, notes={"data": "d"}
    )
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), num_steps=40)
    with pytest.warns(UserWarning, match="defaults of sampling are left behind"):
        model.start_from(trained)
    assert model.notes == {"data": "d"} and model.sampling == {}
    for mine, theirs in zip(model.unet.weights, trained.unet.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_fewer_training_steps_than_a_default_are_refused_when_they_come():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), sampling={"steps": 50})
    before, other = model.process, MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), num_steps=40)
    with pytest.raises(ValueError, match="`steps` must be at most 40"):
        model.process = other.process
    assert model.process is before


def test_a_weaker_model_must_have_the_same_outputs():
    deep = dataclasses.replace(outer(16), learned_deviation=True)
    a, b = (
        MatryoshkaDiffusion(tiny_unet([INNER, level]), residual={"16": 0.3})
        for level in (deep, outer(16))
    )
    with pytest.raises(ValueError, match="learned_deviation"):
        a.generate(num_images=1, autoguidance=b, guidance_scale=2.0, steps=1, progress=False)


def test_another_configuration_draws_other_pictures(tmp_path):
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), sampling={"steps": 1})
    list(draw(model, Request(1), tmp_path / "drawn", progress=False))
    list(draw(model, Request(2), tmp_path / "drawn", progress=False))  # more of the same
    model.notes = {"data": "d"}
    list(draw(model, Request(2), tmp_path / "drawn", progress=False))
    model.output_limit = 0.05
    with pytest.raises(ValueError, match="with other options.+output_limit"):
        draw(model, Request(2), tmp_path / "drawn", progress=False)


def test_evaluation_of_other_weights_traces_nothing_again():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], num_classes=3))
    model.compile(Adam(1e-3))
    data = tf.data.Dataset.from_tensors(batch())
    functions = set()
    for _ in range(2):
        model.fit(data, validation_data=data, verbose=0)
        functions.add(id(model.train_function))
        functions.add(id(model.test_function))
        model.evaluate(data, weights="raw", verbose=0)
        functions.add(id(model.test_function))
    assert len(functions) == 3 and len(model._test_functions) == 2


def test_weighted_batches_can_be_prepared():
    model = MatryoshkaDiffusion(tiny_unet([INNER, outer(16)], num_classes=3), residual=True)
    given = batch(16, sample_weight=np.ones(2, "float32"))
    model.measure_residual([given])
    plain = MatryoshkaDiffusion(tiny_unet([INNER, outer(16)], num_classes=3), residual=True)
    plain.measure_residual([batch(16)])
    assert float(model.residual_std["16"]) == float(plain.residual_std["16"]) > 0.0

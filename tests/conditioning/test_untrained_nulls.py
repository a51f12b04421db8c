"""Conditions that training never left out: no guidance unless asked for, and a warning."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from sampling.drawing import assert_equal
from tiny_models import PLAIN_INNER, TEXT_WIDTH, FakeEncoder, tiny_unet

from keras_mdm import MatryoshkaDiffusion, export_saved_model, optimizers

OPTIONS = {"steps": 2, "progress": False, "output": "float32"}
LEADS = "leads away from what the network makes without"
DRAWN = "pictures are drawn"


def make(classes=3, text=None, **options):
    unet = tiny_unet([PLAIN_INNER], num_classes=classes, text_width=text)
    encoder = {"text_encoder": FakeEncoder()} if text else {}
    return MatryoshkaDiffusion(unet, **encoder, **options)


@pytest.fixture(scope="module")
def both():
    return make(text=TEXT_WIDTH)


def seen(model, *given, **options):
    """What is drawn, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = model.generate(*given, **OPTIONS, **options)
    return images["8"], [str(one.message) for one in caught if "training never" in str(one.message)]


@pytest.mark.parametrize("rates", [0, 0.0, {}, {"label": 0.0}])
def test_never_dropped_classes_are_not_guided_unless_asked(rates):
    model = make(cond_dropout=rates)
    default, silent = seen(model, labels=[0, 1])
    assert not silent
    np.testing.assert_array_equal(default, seen(model, labels=[0, 1], guidance_scale=1.0)[0])
    for scale in (4.0, {"8": 3.0}, 0.0):
        guided, said = seen(model, labels=[0, 1], guidance_scale=scale)
        assert len(said) == 1 and LEADS in said[0] and "guidance_scale=1" in said[0]
        assert np.abs(guided - default).max() > 1e-3
    # Nor is there a picture without a class.
    for given in ({"num_images": 2}, {"labels": [0, -1]}):
        _, said = seen(model, **given)
        assert len(said) == 1 and said[0].startswith(f"{DRAWN} without label")


@pytest.mark.parametrize(
    "options", [{}, {"cond_dropout": {"label": 0.2}}, {"cond_dropout": 0, "null_in_data": True}]
)
def test_dropped_classes_are_guided_by_four(options):
    model = make(**options)
    default, silent = seen(model, labels=[0, 1])
    guided, quiet = seen(model, labels=[0, 1], guidance_scale=4.0)
    assert not silent and not quiet
    np.testing.assert_array_equal(default, guided)
    assert not seen(model, num_images=1)[1]


def test_one_condition_that_was_never_dropped_by_itself(both):
    prompts, labels = ["a cat", "a dog"], [0, 1]
    for rates in ({"text": 0.1}, {"label": 0.1}, {"text": 0.1, "label": 0.0}):
        both.cond_dropout = rates
        default, silent = seen(both, prompts, labels=labels)
        assert not silent
        plain = seen(both, prompts, labels=labels, guidance_scale=1.0)[0]
        np.testing.assert_array_equal(default, plain)
        said = seen(both, prompts, labels=labels, guidance_scale=2.0)[1]
        assert len(said) == 1 and f"{LEADS} text and label" in said[0]
    # Together: both or none.
    both.cond_dropout = 0.1
    assert not seen(both, prompts, labels=labels)[1] and not seen(both, num_images=1)[1]
    for given, without in (((prompts,), "label"), ((["", "a cat"],), "label")):
        said = seen(both, *given)[1]
        assert len(said) == 1 and said[0].startswith(f"{DRAWN} without {without}")
    said = seen(both, labels=labels)[1]
    assert len(said) == 1 and said[0].startswith(f"{DRAWN} without text")
    both.cond_dropout = {"text": 0.1, "label": 0.1}
    for given in ((prompts,), (None,)):
        assert not seen(both, *given, num_images=2)[1]


def test_what_negative_prompts_lack_counts_too(both):
    both.cond_dropout = 0.1
    given = {"labels": [0, 1], "negative_prompts": "a red heart"}
    said = seen(both, ["a cat", "a dog"], **given)[1]
    assert len(said) == 1 and f"{LEADS} label" in said[0]
    text = make(classes=None, text=TEXT_WIDTH, cond_dropout=0.0)
    # A prompt is a prompt: it needs no dropping.
    default, silent = seen(text, ["a cat"], negative_prompts="a red heart")
    assert not silent
    four = seen(text, ["a cat"], negative_prompts="a red heart", guidance_scale=4.0)[0]
    np.testing.assert_array_equal(default, four)
    assert len(seen(text, ["a cat"], negative_prompts="", guidance_scale=4.0)[1]) == 1


def test_always_dropped_conditions_are_unknown_ones():
    model = make(cond_dropout=1.0)
    assert not seen(model, num_images=1)[1]
    said = seen(model, labels=[0], guidance_scale=1.0)[1]
    assert len(said) == 1 and said[0].startswith(f"{DRAWN} with all conditions")


def test_an_export_says_that_it_is_not_to_be_guided(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorflow.saved_model.save", lambda module, path, **_: Path(path).mkdir())
    with pytest.warns(UserWarning, match="call the export with guidance_scale=1"):
        export_saved_model(make(cond_dropout=0.0), tmp_path / "never")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export_saved_model(make(), tmp_path / "dropped")


def test_it_survives_the_file_and_the_cut(tmp_path):
    import keras

    model = make(cond_dropout=0.0, null_in_data=True)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.null_in_data and model.cut("8").null_in_data
    assert_equal(*(m.generate(labels=[0], **OPTIONS) for m in (model, again)))
    old = {k: v for k, v in model.get_config().items() if k != "null_in_data"}
    assert not MatryoshkaDiffusion.from_config(old).null_in_data


def test_a_class_mean_is_drawn_after_training_without_dropout():
    """Class means of -0.8 and 0.8: what is drawn by default has them."""
    model = MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER], num_classes=2, scramble=False),
        cond_dropout=0.0,
        threshold="static",
        ema_decay=0.9,
    )
    model.compile(optimizer=optimizers.Adam(3e-3))
    labels = np.arange(64) % 2
    images = np.where(labels == 1, 0.8, -0.8).astype("float32")[:, None, None, None]
    images = np.broadcast_to(images, (64, 8, 8, 3)).copy()
    model.fit(images, labels.astype("int32"), batch_size=32, epochs=60, verbose=0)
    drawn = model.generate(labels=[0, 1], steps=10, progress=False, output="float32")["8"]
    found = drawn.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found, [-0.8, 0.8], atol=0.15)

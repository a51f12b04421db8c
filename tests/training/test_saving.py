"""What a `.keras` file remembers besides what `generate` shows."""

import warnings

import keras
import numpy as np
import pytest
from tiny_models import PLAIN_INNER, Record, arrays, as_dataset, make_batch, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.optimizers import Adam
from keras_mdm.optimizers.learning_rates import Warmup


def test_training_goes_on_from_the_file_as_if_it_had_not_been_saved(tmp_path):
    rng = np.random.default_rng(0)
    batches = [make_batch(rng, 4, size=8, classes=3) for _ in range(4)]
    model = MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER], num_classes=3), ema_decay=0.5, seed=11, cond_dropout=0.3
    )
    # As after growth: some weights joined at step 1.
    model.ema.starts = [index % 2 for index in range(len(model.ema.starts))]
    model.compile(Adam(Warmup(1e-2, 3), clip_norm=0.7))
    model.fit(as_dataset(batches[:2]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.ema.starts == model.ema.starts
    assert int(loaded.optimizer.iterations.numpy()) == 2
    ends = []
    for each in (model, loaded):
        record = Record()
        each.fit(as_dataset(batches[2:]), verbose=0, callbacks=[record])
        assert len(record.logs) == 2
        ends.append((arrays(each.unet.variables), arrays(each.ema.averages), record.logs))
    for kept, reloaded in zip(*(end[0] + end[1] for end in ends), strict=True):
        np.testing.assert_array_equal(kept, reloaded)
    assert ends[0][2] == ends[1][2]


def test_a_model_that_was_never_compiled_is_saved_too(tmp_path):
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), prediction="eps", schedule="linear")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.compiled and loaded.get_config() == model.get_config()
    for kept, reloaded in zip(arrays(model.variables), arrays(loaded.variables), strict=True):
        np.testing.assert_array_equal(kept, reloaded)


def test_text_of_another_length_and_an_encoder_of_another_width():
    from tiny_models import TEXT_WIDTH, FakeEncoder

    model = MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER], text_width=TEXT_WIDTH), text_encoder=FakeEncoder()
    )
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 3, TEXT_WIDTH)).astype("float32")
    options = {"steps": 2, "progress": False}
    short = model.generate({"text": states, "text_mask": np.ones((2, 3))}, **options)["8"]
    # Padding that the mask hides changes nothing; more real tokens do.
    longer = np.concatenate([states, rng.normal(size=(2, 4, TEXT_WIDTH))], axis=1)
    mask = np.concatenate([np.ones((2, 3)), np.zeros((2, 4))], axis=1)
    padded = model.generate({"text": longer, "text_mask": mask}, **options)["8"]
    assert np.max(np.abs(padded.astype(int) - short.astype(int))) <= 1
    full = model.generate({"text": longer, "text_mask": np.ones((2, 7))}, **options)["8"]
    assert np.any(full != short)
    wrong = FakeEncoder()
    wrong.width = TEXT_WIDTH + 1
    with pytest.raises(ValueError, match=r"Received: width=7\. To fix it"):
        model.text_encoder = wrong


def test_an_encoder_that_comes_late_is_remembered_but_its_empty_prompt_is_not(tmp_path):
    from tiny_models import TEXT_WIDTH, FakeEncoder

    unet = tiny_unet([PLAIN_INNER], text_width=TEXT_WIDTH)
    model = MatryoshkaDiffusion(unet)
    assert model.text_encoder_identity is None
    with pytest.warns(UserWarning, match="a token of zeros"):
        model.text_encoder = FakeEncoder()
    assert model.text_encoder_identity == FakeEncoder().identity
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.text_encoder_identity == FakeEncoder().identity
    with warnings.catch_warnings():  # what is known already needs no word
        warnings.simplefilter("error")
        loaded.text_encoder = FakeEncoder()
        MatryoshkaDiffusion(unet, text_encoder=FakeEncoder())

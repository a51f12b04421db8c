"""Runs of autoencoders: they end as if nothing had happened, and do not change on the way."""

import numpy as np
import pytest
from tiny_models import THREE_PARTS

from keras_mdm import fit_autoencoder, load
from keras_mdm.data import image_text_dataset
from keras_mdm.latents import KLAutoencoder
from keras_mdm.optimizers import SGD, Muon

from .tiny import pictures, tiny

pytestmark = pytest.mark.usefixtures("eagerly")

IMAGES = pictures(20)


def make_model(kl_weight=1e-6):
    model = KLAutoencoder(2, channels=2, width=8, multipliers=(1, 2), blocks=1, groups=4, seed=3)
    model.compile(Muon(1e-2), kl_weight=kl_weight)
    return model


def make_dataset(first_step):
    return image_text_dataset(IMAGES, batch_size=4, seed=0, first_step=first_step)


def fitted(run_dir, *, make=make_model, data=make_dataset, identity=None, **options):
    given = {"steps": 3, "batch_size": 4, "checkpoint_every": 1, "progress": False, **options}
    identity = identity or {"sha256": "a"}
    return fit_autoencoder(make, data, lambda: IMAGES, run_dir=run_dir, data=identity, **given)


def test_a_run_that_was_broken_off_ends_as_one_that_was_not(tmp_path):
    whole = fitted(tmp_path / "whole")
    once = []

    def breaking(first_step):
        """The first time, the data ends after two steps; the second, it goes on."""
        once.append(first_step)
        dataset = make_dataset(first_step)
        return dataset.take(2) if first_step == 0 else dataset

    with pytest.warns(UserWarning, match="ran out of data"), pytest.raises(ValueError) as problem:
        fitted(tmp_path / "cut", data=breaking)
    assert "the data ran out" in str(problem.value) and "steps_made=2" in str(problem.value)
    assert not (tmp_path / "cut" / "autoencoder.keras").exists()
    cut = fitted(tmp_path / "cut", data=breaking)
    assert once == [0, 2]
    for mine, other in zip(whole.weights, cut.weights, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=mine.path)
    # The same call again only reads the result.
    read = fitted(tmp_path / "cut", data=None)
    np.testing.assert_array_equal(read.encode(IMAGES[:2]), whole.encode(IMAGES[:2]))
    with pytest.raises(ValueError, match="not an autoencoder" + THREE_PARTS):
        load(tmp_path / "cut")
    with pytest.raises(ValueError, match="(?s)must hold a MatryoshkaDiffusion.*load_codec"):
        load(tmp_path / "cut" / "autoencoder.keras")

    for change in ({"steps": 4}, {"make": lambda: make_model(1e-3)}, {"identity": {"sha256": "x"}}):
        with pytest.raises(ValueError, match="(?s)must be continued with.*To fix it"):
            fitted(tmp_path / "cut", **change)
    fitted(tmp_path / "cut", fresh=True, steps=1)
    assert (tmp_path / "cut.1" / "autoencoder.keras").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_a_run_on_two_replicas(tmp_path, two_replicas):
    def make():
        model = tiny(seed=3)
        model.compile(SGD(0.05))
        return model

    alone = fitted(tmp_path / "alone", make=make)
    double = fitted(tmp_path / "double", make=make, strategy=two_replicas)
    for mine, other in zip(alone.weights, double.weights, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5, err_msg=mine.path)
    codes = [model.encode(IMAGES[:4]) for model in (alone, double)]
    np.testing.assert_allclose(*codes, atol=1e-3)
    again = fitted(tmp_path / "double", make=make, data=None)  # on one device
    np.testing.assert_allclose(again.encode(IMAGES[:4]), codes[1], atol=1e-5)


def test_several_workers_are_refused(tmp_path, monkeypatch):
    cluster = '{"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"index": 0}}'
    monkeypatch.setenv("TF_CONFIG", cluster)
    with pytest.raises(ValueError, match="trained by one worker.*workers=2.*To fix it"):
        fitted(tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""Files of an earlier version load, draw what they drew and go on."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from golden import earlier

import keras_mdm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    there = tmp_path_factory.mktemp("made")
    with tarfile.open(Path(earlier.__file__).with_name("earlier.tar.xz")) as packed:
        packed.extractall(there, filter="data")
    return there / "earlier"


@pytest.fixture(scope="module")
def recorded(folder):
    with np.load(folder / "pictures.npz") as arrays:
        return dict(arrays)


def compare(found, recorded, *, tolerance=2e-5):
    for name, value in found.items():
        np.testing.assert_allclose(value, recorded[name], atol=tolerance, err_msg=name)


def test_a_model_file(folder, recorded):
    model = keras_mdm.load(folder / "model.keras")
    compare({f"whole/{k}": v for k, v in earlier.pictures(model).items()}, recorded)


def test_an_exported_model(folder, recorded):
    found = earlier.served(folder / "saved")
    assert found
    compare(found, recorded)


def test_a_checkpoint_of_a_run_that_was_stopped(folder):
    model = keras_mdm.load(folder / "stopped" / "checkpoints" / "phase-1")
    inside = keras_mdm.load(folder / "stopped" / "phase-1.keras")
    compare(earlier.pictures(model), earlier.pictures(inside), tolerance=1e-6)


def test_a_run_goes_on_from_the_middle_of_a_phase(folder, recorded, tmp_path):
    shutil.copytree(folder / "stopped", tmp_path / "run")
    model = earlier.train(tmp_path / "run")
    assert int(model.optimizer.iterations) == 2 * earlier.STEPS
    # Gradients near nothing decide by their sign in Adam: rounding on other processors shows.
    found = {f"whole/{k}": v for k, v in earlier.pictures(model).items()}
    compare(found, recorded, tolerance=2e-3)

"""Networks and the mathematics of diffusion under other backends of Keras, without TensorFlow."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import backend_cases as cases
import backends
import numpy as np
import pytest

import keras_mdm as mdm

NETWORKS = ("text", "classes", "video")


def installed(backend):
    # Looked for, not imported: two frameworks in one process share libraries badly.
    missing = importlib.util.find_spec(backend) is None
    return pytest.param(backend, marks=pytest.mark.skipif(missing, reason=f"no {backend} here"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What TensorFlow computes, and the weights that it computed with."""
    folder = tmp_path_factory.mktemp("backends")
    groups = {"math": cases.mathematics()}
    for name in NETWORKS:
        unet = cases.fill(cases.NETWORKS[name]("float32"))
        unet.save_weights(folder / f"{name}.weights.h5")
        groups[name] = cases.outputs_of(unet)
    backends.store(folder / "golden.npz", groups)
    return folder


@pytest.mark.parametrize("backend", [installed("jax"), installed("torch")])
def test_another_backend_computes_what_tensorflow_does(folder, backend):
    script = Path(__file__).with_name("other_backend.py")
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, script, folder], env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    refused = found.pop("refused")
    assert found.pop("half") < 0.05  # of bfloat16, 8 bits through 20 layers
    assert found == {name: pytest.approx(0.0, abs=backends.LIMIT) for name in ("math", *NETWORKS)}
    assert refused.keys() == {"MatryoshkaDiffusion", "data"}
    assert "`keras_mdm.data` needs TensorFlow" in refused["data"]
    assert "pip install" in refused["data"]


def test_what_needs_tensorflow_says_so(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(ImportError, match="`keras_mdm.data` needs TensorFlow.*KERAS_BACKEND"):
        mdm.__getattr__("data")
    assert mdm.__getattr__("build_nested_unet") is mdm.build_nested_unet
    with pytest.raises(ImportError, match="`MatryoshkaDiffusion` needs TensorFlow"):
        mdm.MatryoshkaDiffusion(None)


def test_other_weights_are_no_rounding():
    expected = {"8": np.array([4.0, -8.0]), "weights": np.float64(100.0)}
    assert cases.difference({**expected, "8": np.array([4.0, -7.0])}, expected) == 1 / 8
    with pytest.raises(ValueError, match="other results"):
        cases.difference({"8": expected["8"]}, expected)

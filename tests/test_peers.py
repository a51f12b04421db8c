"""The peers that benchmarks compare us with compute the same."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_cases.case import Case
from gpu_peaks import peak_gflops
from peers.configuration import official

from keras_mdm.interop import to_ml_mdm
from keras_mdm.models import presets

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GOLDEN = Path(__file__).parent / "golden"
LIMIT = 2e-5
# Looked for, not imported: two frameworks in one process share libraries badly.
PYTHON = os.environ.get("KERAS_MDM_PEER_PYTHON")
if PYTHON is None and importlib.util.find_spec("torch"):
    PYTHON = sys.executable
needs_torch = pytest.mark.skipif(PYTHON is None, reason="no torch here")


def peer(folder, arrays):
    """What the peer computes, highest level first."""
    np.savez(folder / "case.npz", **arrays)
    command = [PYTHON, BENCHMARKS / "peers" / "torch_worker.py", "--outputs"]
    done = subprocess.run(
        [*command, folder / "case.npz", folder / "result.npz"], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    with np.load(folder / "result.npz") as found:
        return [found[str(index)] for index in range(len(found.files))]


def scrambled(unet):
    """Weights off their start, where half of them are zero."""
    rng = np.random.default_rng(0)
    for variable in unet.trainable_variables:
        value = np.asarray(variable)
        variable.assign(value + 0.03 * rng.normal(size=value.shape).astype("float32"))
    return unet


def arrays_of(unet, rng, rows=2, tokens=5):
    """Inputs of one of our networks, and the same for the peer."""
    text = rng.normal(size=(rows, tokens, unet.spec.text_width)).astype("float32")
    mask = np.ones((rows, tokens), "float32")
    mask[0, -2:] = 0.0
    inputs = {
        f"z_{level.name}": rng.normal(size=(rows, *level.input_shape(3))).astype("float32")
        for level in unet.spec.levels
    }
    inputs |= {"time": np.array([3.0, 999.0], "float32"), "text": text, "text_mask": mask}
    inputs["scale"] = np.array([48.0, 300.0], "float32")  # below and above the defaults
    arrays = {f"weight/{key}": value for key, value in to_ml_mdm(unet).items()}
    arrays |= {key: inputs[key] for key in ("time", "text", "text_mask")}
    arrays |= {"micro/scale": inputs["scale"], "config": json.dumps(official(unet.spec))}
    for index, name in enumerate(reversed(unet.levels)):
        arrays[f"x/{index}"] = np.moveaxis(inputs[f"z_{name}"], -1, 1)
    return inputs, arrays


@pytest.mark.parametrize(
    ("device", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", (156.0, 312.0)),
        ("NVIDIA A10G", (35.0, 70.0)),
        ("NVIDIA L40S", (183.0, 362.0)),
        ("NVIDIA L40", (90.5, 181.0)),
        ("NVIDIA L4", (60.0, 121.0)),
        ("NVIDIA H100 PCIe", (378.0, 756.0)),
        ("NVIDIA H100 80GB HBM3", (494.7, 989.4)),
    ],
)
def test_the_peak_is_that_of_the_device(device, tflops):
    found = [peak_gflops(device, dtype) for dtype in ("float32", "mixed_bfloat16")]
    assert found == pytest.approx([1e3 * each for each in tflops])


@pytest.mark.parametrize("device", ["CPU", "NVIDIA RTX A1000", "NVIDIA GH200 480GB"])
def test_no_peak_is_guessed(device):
    assert peak_gflops(device, "float32") is None


@needs_torch
@pytest.mark.parametrize(
    "name", [pytest.param("released_64", marks=pytest.mark.slow), "released_256"]
)
def test_the_peer_computes_what_ours_does(name, tmp_path):
    unet = scrambled(presets.build(name, width=0.125, text_width=24))
    inputs, arrays = arrays_of(unet, np.random.default_rng(1))
    ours = unet(inputs)
    found = peer(tmp_path, arrays)
    for level, value in zip(reversed(unet.levels), found, strict=True):
        expected = np.moveaxis(np.asarray(ours[level]), -1, 1)
        largest = max(1.0, float(np.abs(expected).max()))
        assert largest > 0.5  # or nothing would have been compared
        np.testing.assert_allclose(value / largest, expected / largest, atol=LIMIT, rtol=0)


@needs_torch
def test_the_peer_computes_what_the_authors_code_does(tmp_path):
    case = Case(GOLDEN, "nested2_text")
    arrays = {f"weight/{key}": value for key, value in case.state.items()}
    arrays |= {f"x/{index}": case[f"in/x_{index}"] for index in range(2)}
    arrays |= {"time": case["in/times"].astype("float32"), "text": case["in/cond"]}
    arrays |= {"text_mask": case["in/cond_mask"].astype("float32")}
    arrays["config"] = json.dumps(case.config)
    for index, value in enumerate(peer(tmp_path, arrays)):
        np.testing.assert_allclose(value, case[f"out/{index}"], atol=LIMIT, rtol=0)


def test_a_network_that_the_peer_lacks_is_refused():
    unet = presets.build("mdm_s64", width=0.125)
    with pytest.raises(ValueError, match="text blocks"):
        official(unet.spec)

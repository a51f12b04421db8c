"""What a GPU computes is what a CPU computes, at the tolerances of its numbers. Not run without."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import TEXT_WIDTH, as_dataset, make_batch, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.cli import doctor_trials
from keras_mdm.optimizers import Adam

pytestmark = pytest.mark.gpu

# Relative to the largest value: rounding of sums in another order; 10 bits; 7 bits.
LIMITS = {"float32": 1e-4, "tf32": 2e-2, "mixed_bfloat16": 1e-1}


@pytest.fixture(scope="module", autouse=True)
def a_gpu():
    if not tf.config.list_logical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU")


@pytest.fixture(params=list(LIMITS))
def numbers(request):
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(request.param == "tf32")
    yield request.param
    tf.config.experimental.enable_tensor_float_32_execution(before)


def policy(numbers):
    return "float32" if numbers == "tf32" else numbers


def make(device, dtype="float32", **options):
    with tf.device(device):
        model = MatryoshkaDiffusion(tiny_unet(text_width=TEXT_WIDTH, dtype=dtype))
        model.compile(Adam(1e-3), **options)
    return model


def close(actual, expected, limit):
    expected = np.asarray(expected, "float32")
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(
        np.asarray(actual, "float32") / largest, expected / largest, atol=limit, rtol=0
    )


def losses(model, device):
    batch = make_batch(np.random.default_rng(0), 4)
    with tf.device(device):
        history = model.fit(as_dataset([batch] * 3), epochs=1, verbose=0)
    return history.history["loss"][-1]


def test_forward_pass(numbers):
    rng = np.random.default_rng(0)
    inputs = {f"z_{n}": rng.normal(size=(2, n, n, 3)).astype("float32") for n in (8, 16)}
    inputs |= {"time": np.array([3.0, 999.0], "float32")}
    inputs["text"] = rng.normal(size=(2, 3, TEXT_WIDTH)).astype("float32")
    cpu, gpu = make("CPU:0"), make("GPU:0", policy(numbers))
    with tf.device("CPU:0"):
        expected = cpu.unet(inputs)
    with tf.device("GPU:0"):
        found = gpu.unet(inputs)
    for level, value in expected.items():
        close(found[level], value, LIMITS[numbers])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_steps(numbers, jit_compile):
    expected = losses(make("CPU:0"), "CPU:0")
    found = losses(make("GPU:0", policy(numbers), jit_compile=jit_compile), "GPU:0")
    assert found == pytest.approx(expected, rel=LIMITS[numbers])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_pictures(numbers, jit_compile):
    """Noise is a function of the seed on any device."""
    rng = np.random.default_rng(0)
    text = {"text": rng.normal(size=(2, 3, TEXT_WIDTH)).astype("float32")}
    text["text_mask"] = np.ones((2, 3), "float32")
    given = {"steps": 4, "guidance_scale": 2.0, "output": "float32", "progress": False}
    with tf.device("CPU:0"):
        expected = make("CPU:0").generate(text, **given)
    with tf.device("GPU:0"):
        model = make("GPU:0", policy(numbers))
        found = model.generate(text, **given, jit_compile=jit_compile)
    for level, value in expected.items():
        # Guidance and four steps enlarge what a pass differs by.
        close(found[level], value, min(0.3, 5.0 * LIMITS[numbers]))


@pytest.mark.parametrize("name", list(doctor_trials.TRIALS))
def test_what_the_doctor_tries(name):
    result = doctor_trials.tried(name)
    assert result["result"] != "failed", result

"""Reconstruction guidance against its closed form on a linear network."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import CLIP, PLAIN_INNER, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.diffusion import schedules
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.sampling.denoiser import make_denoiser
from keras_mdm.sampling.plan import SamplingPlan, amounts_of

SIZE = 2 * 2 * 3
TIME, WEIGHT = 0.4, 3.0


def linear_case():
    """A process of one level, a network x0 = M x_t, and the matrix M."""
    process = LevelProcess.create(
        ("2",), schedules.get("cosine"), shift_power=2.0, prediction="x0", use_residual=False
    )
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype("float32")

    def network(inputs):
        flat = tf.reshape(inputs["z_2"], (-1, SIZE)) @ matrix.T
        return {"2": tf.reshape(flat, (-1, 2, 2, 3))}

    return process, network, matrix


def test_estimates_move_along_the_slope_of_what_is_missed():
    process, network, matrix = linear_case()
    rng = np.random.default_rng(1)
    x, picture = rng.uniform(-1, 1, (2, 3, 2, 2, 3)).astype("float32")
    mask = np.zeros((1, 2, 2, 1), "float32")
    mask[:, 0] = 1.0
    known = {"2": (tf.constant(picture), tf.constant(mask))}
    plan = SamplingPlan(threshold="none", reconstruction=True).unguided()
    amounts = amounts_of(["2"], reconstruction=WEIGHT)
    denoise = make_denoiser(network, process, plan, amounts, {}, known=known)
    found = denoise({"2": tf.constant(x)}, tf.constant(TIME))["2"].numpy().reshape(3, SIZE)
    alpha = float(process.amplitudes("2", TIME)[0])
    kept = np.broadcast_to(1.0 - mask, (1, 2, 2, 3)).reshape(SIZE)
    flat, wanted = x.reshape(3, SIZE).astype("float64"), picture.reshape(3, SIZE)
    x0 = flat @ matrix.T
    moved = x0 + WEIGHT * alpha * ((wanted - x0) * kept) @ matrix
    expected = np.where(kept, wanted, moved)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - np.where(kept, wanted, x0)).max() > 0.1  # it does move


@pytest.mark.slow
def test_it_reaches_the_levels_and_frames_that_are_not_known():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER, CLIP]))
    start = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3)).astype("uint8")
    mask = np.zeros((4, 8, 8), bool)
    mask[1:] = True
    options = {"num_images": 2, "steps": 3, "progress": False, "init_image": start, "mask": mask}
    plain = model.generate(**options)["4x8"]
    off, guided = (model.generate(**options, reconstruction=w)["4x8"] for w in (0.0, 4.0))
    np.testing.assert_array_equal(off, plain)
    np.testing.assert_array_equal(guided[:, 0], start[:, 0])
    assert np.any(guided[:, 1:] != plain[:, 1:])
    alone = model.generate(
        **{**options, "num_images": 1, "init_image": start[:1]}, reconstruction=4.0
    )["4x8"]
    np.testing.assert_array_equal(alone, guided[:1])  # rows do not pull at each other


def test_it_needs_something_that_is_known():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    with pytest.raises(ValueError, match=r"known pixels.*reconstruction=2\.0"):
        model.generate(num_images=1, reconstruction=2.0)
    with pytest.raises(ValueError, match="reconstruction"):
        model.generate(num_images=1, reconstruction=-1.0)

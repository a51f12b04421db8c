"""Files of latent diffusion: their tensors, and what the network computes with them."""

import json
import math
import pickle
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from tiny_models import THREE_PARTS

from keras_mdm import latents
from keras_mdm.interop import torch_writer
from keras_mdm.latents.compvis import entries, to_compvis

from .reference import Reference, first, last, state_of, values_of

GOLDEN = Path(__file__).parents[1] / "golden" / "kl_autoencoder.npz"
pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def state(golden):
    shapes = json.loads(golden["shapes"].tobytes())
    return {key: values_of(key, tuple(shape)) for key, shape in shapes.items()}


def test_it_computes_what_pytorch_computes(golden, state):
    codec = latents.KLAutoencoder.from_compvis(state)
    assert (codec.factor, codec.channels, codec.width, codec.blocks) == (4, 3, 32, 2)
    assert codec.multipliers == (1, 2, 2) and codec.attention == (0, 1, 0)
    mean, log_variance = codec.posterior(last(golden["picture"]))
    np.testing.assert_allclose(first(mean), golden["moments"][:, :3], atol=2e-5)
    np.testing.assert_allclose(first(log_variance), golden["moments"][:, 3:], atol=2e-5)
    np.testing.assert_allclose(first(codec(last(golden["picture"]))), golden["decoded"], atol=2e-5)


def test_the_reference_of_these_tests_computes_the_same(golden, state):
    reference = Reference(state)
    moments = reference.moments(golden["picture"].astype("float64"))
    np.testing.assert_allclose(moments, golden["moments"], atol=1e-10)
    decoded = reference.decoded(golden["moments"][:, :3])
    np.testing.assert_allclose(decoded, golden["decoded"], atol=1e-10)


def test_a_network_of_factor_8_and_narrow_groups():
    state = state_of(8, (1, 2, 2, 3), 1, 4, attention=(3,))
    codec = latents.KLAutoencoder.from_compvis(state, groups=4, scale=0.18215)
    assert (codec.factor, codec.channels, codec.multipliers) == (8, 4, (1, 2, 2, 3))
    reference = Reference(state, groups=4)
    images = np.random.default_rng(0).uniform(-1.0, 1.0, (1, 3, 16, 24))
    moments = reference.moments(images)
    # The published scale divides by one deviation, around zero.
    codes = codec.encode(last(images).astype("float32"))
    np.testing.assert_allclose(first(codes), 0.18215 * moments[:, :4], atol=2e-5)
    decoded = reference.decoded(moments[:, :4])
    np.testing.assert_allclose(first(codec.decode(codes)), decoded, atol=5e-5)


def test_the_published_size():
    """By default factor 8 has as many parameters as the autoencoder of Stable Diffusion."""
    with keras.StatelessScope(initialize_variables=False):
        codec = latents.KLAutoencoder(8)
    shapes = [tuple(variable.shape) for variable in codec.trainable_variables]
    assert sum(map(math.prod, shapes)) == 83_653_863


def test_keys_and_shapes_of_every_kind_of_layer():
    state = state_of(8, (1, 2, 2), 2, 3, attention=(0, 2))
    sizes = {"multipliers": (1, 2, 2), "width": 8, "groups": 4, "attention": (1, 0, 1)}
    found = {entry.key: entry.shape for entry in entries(latents.KLAutoencoder(4, **sizes))}
    assert found == {key: value.shape for key, value in state.items()}


def lightning(path, state):
    """Rewrite a checkpoint as PyTorch Lightning does: with callbacks and counters beside it."""
    torch_writer.write_state_dict(state, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = "archive/data.pkl"
    # The pickle's dict gains a key: {"callbacks": {<class ModelCheckpoint>: {"best": 0.5}}}.
    added = (
        pickle.BINUNICODE
        + (9).to_bytes(4, "little")
        + b"callbacks"
        + pickle.EMPTY_DICT
        + pickle.GLOBAL
        + b"pytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
        + pickle.EMPTY_DICT
        + pickle.SETITEM
        + pickle.SETITEM
    )
    assert parts[name].endswith(pickle.STOP)
    parts[name] = parts[name][:-1] + added + pickle.STOP
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


def test_a_file_of_lightning_with_the_loss_beside_the_network(tmp_path):
    state = state_of(32, (1, 1), 1, 3)
    others = {"loss.logvar": np.zeros(1, "float32"), "loss.perceptual_loss.a": np.ones(3, "f4")}
    lightning(tmp_path / "model.ckpt", {**state, **others})
    codec = latents.load_codec(tmp_path / "model.ckpt")
    found = to_compvis(codec)
    assert found.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    with pytest.raises(ValueError, match=f"scale of an autoencoder's codes.*{THREE_PARTS}"):
        codec.encode(np.zeros((1, 4, 4, 3), "uint8"))
    scaled = latents.load_codec(tmp_path / "model.ckpt", scale=0.5)
    assert np.asarray(scaled.code_deviation).tolist() == [2.0] * 3


def test_the_first_stage_of_a_whole_model():
    state = state_of(8, (1, 2), 1, 3)
    whole = {f"first_stage_model.{key}": value for key, value in state.items()}
    whole["model.diffusion_model.time_embed.0.weight"] = np.ones((2, 2), "float32")
    codec = latents.KLAutoencoder.from_compvis(whole, groups=4)
    np.testing.assert_array_equal(to_compvis(codec)["quant_conv.bias"], state["quant_conv.bias"])


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {"a.weight": np.ones(3)}, "must be those of a KL autoencoder"),
        (lambda s: without(s, "decoder.conv_out.bias"), r"missing=\['decoder.conv_out.bias'\]"),
        (lambda s: {**s, "encoder.down.0.extra.weight": np.ones(3)}, "unexpected=.*extra"),
        (lambda s: {**s, "decoder.norm_out.bias": np.ones(9)}, r"norm_out.bias: \(9,\) instead"),
        (lambda s: {**s, "quant_conv.bias": np.full(6, np.nan)}, "must be finite"),
        # A codebook's encoder returns codes, not mean and variance.
        (lambda s: {**s, "encoder.conv_out.weight": np.ones((3, 16, 3, 3))}, "mean and variance"),
    ],
)
def test_weights_of_something_else(change, said):
    with pytest.raises(ValueError, match=f"(?s){said}.*To fix it: "):
        latents.KLAutoencoder.from_compvis(change(state_of(8, (1, 2), 1, 3)), groups=4)


def test_a_scale_that_is_none():
    with pytest.raises(ValueError, match="`scale` must be positive" + THREE_PARTS):
        latents.KLAutoencoder.from_compvis(state_of(8, (1,), 1, 3), groups=4, scale=0.0)

"""The autoencoder of keras-hub, which is an independent implementation of the same network."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras_hub.models import CLIPTextEncoder, StableDiffusion3Backbone
from keras_hub.src.models.vae.vae_backbone import VAEBackbone
from tiny_models import THREE_PARTS

from keras_mdm import latents

from .reference import state_of

pytestmark = pytest.mark.usefixtures("eagerly")


def backbone(**options):
    sizes = {
        "encoder_num_filters": [32, 64],
        "encoder_num_blocks": [1, 1],
        "decoder_num_filters": [64, 32],
        "decoder_num_blocks": [2, 2],
        "sample_channels": 6,
    }
    return VAEBackbone(**sizes, name="vae", **options)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1.0, 1.0, (2, 8, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def codec():
    return latents.HubAutoencoder(backbone(), scale=0.5, shift=0.25)


def test_codes_are_those_of_the_backbone(codec, images):
    assert isinstance(codec, latents.Codec)
    assert (codec.factor, codec.channels, codec.image_channels) == (2, 3, 3)
    mean = np.asarray(codec.vae.encoder(images))[..., :3]
    np.testing.assert_allclose(codec.encode(images), (mean - 0.25) * 0.5, atol=1e-6)
    np.testing.assert_allclose(codec.decode((mean - 0.25) * 0.5), codec.vae.decode(mean), atol=1e-5)
    own = latents.HubAutoencoder(codec.vae)  # Stable Diffusion 3's numbers
    assert (own.scale, own.shift) == (1.5305, 0.0609)
    as_bytes = np.round((images + 1.0) * 127.5).astype("uint8")
    np.testing.assert_allclose(codec.encode(as_bytes), codec.encode(images), atol=0.02)


def test_a_file_keeps_it(codec, images, tmp_path):
    codec.save(tmp_path / "codec.keras")
    again = latents.load_codec(tmp_path / "codec.keras")
    assert (again.scale, again.shift) == (0.5, 0.25)
    np.testing.assert_array_equal(again.encode(images), codec.encode(images))


def hub_weights(state):
    """The state of latent diffusion in the order of the backbone's layers."""
    names = {"conv_in": "input_projection", "norm_out": "output_norm"}
    names |= {"conv_out": "output_projection", "mid.block_1": "mid_block_0"}
    names |= {"mid.block_2": "mid_block_1", "mid.attn_1": "mid_attention"}
    inside = {"norm": "group_norm", "q": "query_conv2d", "k": "key_conv2d", "v": "value_conv2d"}
    inside |= {"proj_out": "output_conv2d", "nin_shortcut": "residual_projection"}
    found = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        rest, _, kind = rest.rpartition(".")
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        path = rest.replace("down.0.downsample.conv", "downsample_0_conv")
        # The backbone numbers the decoder's resolutions from the lowest.
        path = path.replace("up.1.upsample.conv", "upsample_0_conv")
        path = path.replace("up.0.block", "block_1").replace("up.1.block", "block_0")
        for n in (0, 1):
            path = path.replace(f"down.{n}.block", f"block_{n}")
        for theirs, hubs in names.items():
            path = path.replace(theirs, hubs)
        path = path.replace("block_0.", "block_0_").replace("block_1.", "block_1_")
        path = path.replace("mid_block_0_", "mid_block_0.").replace("mid_block_1_", "mid_block_1.")
        *outer, end = path.split(".")
        name = "/".join([*outer, inside.get(end, end)])
        found[f"{part}/{name}/{kind}"] = value
    return found


def test_it_computes_what_our_autoencoder_computes(images):
    state = state_of(32, (1, 2), 1, 3)
    # The backbone has no convolutions between the encoder and its codes.
    state["quant_conv.weight"] = np.eye(6, dtype="float32")[:, :, None, None]
    state["post_quant_conv.weight"] = np.eye(3, dtype="float32")[:, :, None, None]
    for key in ("quant_conv.bias", "post_quant_conv.bias"):
        state[key] = np.zeros_like(state[key])
    vae, wanted = backbone(), hub_weights(state)
    for weight in [*vae.encoder.weights, *vae.decoder.weights]:
        path, _, kind = weight.path.rpartition("/")
        kind = {"gamma": "weight", "beta": "bias", "kernel": "weight"}.get(kind, kind)
        weight.assign(wanted.pop(f"{path.removeprefix('vae/')}/{kind}"))
    assert {key.partition("/")[0] for key in wanted} == {"quant_conv", "post_quant_conv"}
    theirs = latents.HubAutoencoder(vae, scale=0.5, shift=0.0)
    ours = latents.KLAutoencoder.from_compvis(state, scale=0.5)
    codes = theirs.encode(images)
    np.testing.assert_allclose(ours.encode(images), codes, atol=2e-5)
    np.testing.assert_allclose(ours.decode(codes), theirs.decode(codes), atol=5e-5)


@pytest.mark.slow
def test_a_file_in_a_process_that_did_not_import_keras_hub(codec, images, tmp_path):
    codec.save(tmp_path / "codec.keras")
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, numpy as np\n"
        "from keras_mdm import latents\n"
        "assert 'keras_hub' not in sys.modules\n"
        f"codec = latents.load_codec({str(tmp_path / 'codec.keras')!r})\n"
        f"codes = codec.encode(np.load({str(tmp_path / 'images.npy')!r}))\n"
        f"np.save({str(tmp_path / 'codes.npy')!r}, codes)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "codes.npy")
    np.testing.assert_allclose(found, codec.encode(images), atol=1e-5)


@pytest.mark.slow
def test_a_preset_of_stable_diffusion(images, tmp_path):
    def text(name):
        return CLIPTextEncoder(20, 64, 64, 2, 2, 128, intermediate_output_index=-2, name=name)

    vae = backbone()
    model = StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=64,
        mmdit_num_layers=1,
        mmdit_num_heads=2,
        mmdit_position_size=16,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=vae,
        clip_l=text("clip_l"),
        clip_g=text("clip_g"),
        latent_channels=3,
        image_shape=(16, 16, 3),
    )
    model.save_to_preset(str(tmp_path / "preset"))
    codec = latents.load_codec(f"hub:{tmp_path / 'preset'}")
    expected = latents.HubAutoencoder(vae).encode(images)
    np.testing.assert_allclose(codec.encode(images), expected, atol=1e-6)


def test_what_is_no_autoencoder(codec):
    with pytest.raises(ValueError, match="must be a VAEBackbone.*missing=" + ".*To fix it"):
        latents.HubAutoencoder(keras.Sequential())
    with pytest.raises(ValueError, match="keep channels last" + THREE_PARTS):
        latents.HubAutoencoder(backbone(data_format="channels_first"))
    with pytest.raises(ValueError, match="multiples of 2" + THREE_PARTS):
        codec.encode(np.zeros((1, 7, 8, 3), "float32"))


def test_without_keras_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub.models", None)
    with pytest.raises(ValueError, match="pip install keras-hub"):
        latents.load_codec("hub:stable_diffusion_3_medium")

"""A model of codes with its codec draws the decoded codes, and passes for one model."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_models import CLIP, PLAIN_INNER, THREE_PARTS, MeanColour, outer, tiny_unet

import keras_mdm
from keras_mdm import MatryoshkaDiffusion, evaluation, latents
from keras_mdm.cli import asked
from keras_mdm.cli import main as cli
from keras_mdm.evaluation.samples import weights_digest
from keras_mdm.latents import LatentDiffusion, SpaceToDepth
from keras_mdm.stages import channels_of, levels_of, stages_of

from .tiny import pictures, tiny

pytestmark = pytest.mark.usefixtures("eagerly")
OPTIONS = {"steps": 2, "progress": False}


def model_of(channels, levels=(PLAIN_INNER,), **options):
    sizes = {"in_channels": channels, "out_channels": channels, **options}
    return MatryoshkaDiffusion(tiny_unet(list(levels), **sizes), threshold="none")


@pytest.fixture(scope="module")
def latent():
    codec = tiny()
    codec.measure_scale(pictures(12, size=16))
    return LatentDiffusion(model_of(3, num_classes=3), codec)


def decoded(latent, **options):
    codes = latent.diffusion.generate(**OPTIONS, output="float32", **options)
    return {"16": latents.to_pictures(latent.codec, codes["8"])}


def assert_same(found, expected, tolerance=0):
    assert list(found) == list(expected)
    for level, value in expected.items():
        assert np.abs(np.asarray(found[level]).astype(int) - value).max() <= tolerance, level


def test_it_draws_the_decoded_codes(latent):
    given = {"labels": [0, 1, 2], "seed": 4}
    expected = decoded(latent, **given, guidance_scale=2.0)
    assert latent.levels == levels_of(latent) == ("16",)
    assert stages_of(latent) == (latent.diffusion,) and channels_of(latent) == 3
    assert_same(latent.generate(**given, **OPTIONS, guidance_scale={"16": 2.0}), expected)
    # One picture at a time: not a matter of the others.
    one = latent.generate(**given, **OPTIONS, guidance_scale=2.0, batch_size=2)
    assert_same(one, expected, 1)
    start = pictures(1, size=16)[0]
    changed = latent.generate(labels=[1], init_image=start, strength=0.0, **OPTIONS)
    assert_same(
        changed, {"16": latents.to_pictures(latent.codec, latent.codec.encode(start[None]))}
    )
    assert latent.generate(**given, **OPTIONS, dry_run=True) == {}


def test_a_start_picture_of_another_size_is_resized_before_it_is_encoded():
    # The codec's blocks would not be those of the picture at the level's size.
    latent = LatentDiffusion(model_of(12, [PLAIN_INNER]), SpaceToDepth(2))
    plain = model_of(3, [dataclasses.replace(PLAIN_INNER, size=16)])
    for size in (32, 33):
        given = {"init_image": pictures(2, size=size), "num_images": 2, "strength": 0.0}
        expected = plain.generate(**given, **OPTIONS)
        assert_same(latent.generate(**given, **OPTIONS), expected, 1)
        assert latent.generate(**given, **OPTIONS, dry_run=True) == {}


def test_clips_to_change_are_encoded_frame_by_frame():
    moving = LatentDiffusion(model_of(12, [PLAIN_INNER, CLIP]), SpaceToDepth(2))
    clips = np.stack([pictures(4, size=16), pictures(4, size=16)[::-1]])
    for given in (clips, clips[0]):
        changed = moving.generate(init_image=given, num_images=2, strength=0.0, **OPTIONS)
        expected = np.broadcast_to(given, (2, 4, 16, 16, 3))
        assert np.abs(changed["4x16"].astype(int) - expected).max() <= 1


def test_files_hold_no_moments(tmp_path):
    latent = LatentDiffusion(model_of(3), tiny())
    latent.codec.measure_scale(pictures(12, size=16))
    latent.save(tmp_path / "plain.keras")
    latent.codec.compile(keras_mdm.optimizers.Adam(1e-3))
    latent.codec.optimizer.build(latent.codec.trainable_variables)
    latent.diffusion.compile(keras_mdm.optimizers.Adam(1e-3))
    latent.diffusion.optimizer.build(latent.diffusion.unet.trainable_variables)
    latent.save(tmp_path / "compiled.keras")
    sizes = [(tmp_path / f"{name}.keras").stat().st_size for name in ("plain", "compiled")]
    assert sizes[1] < 1.05 * sizes[0]
    assert latent.codec.optimizer is not None and latent.diffusion.compiled


def test_checking_alone_encodes_nothing(monkeypatch):
    latent = LatentDiffusion(model_of(12, [PLAIN_INNER]), SpaceToDepth(2))
    monkeypatch.setattr(SpaceToDepth, "encode", lambda *_: pytest.fail("encoded"))
    given = {"init_image": pictures(1, size=64)[0], "num_images": 2, "strength": 0.5}
    assert latent.generate(**given, **OPTIONS, dry_run=True) == {}


def test_levels_and_clips_by_a_codec_without_weights():
    latent = LatentDiffusion(model_of(12, [PLAIN_INNER, outer(16)]), SpaceToDepth(2))
    assert latent.levels == ("16", "32")
    found = latent.generate(num_images=2, **OPTIONS)
    assert found["16"].shape == (2, 16, 16, 3) and found["32"].shape == (2, 32, 32, 3)
    moving = LatentDiffusion(model_of(12, [PLAIN_INNER, CLIP]), SpaceToDepth(2))
    assert moving.levels == ("16", "4x16")
    assert moving.generate(num_images=1, **OPTIONS)["4x16"].shape == (1, 4, 16, 16, 3)


@pytest.mark.parametrize("codec", ["trained", "without weights"])
def test_one_file_holds_both(latent, codec, tmp_path):
    if codec != "trained":
        latent = LatentDiffusion(model_of(12, num_classes=3), SpaceToDepth(2))
    path = tmp_path / "latent.keras"
    latent.save(path)
    expected = latent.generate(labels=[0, 1], **OPTIONS)
    for load in (keras_mdm.load, keras.saving.load_model):
        again = load(path)
        assert isinstance(again, LatentDiffusion) and not again.diffusion.compiled
        assert_same(again.generate(labels=[0, 1], **OPTIONS), expected)
        assert weights_digest(again) == weights_digest(latent)
    alone = latents.load_codec(path)
    assert latents.identity_of(alone) == latents.identity_of(latent.codec)


@pytest.mark.usefixtures("traced")
def test_what_is_exported_draws_the_same(latent, tmp_path):
    assert latent.export(tmp_path / "served") == tmp_path / "served" / "1"
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["scalars"]
    given = {"label": tf.constant([2, 0]), "steps": tf.constant(2)}
    given |= {"seed": tf.constant(5, tf.int64), "guidance_scale": tf.constant(2.0)}
    expected = latent.generate(labels=[2, 0], guidance_scale=2.0, seed=5, **OPTIONS)
    assert_same(served(**given), expected, 1)


def test_decoded_pictures_are_evaluated(latent, tmp_path):
    request = evaluation.Request(6, labels=[0, 1, 2] * 2, batch_size=4, options={"steps": 2})
    given = {"features": MeanColour(), "measures": ("kernel",), "few": True, "progress": False}
    given |= {"request": request, "directory": tmp_path / "pictures"}
    real = {"16": pictures(8, size=16)}
    found = evaluation.evaluate(latent, real, **given)
    assert {row.subject for row in found.rows} == {"16"}
    drawn = np.asarray(Image.open(tmp_path / "pictures" / "16" / "00005.png"))
    expected = latent.generate(labels=[2], seed=[5], **OPTIONS)["16"][0]
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    # Pictures of another codec are others.
    before = np.asarray(latent.codec.code_shift).copy()
    latent.codec.code_shift.assign(before + 1.0)
    with pytest.raises(ValueError, match="another model"):
        evaluation.evaluate(latent, real, **given)
    latent.codec.code_shift.assign(before)


def test_the_command_line(latent, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(asked, "features_of", lambda name: MeanColour())
    file = str(tmp_path / "latent.keras")
    latent.save(file)
    out = tmp_path / "samples"
    assert cli.main(["sample", file, "--label", "1", "--steps", "2", "--out", str(out)]) == 0
    found = np.asarray(Image.open(out / "000-label-1_16.png"))
    assert np.abs(found.astype(int) - latent.generate(labels=[1], **OPTIONS)["16"][0]).max() <= 1
    assert cli.main(["sample", file, "--label", "1", "--as", "codes"]) == 2
    assert "draws pictures" in capsys.readouterr().err
    assert cli.main(["cut", file, "16", str(tmp_path / "16.keras")]) == 2
    assert "model.diffusion" in capsys.readouterr().err


def test_a_run_of_codes_is_not_taken_for_one_of_pictures(latent, tmp_path, monkeypatch, capsys):
    """The paper's codes have three channels, like pictures."""
    monkeypatch.setattr(asked, "features_of", lambda name: MeanColour())
    run = tmp_path / "run"
    run.mkdir()
    latent.diffusion.save(run / "model.keras")
    latent.save(run / "latent.keras")
    noted = {"phases": [], "sampling": {"output": "float32", "steps": 2}}
    (run / "run.json").write_text(json.dumps(noted))
    out = str(tmp_path / "out")
    words = ["sample", str(run / "model.keras"), "--label", "1", "--steps", "2", "--out", out]
    assert cli.main(words) == 0
    (name,) = [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]
    assert name == "000-label-1_8.npy"
    assert cli.main(["evaluate", str(run / "model.keras"), "--reference", "emoji"]) == 2
    assert "this run's draws codes" in capsys.readouterr().err
    words[1] = str(run / "latent.keras")
    assert cli.main(words) == 0
    assert "001-label-1_16.png" in capsys.readouterr().out


class Grey:
    """A codec of the user's that a file cannot name."""

    factor, channels = 2, 3

    def __init__(self, image_channels=3):
        self.image_channels = image_channels

    def encode(self, images):
        return images[:, ::2, ::2]

    def decode(self, codes):
        return tf.repeat(tf.repeat(codes, 2, 1), 2, 2)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (lambda: (model_of(4), tiny()), "as many channels as the codes of the model"),
        (lambda: (model_of(3), "codec"), "must have `factor`"),
        (lambda: (tiny_unet([PLAIN_INNER]), tiny()), "must be a MatryoshkaDiffusion"),
        (lambda: (model_of(3), Grey(2)), "pictures of 1, 3 or 4 channels"),
    ],
)
def test_parts_that_do_not_fit(parts, said):
    with pytest.raises(ValueError, match=said + ".*" + THREE_PARTS):
        LatentDiffusion(*parts())


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1001},
        {"output": "float32"},
        {"mask": np.ones((16, 16), bool)},
        {"guidance_scale": {"8": 2.0}},
        {"stepz": 2},
        {"labels": [0, 3]},
        {"init_image": np.zeros((15, 16, 3), "uint8")},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_is_wrong_is_said_before_anything_is_drawn(latent, monkeypatch, options):
    monkeypatch.setattr("keras_mdm.sampling.generate._draw", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ValueError, match=THREE_PARTS):
        latent.generate(**{"labels": [0, 1], **OPTIONS, **options})


def test_training_both_at_once_and_unknown_scales_are_refused(tmp_path):
    unmeasured = LatentDiffusion(model_of(3), tiny())
    with pytest.raises(ValueError, match="one by one" + THREE_PARTS):
        unmeasured.compile("adam")
    for use in (
        lambda: unmeasured.generate(num_images=1),
        lambda: unmeasured.export(tmp_path / "a"),
    ):
        with pytest.raises(ValueError, match="must be measured" + THREE_PARTS):
            use()
    with pytest.raises(ValueError, match="registered with Keras.*" + THREE_PARTS):
        LatentDiffusion(model_of(3), Grey()).save(tmp_path / "grey.keras")

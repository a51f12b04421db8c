"""The recipes of autoencoders and of latent diffusion."""

import argparse
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from data import sources
from latents.tiny import pictures, tiny
from PIL import Image
from tiny_models import FakeEncoder, MeanColour

from keras_mdm import LevelSpec, Phase, assets, describe, evaluation, latents, load, presets
from keras_mdm.data import CaptionedImages
from keras_mdm.models.resolve import resolve

pytestmark = pytest.mark.usefixtures("eagerly")
ROOT = Path(__file__).parents[1]


def test_the_papers_networks(recipe):
    paper = recipe("latent").paper
    (four,) = paper(4, "class").phases[0].levels
    assert resolve([four]) == resolve(presets.PAPER["mdm_s64"])
    (eight,) = paper(8, "text").phases[0].levels
    # Appendix D.2: codes of 32, and the same layers, but no downsampling after the first block.
    assert resolve([eight]).levels[0].resolutions == (32, 32, 16)
    halved = LevelSpec(32, channels=four.channels, blocks=four.blocks, attention=four.attention)
    sizes = {
        name: describe(resolve([level], in_channels=c, out_channels=c))
        for name, level, c in (("f4", four, 3), ("f8", eight, 4))
    }
    in_and_out = 2 * 9 * 256 + 1  # of one channel
    assert sizes["f8"]["parameters"] - sizes["f4"]["parameters"] == in_and_out
    # "To preserve a similar computational footprint" with a quarter of the positions.
    assert 0.7 < sizes["f8"]["gflop"] / sizes["f4"]["gflop"] < 1.0
    assert resolve([halved]).levels[0].resolutions == (32, 16, 8)  # what it would be otherwise


@pytest.mark.parametrize(("condition", "batch"), [("class", 256), ("text", 1024)])
def test_the_papers_training(recipe, condition, batch):
    scale = recipe("latent").paper(4, condition)
    (phase,) = scale.phases
    assert (phase.steps, phase.batch_size) == (500_000, batch)
    assert (phase.learning_rate, phase.warmup_steps) == (1e-4, 30_000)
    assert scale.process["ema_decay"] == 0.9999 and scale.process["threshold"] == "none"
    assert scale.sampling["sampling"] == "paper" and scale.noted == {"output": "float32"}
    for factor in (4, 8):
        network = recipe("autoencoder").PAPER[factor].network
        assert dict(network) == {"factor": factor}  # the published sizes are the defaults


def test_small_levels_are_those_of_the_codes(recipe):
    for factor, resolutions in ((4, (16, 8, 4)), (8, (8, 8, 4))):
        (level,) = recipe("latent").small(factor, "text").phases[0].levels
        side = recipe("autoencoder").SMALL[factor].size // factor
        assert level.size == side and level.resolutions == resolutions
        resolve([level], in_channels=4, out_channels=4)


@pytest.fixture
def codec():
    made = tiny(2)
    made.measure_scale(pictures(12))
    return made


def test_drawings_are_encoded_once_and_stay_with_their_captions(recipe, monkeypatch, codec):
    images = pictures(70)
    few = CaptionedImages({8: images}, tuple(map(str, range(70))), np.full(70, -1, "int32"), ())
    monkeypatch.setattr(recipe("shared.drawings"), "load", lambda *_, **__: few)
    monkeypatch.setattr(
        recipe("shared.pictures").mdm.text, "encode_cached", lambda e, c: e.encode(c)
    )
    arguments = argparse.Namespace(data=None, seed=0, flip=False)
    encoder = FakeEncoder()
    data = recipe("shared.codes").Codes(
        arguments, ["4"], encoder, {}, codec=codec, condition="text"
    )
    assert data.conditions == {"text_width": encoder.width, "in_channels": 3, "out_channels": 3}
    assert data.identity["codec"] == latents.identity_of(codec)
    states, _ = encoder.encode(few.captions)
    codes = np.asarray(codec.encode(images))
    phase = Phase([LevelSpec(4, channels=(32,))], 1, batch_size=16)
    monkeypatch.setattr(latents, "to_codes", lambda *_: pytest.fail("encoded again"))
    batch = next(iter(data.datasets()(phase, 2)))
    for code, text in zip(batch["image"].numpy(), batch["text"].numpy(), strict=True):
        (row,) = np.flatnonzero(np.isclose(codes, code, atol=1e-4).all((1, 2, 3)))
        np.testing.assert_array_equal(text, states[row])
    seen = [batch["image"] for batch in data.validation(phase)]
    assert len(seen) == 4
    rows = np.concatenate(seen)
    assert all(np.isclose(codes[:64], code, atol=1e-4).all((1, 2, 3)).any() for code in rows)


def test_files_are_encoded_as_they_are_read(recipe, codec, tmp_path):
    folder = sources.write("folder", tmp_path / "pictures")
    words = ["--data", str(folder)]
    arguments = recipe("shared.options").picture_parser("x", run_dir="x").parse_args(words)
    codec.code_deviation.assign(np.zeros(3))  # as of a published file
    data = recipe("shared.codes").Codes(arguments, ["4"], None, {}, codec=codec, condition="none")
    deviation = np.asarray(codec.code_deviation)
    assert np.all(deviation > 0.0)  # measured on the pictures
    phase = Phase([LevelSpec(4, channels=(32,))], 1, batch_size=3)
    batch = next(iter(data.datasets()(phase, 0)))
    assert batch["image"].shape == (3, 4, 4, 3)
    plain = recipe("shared.pictures").Pictures(arguments, ["8"], None, {}, condition="none")
    expected = next(iter(plain.datasets()(Phase([8], 1, batch_size=3), 0)))["image"]
    np.testing.assert_allclose(batch["image"], codec.encode(expected), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("latent", ["--data", "x"], "--data needs --autoencoder"),
        ("latent", ["--scale", "paper"], "pass --data SOURCE"),
        ("latent", ["--condition", "class", "--text-encoder", "x"], "is about captions"),
        ("latent", ["--flip"], "--flip is for data in files"),
        ("latent", ["--factor", "2"], "invalid choice"),
        ("autoencoder", ["--scale", "paper"], "pass --data SOURCE"),
        ("autoencoder", ["--flip"], "--flip is for data in files"),
        ("autoencoder", ["--steps", "0"], "must be a whole number above 0"),
    ],
)
def test_what_contradicts_is_refused(recipe, monkeypatch, capsys, name, words, said):
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit):
        recipe(name).main()
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_an_autoencoder_of_another_factor_is_refused(recipe, codec, tmp_path):
    codec.save(tmp_path / "codec.keras")
    with pytest.raises(ValueError, match="must have the run's factor. Received: 2, --factor 4"):
        recipe("latent").data_of(autoencoder=tmp_path / "codec.keras", factor=4, condition="none")


def test_an_autoencoder_of_a_folder(recipe, monkeypatch, tmp_path, capsys):
    policy = keras.config.dtype_policy()
    folder = sources.write("folder", tmp_path / "pictures")
    words = ["--data", str(folder), "--scale", "small", "--size", "16", "--steps", "1"]
    words += ["--batch", "2", "--run-dir", str(tmp_path / "run"), "--strategy", "one"]
    monkeypatch.setattr(evaluation, "EfficientNetLite0", MeanColour)
    try:
        for more in (["--dry-run"], []):
            monkeypatch.setattr(sys, "argv", ["autoencoder", *words, *more, "--dtype", "float32"])
            recipe("autoencoder").main()
            assert (tmp_path / "run").exists() == (not more)
    finally:
        keras.config.set_dtype_policy(policy)
    told = capsys.readouterr().out
    assert "too few to hold any out" in told and "| kernel distance x 1000 |" in told
    assert '"codes": [4, 4, 3]' in told
    codec = latents.load_codec(tmp_path / "run")
    assert codec.factor == 4 and np.all(np.asarray(codec.code_deviation) > 0.0)
    with Image.open(tmp_path / "run" / "reconstructions.png") as picture:
        assert picture.height == 2 * 16 + 2  # the pictures over their reconstructions


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("factor", [4, 8])
def test_both_recipes_from_start_to_samples(tmp_path, factor):
    """The same command again changes nothing."""
    if not assets.is_fetched("minilm"):
        pytest.skip("needs `keras-mdm assets fetch emoji minilm efficientnet-lite0`")
    python = [sys.executable]
    small = [str(ROOT / "recipes" / "autoencoder.py"), "--steps", "2", "--batch", "2"]
    small += ["--factor", str(factor), "--run-dir", str(tmp_path / f"autoencoder_f{factor}")]
    done = subprocess.run([*python, *small], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| PSNR, dB |" in done.stdout
    assert (tmp_path / f"autoencoder_f{factor}" / "reconstructions.png").is_file()
    words = [str(ROOT / "recipes" / "latent.py"), "--factor", str(factor), "--phase-steps", "2"]
    words += ["--phase-batches", "2", "--sampling-steps", "2", "--worth", "0"]
    words += ["--run-dir", str(tmp_path / "latent")]
    for _ in range(2):
        done = subprocess.run([*python, *words], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
    model = load(tmp_path / "latent" / "latent.keras")
    assert model.levels == ("64",) and model.codec.factor == factor
    for name in ("samples.png", "model.keras", "saved_model"):
        assert (tmp_path / "latent" / name).exists()

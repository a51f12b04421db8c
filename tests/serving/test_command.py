"""`keras-mdm serve`: what it serves, and what it refuses before anything is loaded."""

import sys

import pytest
from tiny_models import PLAIN_INNER, tiny_unet

from keras_mdm import serving
from keras_mdm.cli import main as cli
from keras_mdm.serving import extra
from keras_mdm.training import MatryoshkaDiffusion


@pytest.fixture(scope="module")
def model():
    notes = {"title": "Cats", "data": "Nine cats."}
    return MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], num_classes=3), notes=notes)


@pytest.fixture
def served(monkeypatch):
    """What the command would run."""
    found = []
    monkeypatch.setattr(
        serving, "run", lambda painter, limits, **options: found.append((painter, limits, options))
    )
    monkeypatch.setattr(extra, "check_installed", lambda: None)
    monkeypatch.delenv("KERAS_MDM_TOKEN", raising=False)
    return found


def error_of(capsys, *words):
    assert cli.main(["serve", *map(str, words)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("keras-mdm: error: ")
    return error


def test_a_file_and_a_preset_are_served_with_their_cards(model, served, tmp_path):
    model.save(tmp_path / "model.keras")
    model.save_preset(tmp_path / "preset")
    card = (tmp_path / "preset" / "README.md").read_text()
    (tmp_path / "preset" / "README.md").write_text(f"{card}\nEdited.\n")
    words = ["--port", "0", "--max-steps", "9", "--queue", "3", "--samplers", "euler"]
    assert cli.main(["serve", str(tmp_path / "model.keras"), *words]) == 0
    assert cli.main(["serve", str(tmp_path / "preset"), "--weights", "raw"]) == 0
    (painter, limits, options), (other, _, preset) = served
    assert painter.most_steps == 9 and limits.queue == 3
    assert painter.described()["samplers"] == ["ddim", "euler"]
    assert painter.described()["notes"]["title"] == "Cats"
    assert (options["host"], options["port"], options["token"]) == ("127.0.0.1", 0, None)
    assert "Nine cats." in options["card"] and preset["card"].endswith("Edited.\n")
    assert other.weights == "raw"


def test_the_token_comes_from_the_option_or_the_environment(model, served, tmp_path, monkeypatch):
    model.save(tmp_path / "model.keras")
    words = ["serve", str(tmp_path / "model.keras")]
    monkeypatch.setenv("KERAS_MDM_TOKEN", "from-there")
    for more in (["--host", "0.0.0.0"], ["--token", "from-here"], ["--no-token"]):
        assert cli.main([*words, *more]) == 0
    assert [options["token"] for _, _, options in served] == ["from-there", "from-here", None]


def test_what_is_refused_before_anything_is_loaded(capsys, served, tmp_path):
    missing = tmp_path / "none.keras"
    assert "needs a token" in error_of(capsys, missing, "--host", "0.0.0.0")
    assert "`queue` must be" in error_of(capsys, missing, "--queue", "0")
    assert "a model must be a .keras file" in error_of(capsys, missing)
    (tmp_path / "saved_model.pb").touch()
    assert "--weights of an exported model" in error_of(capsys, tmp_path, "--weights", "raw")
    assert "export the model again" in error_of(capsys, tmp_path)
    assert not served


def test_models_that_cannot_be_served(capsys, served, tmp_path):
    unet = tiny_unet([PLAIN_INNER], in_channels=8, out_channels=8)
    MatryoshkaDiffusion(unet, threshold="none").save(tmp_path / "codes.keras")
    assert "a model of codes cannot be served" in error_of(capsys, tmp_path / "codes.keras")
    assert not served


def test_a_missing_package_is_named_with_a_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    error = error_of(capsys, tmp_path / "none.keras")
    assert "missing='fastapi'" in error
    assert "run `pip install fastapi uvicorn prometheus-client`" in error

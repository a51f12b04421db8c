"""What a recipe leaves at its end belongs to the model as it is now."""

import argparse
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from data import sources
from PIL import Image
from tiny_models import PLAIN_INNER, FakeEncoder, tiny_unet

from keras_mdm import MatryoshkaDiffusion, assets, text

pytestmark = pytest.mark.usefixtures("eagerly")
ROOT = Path(__file__).parents[1]


class Nothing:
    def show(self, model, run_dir, sampling):
        return {}


def test_export_and_measures_follow_the_model(recipe, tmp_path, capsys):
    training, notes, worth = (recipe(f"shared.{name}") for name in ("training", "notes", "worth"))
    current = recipe("shared.current")
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), sampling={"steps": 2})
    arguments = argparse.Namespace(run_dir=str(tmp_path), data="x", worth=0)

    def finish():
        training.finish(model, Nothing(), arguments, {"batch_size": 2}, None)
        return sorted(p.name for p in (tmp_path / "saved_model").iterdir() if p.is_dir())

    def card():
        return (notes.preset(model, arguments, []) / "README.md").read_text()

    assert finish() == finish() == ["1"]
    report = {"levels": [{"level": "8", "value": 12.25}], "rows": []}
    (tmp_path / worth.FILE).write_text(json.dumps(report))
    current.note(worth.FILE, model, tmp_path)
    assert current.is_of(worth.FILE, model, tmp_path)
    model.sampling = {"steps": 3}
    assert finish() == ["1", "2"] and not current.is_of(worth.FILE, model, tmp_path)
    weight = model.unet.trainable_weights[0]
    weight.assign(weight + 1.0)
    assert finish() == finish() == ["1", "2", "3"]
    assert "12.2" not in card()
    (tmp_path / current.FILE).write_text("damaged")
    assert finish() == ["1", "2", "3", "4"]


def test_the_card_names_the_recipe(recipe, monkeypatch):
    for command in ("keras-mdm train folder", "recipes/folder.py"):
        monkeypatch.setattr(sys, "argv", [command])
        found = recipe("shared.notes").of_training([])
        assert found["training"].startswith("keras-mdm train folder:")


def test_a_cascade_learns_from_a_single_picture(recipe, tmp_path):
    drawings = recipe("shared.drawings")
    Image.fromarray(np.full((16, 16, 3), 90, "uint8")).save(tmp_path / "one.png")
    arguments = argparse.Namespace(data=str(tmp_path), run_dir=str(tmp_path / "run"), seed=0)
    process = {"downsample": "area"}
    made = drawings.Enlarged(arguments, ["16"], FakeEncoder(), process, sees=8)
    assert made.grids(5, {"steps": 2}) is not None


def test_a_released_model_is_trained_with_its_own_text_encoder(
    recipe, monkeypatch, tmp_path, capsys
):
    if not assets.is_fetched("minilm"):
        pytest.skip("needs `keras-mdm assets fetch minilm`")
    folder = sources.write("folder", tmp_path / "pictures")
    model = MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER], text_width=384), text_encoder=text.MiniLM(length=9)
    )
    model.save(tmp_path / "own.keras")
    unknown = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], text_width=384))
    unknown.save(tmp_path / "unknown.keras")
    policy = keras.config.dtype_policy()

    def run(name):
        words = ["--model", str(tmp_path / name), "--data", str(folder), "--dry-run"]
        words += ["--run-dir", str(tmp_path / "run"), "--strategy", "one"]
        monkeypatch.setattr(sys, "argv", ["finetune_released", *words])
        recipe("finetune_released").main()

    try:
        run("own.keras")
        assert '"length": 9' in capsys.readouterr().out
        with pytest.raises(ValueError, match="pass --text-encoder DIR"):
            run("unknown.keras")
    finally:
        keras.config.set_dtype_policy(policy)

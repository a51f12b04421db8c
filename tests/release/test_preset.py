"""Presets are whole or refused, and their cards are what readers and Hugging Face expect."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_models import INNER, PLAIN_INNER, TEXT_WIDTH, THREE_PARTS, FakeEncoder, outer, tiny_unet

import keras_mdm as mdm
from keras_mdm import release
from keras_mdm.cli.main import main
from keras_mdm.release import fetching
from keras_mdm.release.card import card

ROW = {"subject": "16", "measure": "kernel distance x 1000", "value": 12.5, "error": None}
METRICS = {"rows": [{**ROW, "floor": 0.25, "drawn": 128, "real": 251}]}
NOTES = {"data": "251 drawings", "licence": "CC BY 4.0", "attribution": "Drawn by many"}


@pytest.fixture(scope="module")
def model():
    made = mdm.MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER, outer(16)], num_classes=2),
        sampling={"steps": 2, "guidance_scale": {"8": 2.0, "16": 1.0}},
        class_names=["red apple", "cow"],
        notes=NOTES,
    )
    made.compile("muon")
    return made


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(folder / "samples.png")
    return model.save_preset(folder / "preset", pictures=[folder / "samples.png"], metrics=METRICS)


@pytest.fixture
def preset(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "preset"))


def pictures(model):
    return model.generate(labels=["cow"], progress=False)


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[level], second[level]) for level in first
    )


def test_a_preset_is_the_model(model, written):
    expected = pictures(model)
    assert same(pictures(mdm.MatryoshkaDiffusion.from_preset(written)), expected)
    assert same(pictures(mdm.load(written)), expected)
    assert model.compiled and model.optimizer is not None  # given back
    assert sorted(file.name for file in written.iterdir()) == [
        "README.md",
        "images",
        "model.keras",
        "preset.json",
    ]


def test_it_is_written_without_the_optimizer(model, written, tmp_path):
    model.save(tmp_path / "model.keras")
    assert (written / "model.keras").stat().st_size < (tmp_path / "model.keras").stat().st_size


def test_a_file_system_of_tensorflow(model, written, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "cache_root", lambda: tmp_path / "cache")
    address = "ram://bucket/preset"
    tf.io.gfile.makedirs(address)
    for file in ("model.keras", "preset.json"):
        tf.io.gfile.copy(str(written / file), f"{address}/{file}", overwrite=True)
    loaded = mdm.MatryoshkaDiffusion.from_preset(address)
    assert same(pictures(loaded), pictures(model))
    tf.io.gfile.remove(f"{address}/model.keras")  # the second time it is here
    assert same(pictures(mdm.load(address + "/")), pictures(model))
    with pytest.raises(ValueError, match="within reach") as problem:
        mdm.load("ram://bucket/nothing")
    assert problem.match(THREE_PARTS)
    with pytest.raises(ValueError, match="within reach"):
        mdm.load("nowhere://bucket/preset")


def test_what_is_damaged_elsewhere_is_not_kept(written, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "cache_root", lambda: tmp_path / "cache")
    address = "ram://bucket/damaged"
    tf.io.gfile.makedirs(address)
    tf.io.gfile.copy(str(written / "preset.json"), f"{address}/preset.json", overwrite=True)
    with pytest.raises(ValueError, match="missing='model.keras'"):
        mdm.load(address)
    tf.io.gfile.copy(str(written / "model.keras"), f"{address}/model.keras", overwrite=True)
    mdm.load(address)


def test_hugging_face(model, written, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(written)

    monkeypatch.setattr(hub, "snapshot_download", download)
    found = mdm.MatryoshkaDiffusion.from_preset("hf://user/apples@v1")
    assert same(pictures(found), pictures(model))
    assert asked == [("user/apples", "v1", ["model.keras", "preset.json"])]
    with pytest.raises(ValueError, match="hf://USER/NAME"):
        mdm.load("hf://apples")

    def refuse(*given, **options):
        raise OSError("no network\nlong story")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match="OSError: no network'") as problem:
        mdm.load("hf://user/apples")
    assert problem.match(THREE_PARTS)


def test_without_the_package_of_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        mdm.load("hf://user/apples")


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "model.keras").unlink(), "missing='model.keras'"),
        (lambda p: (p / "model.keras").write_bytes(b"PK"), "damaged='model.keras'"),
        (lambda p: change(p / "preset.json", format=2), "format 1 .*format=2"),
        (lambda p: change(p / "preset.json", format=None), "format=None"),
        (lambda p: (p / "preset.json").write_text("{"), "not JSON"),
        (lambda p: change(p / "preset.json", files=[]), "files"),
        (lambda p: (p / "preset.json").unlink(), "preset.json and model.keras"),
    ],
)
def test_what_is_not_whole(preset, damage, message):
    damage(preset)
    with pytest.raises(ValueError, match=message) as problem:
        mdm.MatryoshkaDiffusion.from_preset(preset)
    assert problem.match(THREE_PARTS)


def test_a_card_may_be_edited(preset):
    (preset / "README.md").write_text("mine")
    assert release.model_of(preset) == preset / "model.keras"


def test_of_another_class(written):
    with pytest.raises(ValueError, match="MatryoshkaDiffusion.from_preset"):
        mdm.Cascade.from_preset(written)


def test_nothing_is_overwritten_or_half_written(model, preset, tmp_path, monkeypatch):
    before = (preset / "model.keras").read_bytes()
    with pytest.raises(ValueError, match="overwrite=True"):
        model.save_preset(preset)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be empty"):
        model.save_preset(full, overwrite=True)
    with pytest.raises(ValueError, match="upload"):
        model.save_preset("gs://bucket/preset")
    with pytest.raises(ValueError, match="pictures"):
        model.save_preset(tmp_path / "new", pictures=[full / "mine.txt"])
    with pytest.raises(ValueError, match="report of `evaluate`"):
        model.save_preset(tmp_path / "new", metrics={"kernel": 3})

    def full_disk(*given, **options):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(mdm.MatryoshkaDiffusion, "save", full_disk)
        with pytest.raises(OSError, match="no space"):
            model.save_preset(preset, overwrite=True)
        with pytest.raises(OSError, match="no space"):
            model.save_preset(tmp_path / "new")
    assert (preset / "model.keras").read_bytes() == before and model.compiled
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", "preset"]
    release.model_of(preset)
    (preset / "preset.json").write_text("{")
    model.save_preset(preset, overwrite=True)  # mends a damaged one
    release.model_of(preset)


def test_what_the_user_put_into_a_preset_stays(model, preset, tmp_path):
    plain = (preset / "README.md").read_text()
    picture = tmp_path / "my (best) [1].png"
    Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(picture)
    model.save_preset(
        preset, overwrite=True, pictures=[picture]
    )  # a card nobody edited is replaced
    card = (preset / "README.md").read_text()
    assert card != plain and "(images/my%20%28best%29%20%5B1%5D.png)" in card
    (preset / ".git").mkdir()
    (preset / ".git" / "config").write_text("mine")
    (preset / "README.md").write_text(card + "mine")
    (preset / "images" / "own.png").write_bytes(b"mine")
    (preset / "link").symlink_to("nowhere")
    for number in range(2):
        Image.fromarray(np.full((4, 4, 3), number, "uint8")).save(tmp_path / "new.png")
        model.save_preset(preset, overwrite=True, pictures=[tmp_path / "new.png"])
        assert (preset / "images" / "new.png").read_bytes() == (tmp_path / "new.png").read_bytes()
        assert (preset / "images" / "own.png").read_bytes() == b"mine"
        assert (preset / "link").is_symlink()
        assert (preset / "README.md").read_text() == card + "mine"
        assert "(images/new.png)" in (preset / "README.new.md").read_text()
        assert (preset / "images" / picture.name).is_file()
        assert (preset / ".git" / "config").read_text() == "mine"
    release.model_of(preset)


def test_the_command_line_takes_it(written, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["sample", str(written), "--label", "cow", "0", "--out", str(out)]) == 0
    names = {file.name for file in out.iterdir()}
    assert {"000-cow_16.png", "001-red-apple_8.png", "grid.png"} <= names
    assert "drawn as the model draws" in capsys.readouterr().err
    assert main(["sample", str(written), "--label", "cwo", "--out", str(out)]) == 2
    assert "did you mean 'cow'" in capsys.readouterr().err


def test_the_card_as_hugging_face_reads_it(written):
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard.load(written / "README.md").data
    assert (found.license, found.pipeline_tag) == ("cc-by-4.0", "unconditional-image-generation")
    assert found.library_name == "keras-mdm" and "matryoshka-diffusion" in found.tags
    (result,) = found.eval_results
    assert (result.metric_value, result.dataset_name) == (12.5, "251 drawings")


def test_what_the_card_says(written):
    text = (written / "README.md").read_text()
    for said in (
        "![Drawn by this model](images/samples.png)",
        'mdm.MatryoshkaDiffusion.from_preset("PATH")',
        "labels=['red apple']",
        "--label 'red apple'",
        "| drawn with | steps 2, guidance_scale 2.0 at 8 and 1.0 at 16 |",
        "| classes | red apple, cow |",
        "- attribution: Drawn by many",
        "| 16 | kernel distance x 1000 | 12.5 |  | 0.25 | 128 | 251 |",
    ):
        assert said in text, said


def test_a_card_without_notes_says_so():
    encoder = FakeEncoder()
    model = mdm.MatryoshkaDiffusion(tiny_unet([INNER], text_width=TEXT_WIDTH), text_encoder=encoder)
    text = card(model, [])
    assert 'pipeline_tag: "text-to-image"' in text and "license:" not in text
    assert "licence: not noted" in text and "data: not noted" in text
    assert "the defaults of keras-mdm" in text and "not of keras-mdm" in text
    model.notes = {"licence": "My | own", "prompts": ['a "red" apple']}
    text = card(model, [])
    assert 'license: "other"' in text and 'license_name: "My | own"' in text
    assert 'generate(["a \\"red\\" apple"]' in text


def test_a_cascade(tmp_path):
    low = mdm.MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), notes=NOTES, sampling={"steps": 2})
    larger = dataclasses.replace(PLAIN_INNER, size=16)
    high = mdm.MatryoshkaDiffusion(tiny_unet([larger], in_channels=6), sampling={"steps": 1})
    cascade = mdm.Cascade(low, high)
    cascade.save_preset(tmp_path / "preset")
    loaded = mdm.Cascade.from_preset(tmp_path / "preset")
    assert [stage.sampling for stage in loaded.stages] == [{"steps": 2}, {"steps": 1}]
    first, second = (each.generate(num_images=1, progress=False) for each in (cascade, loaded))
    assert same(first, second)
    assert "mdm.Cascade.from_preset" in (tmp_path / "preset" / "README.md").read_text()

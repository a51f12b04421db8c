"""`keras-mdm evaluate` on a model, a folder and a file of statistics."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import (
    INNER,
    PLAIN_INNER,
    TEXT_WIDTH,
    THREE_PARTS,
    Colours,
    FakeEncoder,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion, data
from keras_mdm.cli import asked, drawn, evaluate, main, prompts
from keras_mdm.cli.reference import references
from keras_mdm.evaluation import moments

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(autouse=True)
def small_features(monkeypatch):
    monkeypatch.setattr(asked, "features_of", lambda name: Colours())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """104 pictures of 24 x 20, with captions, and a file that is none."""
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(104):
        pixels = rng.integers(0, 256, (24, 20, 3)).astype("uint8")
        Image.fromarray(pixels).save(path / f"{number:03d}.png")
        (path / f"{number:03d}.txt").write_text(f"picture {number}")
    (path / "999.png").write_bytes(b"no picture")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER, outer(16)], num_classes=4), downsample="bilinear"
    ).save(path)
    return path


def run(*words):
    return main.main(["evaluate", *map(str, words)])


def rows(out):
    found = json.loads((out / "report.json").read_text())["rows"]
    return {(row["subject"], row["measure"]): row for row in found}


def test_a_model_against_a_folder(model, folder, tmp_path, capsys):
    given = (model, "--reference", folder, "-n", 100, "--steps", 2, "--batch-size", 50)
    assert run(*given, "--out", tmp_path / "a", "--guidance", "8=2") == 0
    said = capsys.readouterr()
    assert "level 16" in said.out and "1 of 105 real pictures were skipped" in said.err
    assert "999.png" in said.err
    found = rows(tmp_path / "a")
    assert {subject for subject, _ in found} == {"8", "16", "8 enlarged to 16"}
    row = found["16", "kernel distance x 1000"]
    assert (row["drawn"], row["real"]) == (100, 104)
    # Drawn once: the pictures lie there, and the same command reads them.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(before) == 200
    assert run(*given, "--out", tmp_path / "a", "--guidance", "8=2") == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert rows(tmp_path / "a") == found
    # The folder of a level is a target itself, with the same numbers.
    capsys.readouterr()
    level = tmp_path / "a" / "pictures" / "16"
    reference = ("--reference", folder, "--metrics", "kernel", "--out", tmp_path / "b")
    assert run(level, *reference, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(tmp_path / "b" / "report.json")
    assert told["rows"] == json.loads(Path(told["file"]).read_text())["rows"]
    # (The real pictures of level 16 are the same: it is the highest.)
    again = rows(tmp_path / "b")["16", "kernel distance x 1000"]
    assert again["value"] == pytest.approx(row["value"], rel=1e-6)


def test_lower_levels_see_the_pictures_that_training_sees(model, folder, tmp_path):
    source = data.open_images(str(folder))
    real = references(str(folder), ["8", "16"], "bilinear", Colours())
    given = real.pictures
    pictures = np.concatenate(list(given["8"]))
    rule = data.ImageRule(8, of=16, downsample="bilinear")
    from keras_mdm.data.pictures.rule import decode

    np.testing.assert_array_equal(pictures[0], decode(source.read(0).data, rule)[0])


def main_arguments(*words):
    import argparse

    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    return parser.parse_args(["evaluate", str(words[0]), "--reference", str(words[1])])


def test_statistics_of_one_level(model, folder, tmp_path):
    source = references(str(folder), ["16"], "area", Colours()).pictures
    whole = moments.nothing(Colours())
    for images in source["16"]:
        whole = whole.merge(moments.of_pictures(Colours(), images))
    moments.save(whole, tmp_path / "real.npz")
    given = (model, "--reference", tmp_path / "real.npz", "-n", 100, "--steps", 2)
    assert run(*given, "--levels", 16, "--out", tmp_path / "a") == 0
    assert ("16", "precision") in rows(tmp_path / "a")
    assert run(*given, "--out", tmp_path / "b") == 2  # of which level?


def test_prompts_of_the_real_pictures_or_of_a_file(folder, tmp_path):
    network = tiny_unet([INNER, outer(16)], text_width=TEXT_WIDTH)
    texts = MatryoshkaDiffusion(network, text_encoder=FakeEncoder())
    arguments = main_arguments("x", folder)
    arguments.count = 6
    captions = ["a", "b", "c"]
    chosen = prompts.conditions(arguments, texts, captions)["prompts"]
    assert sorted(chosen) == ["a", "a", "b", "b", "c", "c"]
    arguments.prompts = tmp_path / "prompts.txt"
    arguments.prompts.write_text("\ufeffone\n\ntwo \n", encoding="utf-8")
    arguments.count = 2
    assert prompts.conditions(arguments, texts, captions) == {"prompts": ["one", "two"]}
    arguments.prompts = None
    with pytest.raises(ValueError, match=rf"have no captions{THREE_PARTS}"):
        prompts.conditions(arguments, texts, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--guidance", "much"), "--guidance must be a number"),
        (("--guidance", "32=2"), "--guidance"),
        (("--levels", "32"), "--levels"),
        (("--prompts", "none.txt"), "--prompts must be a text file"),
        (("--sweep", "1", "nan"), "--sweep"),
        (("--weights", "ema_7"), "weights"),
        (("--sampler", "best"), "sampler"),
        (("--steps", "0"), "steps"),
        (("-n", "0"), "count"),
        (("-n", "50"), "needs at least 100"),
        (("--metrics", "frechet"), "needs at least 2048"),
    ],
)
def test_what_does_not_fit_is_one_error(model, folder, tmp_path, capsys, words, message):
    assert run(model, "--reference", folder, *words, "--out", tmp_path / "new") == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "new").exists()


def test_some_real_pictures_are_of_all_parts_of_the_source(folder):
    whole = references(str(folder), ["16"], "bilinear", Colours()).pictures["16"]
    some = references(str(folder), ["16"], "bilinear", Colours(), count=5).pictures["16"]
    rows = np.concatenate(list(whole))[[0, 21, 42, 63, 84]]
    np.testing.assert_array_equal(np.concatenate(list(some)), rows)
    captions = references(str(folder), ["16"], "bilinear", Colours(), count=5).captions
    assert captions == [f"picture {row}" for row in (0, 21, 42, 63, 84)]


def test_a_sweep_of_guidance(model, folder, tmp_path, capsys):
    given = ("--reference", folder, "-n", 100, "--steps", 2, "--levels", 16, "--metrics", "kernel")
    assert run(model, *given, "--sweep", 1, 3, "--out", tmp_path / "a") == 0
    written = [str(tmp_path / "a" / name) for name in ("sweep.csv", "sweep.svg")]
    assert capsys.readouterr().out.splitlines()[-2:] == written
    assert (tmp_path / "a" / "sweep.svg").read_text().count("<circle") == 2
    lines = (tmp_path / "a" / "sweep.csv").read_text().splitlines()
    assert lines[0].startswith("guidance,pictures,kernel distance x 1000,")
    assert [line.split(",")[:2] for line in lines[1:]] == [
        ["1", "16"],
        ["1", "8 enlarged to 16"],
        ["3", "16"],
        ["3", "8 enlarged to 16"],
    ]
    # Each scale is what the command gives for it alone.
    assert run(model, *given, "--guidance", 3, "--out", tmp_path / "b") == 0
    alone = rows(tmp_path / "b")["16", "kernel distance x 1000"]["value"]
    assert float(lines[3].split(",")[2]) == pytest.approx(alone, rel=1e-6)
    both = ("--sweep", 1, 2, "--guidance", 3, "--out", tmp_path / "c")
    assert run(model, *given, *both) == 2


def test_a_run_that_holds_pictures_is_a_run(folder, tmp_path):
    assert drawn.holds_pictures(str(folder))
    Image.new("RGB", (4, 4)).save(tmp_path / "samples.png")
    (tmp_path / "run.json").write_text("{}")
    assert not drawn.holds_pictures(str(tmp_path))

"""`keras-mdm train`: the recipes by name, in the repository and installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from keras_mdm.cli import launch
from keras_mdm.cli.main import main

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


def run(*words, where, package=ROOT):
    """Run a command of Python in a folder; returns its output."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def names(listed):
    return [line.partition(" ")[0] for line in listed.splitlines()]


def test_without_a_name_recipes_are_listed_with_what_they_do(capsys):
    assert main(["train"]) == 0
    listed = capsys.readouterr().out
    assert names(listed) == RECIPES and len(RECIPES) == 12
    assert "Your own pictures, of any size and number" in listed


def test_an_unknown_name_is_one_line(capsys):
    assert main(["train", "emoji"]) == 2
    said = capsys.readouterr().err
    assert "'emoji_text_to_image'" in said and "recipe='emoji'" in said and said.count("\n") == 1


def test_a_recipe_by_name_has_the_options_of_its_file(tmp_path):
    """Also where modules of the same names lie."""
    (tmp_path / "shared.py").write_text("raise SystemExit('not this one')")
    by_name = run("-m", "keras_mdm", "train", "folder", "--help", where=tmp_path)
    by_file = run(ROOT / "recipes" / "folder.py", "--help", where=tmp_path)
    assert by_name.startswith("usage: keras-mdm train folder [-h] [--data DATA]")
    assert by_name.partition("\n\n")[2] == by_file.partition("\n\n")[2]


def test_workers_run_a_recipe_by_name(monkeypatch):
    asked = []
    monkeypatch.setattr(launch, "_attempt", lambda *given: (asked.append(given), (0, False))[1])
    assert main(["launch", "-n", "2", "train", "folder", "--data", "x"]) == 0
    assert asked == [(2, [str(ROOT / "recipes" / "folder.py"), "--data", "x"])]
    assert main(["launch", "train", "nothing"]) == main(["launch", "train"]) == 2


@pytest.mark.slow
@pytest.mark.network
def test_an_installed_package_brings_the_recipes(tmp_path):
    source = tmp_path / "source"
    for name in ("keras_mdm", "recipes"):  # a build leaves files behind that the next one takes
        shutil.copytree(ROOT / name, source / name)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    run(*build, where=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    package, empty = tmp_path / "package", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(package)
    for folder, there in (("keras_mdm", "keras_mdm"), ("recipes", "keras_mdm/recipes")):
        for file in [*(source / folder).rglob("*.py"), *(source / folder).rglob("*.txt")]:
            installed = package / there / file.relative_to(source / folder)
            assert installed.read_bytes() == file.read_bytes()
    train = ["-m", "keras_mdm", "train"]
    assert names(run(*train, where=empty, package=package)) == RECIPES
    said = run(*train, "imagenet_256", "--help", where=empty, package=package)
    assert "--exact" in said and "labels" in said

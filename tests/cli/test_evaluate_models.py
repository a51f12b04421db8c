"""`keras-mdm evaluate` on every kind of model, on a run in training, and killed in between."""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, Colours, make_batch, outer, tiny_unet

from cli.test_evaluate_command import folder, rows, run  # noqa: F401
from keras_mdm import MatryoshkaDiffusion, Phase, fit_progressively, load
from keras_mdm.cli import asked, evaluate, prompts
from keras_mdm.optimizers import SGD

pytestmark = pytest.mark.usefixtures("eagerly")

LEVELS = [PLAIN_INNER, outer(16)]
DRAW = ("-n", 100, "--steps", 1, "--batch-size", 50, "--metrics", "kernel")


@pytest.fixture(autouse=True)
def small_features(monkeypatch):
    monkeypatch.setattr(asked, "features_of", lambda name: Colours())


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A run whose second phase has no model yet, only a checkpoint."""
    directory = tmp_path_factory.mktemp("command") / "run"

    def make_dataset(phase, first_step):
        size = int(phase.level_names[-1])
        batch = make_batch(np.random.default_rng(0), 2, size=size, classes=2)
        return tf.data.Dataset.from_tensors(batch).repeat()

    def make_model(phase):
        model = MatryoshkaDiffusion(tiny_unet(phase.levels, num_classes=2))
        model.compile(optimizer=SGD(0.05))
        return model

    fit_progressively(
        [Phase(LEVELS[:1], 1, batch_size=2), Phase(LEVELS, 2, batch_size=2, mixed=False)],
        make_model,
        make_dataset,
        run_dir=directory,
        checkpoint_every=1,
        progress=False,
        sampling={"steps": 2, "guidance_scale": {"8": 3.0}, "grid": "karras"},
    )
    for file in (*directory.glob("model.keras"), *directory.glob("phase-2.keras")):
        file.unlink()
    return directory


def saved(path, **options):
    MatryoshkaDiffusion(tiny_unet(LEVELS, **options), downsample="bilinear").save(path)
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"num_classes": 4, "dtype": "mixed_bfloat16"}],
    ids=["unconditional", "bfloat16"],
)
def test_every_kind_of_model(folder, tmp_path, options):  # noqa: F811
    model = saved(tmp_path / "model.keras", **options)
    given = (model, "--reference", folder, *DRAW, "--out", tmp_path / "out")
    assert run(*given) == 0
    before = rows(tmp_path / "out")
    assert before["16", "kernel distance x 1000"]["drawn"] == 100
    assert run(*given) == 0 and rows(tmp_path / "out") == before  # the weights are recognised


def test_prompts_for_a_model_without_texts_are_refused(folder, tmp_path, capsys):  # noqa: F811
    model = saved(tmp_path / "model.keras")
    (tmp_path / "prompts.txt").write_text("one\n" * 100)
    given = ("--reference", folder, *DRAW, "--prompts", tmp_path / "prompts.txt")
    assert run(model, *given, "--out", tmp_path / "out") == 2
    assert "To fix it" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_is_drawn_from_as_it_draws_itself(started, folder, tmp_path, capsys):  # noqa: F811
    given = (started, "--reference", folder, "-n", 100, "--batch-size", 50, "--metrics", "kernel")
    assert run(*given, "--out", tmp_path / "a") == 0
    assert "drawn as the model draws" in capsys.readouterr().err
    options = json.loads((tmp_path / "a" / "report.json").read_text())["about"]["options"]
    assert options["steps"] == "2" and options["guidance_scale"] == "{'8': 3.0, '16': 1.0}"
    assert run(*given, "--steps", 1, "--guidance", 2, "--out", tmp_path / "b") == 0
    options = json.loads((tmp_path / "b" / "report.json").read_text())["about"]["options"]
    assert options["steps"] == "1" and options["guidance_scale"] == "2.0"


def test_a_run_that_draws_by_a_preset(started, folder, tmp_path):  # noqa: F811
    run_dir = shutil.copytree(started, tmp_path / "run")
    noted = json.loads((run_dir / "run.json").read_text())
    noted["sampling"] = {"sampling": "paper", "steps": 2, "threshold": "static"}
    (run_dir / "run.json").write_text(json.dumps(noted))
    assert run(run_dir, "--reference", folder, *DRAW[:2], *DRAW[4:], "--out", tmp_path / "a") == 0
    options = json.loads((tmp_path / "a" / "report.json").read_text())["about"]["options"]
    noted = {"sampling": "paper", "steps": "2", "threshold": "static"}
    assert options == {**noted, "weights": "ema"}


def test_steps_of_outer_levels_are_those_of_the_levels_that_a_phase_has():
    noted = {"steps": 10, "outer_steps": {"16": 5, "32": 3}}
    spec = [PLAIN_INNER, outer(16), outer(32)]
    whole = MatryoshkaDiffusion(tiny_unet(spec), sampling=noted)
    words = argparse.ArgumentParser()
    evaluate.add_parser(words.add_subparsers())

    def drawn(*given, top="32"):
        args = words.parse_args(["evaluate", "run", "--reference", "x", *given])
        return asked.samplings(args, whole.cut(top))[""].get("outer_steps")

    assert drawn() == {"16": 5, "32": 3}
    assert drawn(top="16") == {"16": 5}
    assert drawn(top="8") is None
    assert drawn("--outer-steps", "4") == 4
    assert drawn("--steps", "4") == {"16": 4, "32": 3}  # as `generate` clips them


def test_another_sampler_has_no_share_of_noise():
    model = MatryoshkaDiffusion(tiny_unet(), sampling={"sampler": "ddim", "eta": 0.5})
    words = argparse.ArgumentParser()
    evaluate.add_parser(words.add_subparsers())
    for given, kept in (([], True), (["--sampler", "heun"], False)):
        args = words.parse_args(["evaluate", "run", "--reference", "x", *given])
        assert ("eta" in asked.samplings(args, model)[""]) == kept


def test_a_model_of_pooled_texts_and_of_texts_with_classes_gets_prompts():
    words = argparse.ArgumentParser()
    evaluate.add_parser(words.add_subparsers())
    args = words.parse_args(["evaluate", "run", "--reference", "x", "--count", "3"])
    for options in ({"pooled_width": 6}, {"text_width": 6, "num_classes": 3}):
        model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], **options))
        assert prompts.conditions(args, model, ["one"]) == {"prompts": ["one"] * 3}


def test_a_run_in_training(started, folder, tmp_path, capsys):  # noqa: F811
    for path in (started, started / "checkpoints" / "phase-2" / "step-0000002"):
        out = tmp_path / path.name
        assert run(path, "--reference", folder, *DRAW, "--out", out) == 0
        assert "model: phase 2, step 2 of " in capsys.readouterr().err
    assert rows(tmp_path / "run") == rows(tmp_path / "step-0000002")


def test_a_recipe_ends_with_what_levels_are_worth(
    started,
    folder,  # noqa: F811
    monkeypatch,
    capsys,
):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "recipes"))
    worth = importlib.import_module("shared.worth")
    given = argparse.Namespace(run_dir=str(started), data=str(folder), worth=100)
    worth.measure(load(started), given, 50)
    said = capsys.readouterr().out
    record = json.loads((started / "worth.json").read_text())
    inner, highest = record["worth"]
    assert inner["below"] is None and highest["below"] == "8" and highest["drawn"] == 100
    assert (
        f"| 16 | {highest['distance']:.3g} +- " in said and record["about"]["verdicts"][0] in said
    )
    assert not list(started.glob("tmp*"))
    given.worth = 50  # fewer than a distance needs
    worth.measure(load(started), given, 50)
    assert "not measured: " in capsys.readouterr().out
    given.worth = 0
    worth.measure(None, given, 50)
    assert not capsys.readouterr().out


PROGRAM = """
import sys
from pathlib import Path
from cli.test_evaluate_command import Colours
from keras_mdm.cli import asked, main
asked.features_of = lambda name: Colours()
for out in sys.argv[1:2] if "--once" in sys.argv else sys.argv[1:3]:
    words = [word for word in sys.argv[3:] if word != "--once"]
    assert main.main(["evaluate", *words, "--out", out]) == 0
"""


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_numbers(folder, tmp_path):  # noqa: F811
    model = saved(tmp_path / "model.keras", num_classes=4)
    given = (model, "--reference", folder, "-n", 120, "--steps", 5, "--batch-size", 4)
    outs = (tmp_path / "killed", tmp_path / "whole")
    command = [sys.executable, "-c", PROGRAM, *map(str, (*outs, *given))]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen([*command, "--once"], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if len(list(outs[0].rglob("0*.png"))) > 60:
                break
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    drawn = {file: file.stat().st_mtime_ns for file in outs[0].rglob("0*.png")}
    assert 60 < len(drawn) < 240 and not (outs[0] / "report.json").exists()
    subprocess.run(command, env=environment, check=True, timeout=300)
    killed, whole = (json.loads((out / "report.json").read_text()) for out in outs)
    assert killed == whole
    kept = [file for file, written in drawn.items() if file.stat().st_mtime_ns == written]
    assert len(kept) >= len(drawn) - 8  # all but the batch that was interrupted

"""The recipes' training at the paper's scale is what the paper's tables say."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPER = json.loads((ROOT / "tests" / "golden" / "paper_tables.json").read_text())


@pytest.fixture
def webvid(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    return importlib.import_module("webvid_video")


def test_video_phases_at_the_papers_scale(webvid):
    from keras_mdm import Phase

    default = PAPER["B_training"]["default"]
    table = PAPER["B_training"]["progressive"]["webvid"]
    phases = [Phase(**phase) for phase in webvid.PAPER.phases]
    assert [phase.level_names[-1] for phase in phases] == table["target_resolutions"]
    assert [phase.batch_size for phase in phases] == table["batch_size"]
    assert [phase.steps for phase in phases] == table["training_steps"]
    for phase in phases:
        assert phase.learning_rate == default["learning_rate"]
        assert phase.warmup_steps == default["learning_rate_warmup_steps"]
        assert phase.final_learning_rate is None
    assert webvid.PAPER.process["ema_decay"] == default["ema_decay"]
    assert webvid.PAPER.process["prediction"] == PAPER["C_inference"]["prediction"]
    assert webvid.PAPER.process["threshold"] == PAPER["C_inference"]["thresholding"]
    # Three levels and phases in small as well.
    small = [Phase(**phase) for phase in webvid.SMALL.phases]
    assert [len(phase.levels) for phase in small] == [1, 2, 3]


def test_the_clip_rule_is_the_papers(webvid):
    from keras_mdm.data import ClipRule

    table, rule = PAPER["E_datasets"]["webvid"], ClipRule(256)
    assert (rule.frames, rule.stride, rule.flip) == (
        table["frames"],
        table["frame_stride"],
        table["horizontal_flip"],
    )
    assert rule.start == "fixed" and table["clips_per_video"] == 1


def test_contradictions_are_one_line():
    recipe = [sys.executable, str(ROOT / "recipes" / "webvid_video.py")]
    for words, said in (
        (["--data", "x", "--animated-emoji"], "exclude each other"),
        (["--scale", "paper"], "pass --data DIR"),
    ):
        done = subprocess.run([*recipe, *words], capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1]

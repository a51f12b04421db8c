"""The commands take what a run has made, while it trains and afterwards."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_models import PLAIN_INNER, make_batch, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, Phase, fit_progressively, load
from keras_mdm.callbacks import StepCallback
from keras_mdm.cli import main as cli
from keras_mdm.optimizers import SGD

pytestmark = pytest.mark.usefixtures("eagerly")

LEVELS = [PLAIN_INNER, outer(16)]
DRAW = ["--label", "1", "--steps", "2", "--seed", "3"]


def command(*words):
    """`python -m keras_mdm ...` in a process of its own: (status, stdout, stderr)."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    words = [sys.executable, "-m", "keras_mdm", *map(str, words)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def make_model(phase):
    unet = tiny_unet(phase.levels, num_classes=2)
    model = MatryoshkaDiffusion(unet, ema_decay=0.5, ema_warmup=False)
    model.compile(optimizer=SGD(0.05))
    return model


def make_dataset(phase, first_step):
    size = int(phase.level_names[-1])
    batch = make_batch(np.random.default_rng(0), 2, size=size, classes=2)
    return tf.data.Dataset.from_tensors(batch).repeat()


class SampleMeanwhile(StepCallback):
    """Calls the command in the middle of the second phase."""

    def __init__(self, run):
        super().__init__()
        self.run, self.done = run, []

    def on_step_end(self, previous_step, logs):
        if self.step == 2:
            out = self.run.parent / "meanwhile"
            self.done.append(command("sample", self.run, *DRAW, "--out", out))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run directory, model, what the command said in the meantime)."""
    run = tmp_path_factory.mktemp("command") / "run"
    watch = SampleMeanwhile(run)
    model = fit_progressively(
        [
            Phase(LEVELS[:1], 2, batch_size=2),
            Phase(LEVELS, 3, batch_size=2, mixed=False),
        ],
        make_model,
        make_dataset,
        run_dir=run,
        callbacks=lambda context: [watch] if context.number == 2 else [],
        checkpoint_every=1,
        keep_last=3,
        progress=False,
    )
    return run, model, watch.done


def drawn(directory, level):
    return np.asarray(Image.open(directory / f"000-label-1_{level}.png"))


def expected(model, level):
    return model.generate(labels=[1], steps=2, seed=3, progress=False)[level][0]


def test_sample_while_the_run_trains(trained):
    run, _, said = trained
    ((status, stdout, stderr),) = said
    step = 2 if "step 2" in stderr else 1  # that of step 2 may not have been whole
    lines = stderr.splitlines()
    assert status == 0 and lines[0] == f"model: phase 2, step {step} of {run}", stderr
    assert stdout.splitlines()[-1].endswith("grid.png")
    model = load(run / "checkpoints" / "phase-2" / f"step-000000{step}")
    np.testing.assert_array_equal(drawn(run.parent / "meanwhile", "16"), expected(model, "16"))


@pytest.mark.parametrize(
    ("path", "said", "level"),
    [
        ("", "run/model.keras", "16"),
        pytest.param("model.keras", None, "16", marks=pytest.mark.slow),
        ("checkpoints/phase-1", "phase 1, step 2 of ", "8"),
        ("checkpoints/phase-2/step-0000001", "phase 2, step 1 of ", "16"),
    ],
)
def test_sample_takes_all_that_a_run_makes(trained, tmp_path, capsys, path, said, level):
    run, _, _ = trained
    assert cli.main(["sample", str(run / path), *DRAW, "--out", str(tmp_path)]) == 0
    stderr = capsys.readouterr().err
    assert (f"model: {said}" in stderr or f"/{said}" in stderr) if said else "model:" not in stderr
    np.testing.assert_array_equal(drawn(tmp_path, level), expected(load(run / path), level))


def test_cut_and_export_take_a_checkpoint(trained, tmp_path, capsys, monkeypatch):
    from keras_mdm import export

    run, model, _ = trained
    phase = str(run / "checkpoints" / "phase-2")
    with pytest.warns(UserWarning, match="without mixed resolutions"):  # checkpoints remember it
        assert cli.main(["cut", phase, "8", str(tmp_path / "small.keras")]) == 0
    small = load(tmp_path / "small.keras")
    inner = dict(zip((v.path for v in model.ema.variables), model.ema.averages, strict=True))
    for variable, average in zip(small.ema.variables, small.ema.averages, strict=True):
        np.testing.assert_array_equal(average, inner[variable.path])
    calls = []
    monkeypatch.setattr(export, "export_saved_model", lambda *given, **_: calls.append(given))
    assert cli.main(["export", phase, str(tmp_path / "served")]) == 0
    assert calls[0][0].unet.levels == ("8", "16")
    assert capsys.readouterr().err.count(f"model: phase 2, step 3 of {run}\n") == 2


def test_what_cannot_be_loaded_is_one_line(trained, tmp_path):
    run, _, _ = trained
    cut_short = tmp_path / "model.keras"
    cut_short.write_bytes((run / "model.keras").read_bytes()[:5000])
    status, stdout, stderr = command("sample", cut_short, *DRAW)
    assert (status, stdout) == (2, "") and stderr.count("\n") == 1
    assert (
        stderr.startswith("keras-mdm: error: a .keras file must be complete")
        and "truncated" in stderr
    )

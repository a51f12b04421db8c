"""Two workers equal one process: mixed batches, text, stratified times, clipping, averages."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs.test_progressive import LEVELS
from tiny_models import TEXT_WIDTH, tiny_unet

from keras_mdm import distribute
from keras_mdm.runs import checkpoints
from training import worker_program


def launch(*arguments):
    """Run the program on two workers."""
    done = subprocess.run(
        command(worker_program.__file__, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def command(program, *arguments):
    start = [sys.executable, "-m", "keras_mdm", "launch", "-n", "2"]
    return [*start, str(program), *map(str, arguments)]


def environment():
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths}


@pytest.mark.slow
def test_phases_on_two_workers_equal_one_process(tmp_path):
    """Growth, checkpoints by the first worker alone, and a directory that another run can go on."""
    worker_program.train_phases(None, tmp_path / "one")
    launch(tmp_path / "two", "phases")
    ends = []
    for name in ("one", "two"):
        newest = checkpoints.newest_valid(tmp_path / name / "checkpoints" / "phase-2")
        groups, state = checkpoints.load(newest)
        assert state["step"] == 3 and (tmp_path / name / "model.keras").is_file()
        ends.append({f"{g}/{k}": groups[g][k] for g in ("model", "ema") for k in groups[g]})
    one, two = ends
    assert one.keys() == two.keys()
    start = tiny_unet(LEVELS, text_width=TEXT_WIDTH, scramble=False)
    names = [f"model/{variable.path}" for variable in start.trainable_variables]
    starts = dict(zip(names, map(np.asarray, start.trainable_variables), strict=True))
    moved = sum(np.sum((one[name] - starts[name]) ** 2) for name in names) ** 0.5
    apart = sum(np.sum((one[name] - two[name]) ** 2) for name in names) ** 0.5
    assert apart < 1e-4 * moved, (apart, moved)
    averages = [name for name in one if name.startswith("ema/average/")]
    apart = sum(np.sum((one[name] - two[name]) ** 2) for name in averages) ** 0.5
    assert averages and apart < 1e-4 * moved, (apart, moved)
    # One process goes on with what two have begun: nothing is left to do.
    assert worker_program.train_phases(None, tmp_path / "two").unet.levels == ("8", "16")


@pytest.mark.slow
def test_a_signal_to_one_worker_ends_all_with_a_checkpoint(tmp_path):
    program = Path(__file__).parents[1] / "runs/kill_program.py"
    with subprocess.Popen(
        command(program, tmp_path / "run"), env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        heard, second = "", None
        for line in process.stdout:
            heard += line
            if line.startswith("[1] process"):
                second = int(line.split()[-1])
            if "step 3" in line:
                os.kill(second, signal.SIGTERM)
    assert process.returncode == 0, heard[-3000:]
    assert heard.count("a checkpoint is written") == 2 and "done" not in heard
    newest = checkpoints.newest_valid(tmp_path / "run" / "checkpoints" / "phase-1")
    last = max(int(line.split()[-1]) for line in heard.splitlines() if "step" in line.split())
    assert 3 <= checkpoints.step_of(newest) == last < 24


def test_two_workers_equal_one_process(tmp_path):
    logs, start, end, averages = worker_program.train(None)
    assert np.all(logs[:, 3] > 0.3)  # the clip bites
    launch(tmp_path, "2")
    distance = np.linalg.norm(end - start)
    for index in range(2):
        with np.load(tmp_path / f"worker-{index}.npz") as found:
            np.testing.assert_array_equal(found["start"], start)
            np.testing.assert_allclose(found["logs"], logs, rtol=1e-5)
            assert np.linalg.norm(found["end"] - end) < 1e-4 * distance
            assert np.linalg.norm(found["averages"] - averages) < 1e-4 * distance


def test_a_broken_cluster_is_one_error(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"task": 1}')
    with pytest.raises(ValueError, match="keras-mdm launch"):
        distribute.strategy()
    monkeypatch.delenv("TF_CONFIG")
    assert distribute.workers() == 1

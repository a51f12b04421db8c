"""Two workers equal one process: mixed batches, text, stratified times, clipping, averages."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import worker_program

from keras_mdm import distribute


def test_two_workers_equal_one_process(tmp_path):
    logs, start, end, averages = worker_program.train(None)
    assert np.all(logs[:, 3] > 0.3)  # the clip bites
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "keras_mdm", "launch", "-n", "2", worker_program.__file__]
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(tmp_path), "2"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
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

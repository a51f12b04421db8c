"""kill -9 at ten random moments, writes of checkpoints and the change of phase among them."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from keras_mdm.runs import checkpoints

TESTS = Path(__file__).parents[1]


def start(run_dir):
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-u", str(Path(__file__).with_name("kill_program.py")), str(run_dir)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def arrays(run_dir):
    """Everything in the last checkpoint of the last phase."""
    groups, state = checkpoints.load(checkpoints.newest_valid(run_dir / "checkpoints" / "phase-2"))
    assert state["step"] == 24
    return {f"{g}/{k}": groups[g][k] for g in groups for k in groups[g]}


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_as_if_it_had_not_been(tmp_path):
    with start(tmp_path / "whole") as process:
        output = process.stdout.read()
    assert process.returncode == 0 and output.endswith("done\n")
    draw, kills, seen = random.Random(0), 0, []
    while True:
        # A few steps each time, and then anywhere within the next: a checkpoint is written at
        # every step, in a thread.
        patience = draw.randint(1, 7) if kills < 10 else None
        with start(tmp_path / "killed") as process:
            for count, line in enumerate(process.stdout, start=1):
                if line.startswith("step"):
                    seen.append(int(line.split()[1]))
                if patience is not None and count >= patience:
                    time.sleep(draw.uniform(0.0, 0.05))
                    process.kill()
                    kills += 1
                    break
            else:
                process.wait()
                if process.returncode == 0:
                    break
    assert kills == 10 and max(seen) == 48
    whole, killed = arrays(tmp_path / "whole"), arrays(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name in whole:
        np.testing.assert_array_equal(killed[name], whole[name], err_msg=name)

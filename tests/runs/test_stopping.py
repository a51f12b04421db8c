"""Input that stalls: signals end the training with a checkpoint of its last step."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training.test_workers import command, environment

from keras_mdm.runs import checkpoints

PROGRAM = Path(__file__).with_name("stall_program.py")

# Processes of their own, with deadlines that a loaded machine does not keep.
pytestmark = pytest.mark.slow


def run(words, number=None, workers=1, steps=True):
    """(exit code, seconds since it stalled, what was printed) of the program."""
    with subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        printed = ""
        while min(printed.count("stalls"), printed.count("step 3") if steps else 9) < workers:
            printed += process.stdout.readline()
        if number is not None:
            time.sleep(0.5)  # from the end of the step to where the next batch is waited for
            process.send_signal(number)
        began = time.monotonic()
        printed += process.stdout.read()
    return process.returncode, time.monotonic() - began, printed


def program(*words):
    return [sys.executable, "-u", str(PROGRAM), *map(str, words)]


def assert_last_step(folder):
    newest = checkpoints.newest_valid(folder)
    assert newest.name == "step-0000003"
    groups, _ = checkpoints.load(newest)
    assert int(np.asarray(groups["optimizer"]["iterations"])) == 3
    with np.load(folder / "expected.npz") as expected:
        found = [groups["model"][name] for name in groups["model"]][: len(expected.files)]
        for before, after in zip(expected.values(), found, strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("generator", signal.SIGTERM),
        ("blocking", signal.SIGINT),
        ("call", signal.SIGTERM),
        ("callback", signal.SIGTERM),
    ],
)
def test_a_checkpoint_of_the_last_step(tmp_path, where, number):
    code, took, printed = run(program(where, tmp_path), number)
    assert code == 0 and 0.4 < took < 9.0, printed
    assert f"Stopped by {number.name}; a checkpoint is written. To continue:" in printed
    assert "went on" not in printed
    assert_last_step(tmp_path)


def test_before_the_first_step_there_is_nothing_to_save(tmp_path):
    code, took, printed = run(program("first", tmp_path), signal.SIGTERM, steps=False)
    assert code == 0 and took < 4.0 and "there was nothing new to save" in printed
    assert not list(tmp_path.iterdir())


def test_several_workers(tmp_path):
    code, took, printed = run(command(PROGRAM, "generator", tmp_path), signal.SIGTERM, workers=2)
    assert code == 0 and took < 12.0, printed
    assert printed.count("a checkpoint is written") == 2
    assert_last_step(tmp_path)


@pytest.mark.parametrize("where", ["generator", "blocking", "call"])
def test_an_ordinary_end_does_not_wait_for_the_input(tmp_path, where):
    """It waited for ever: the iterator's destructor waits for the call, in the last cleaning up."""
    code, took, printed = run(program(where, tmp_path, "leave"))
    assert code == 5 and took < 25.0, printed

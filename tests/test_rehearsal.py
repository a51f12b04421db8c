"""The paper's scale in miniature: every recipe goes through all that it does on N devices."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import keras_mdm as mdm

ROOT = Path(__file__).parents[1]
TWELVE = [
    (*words, "--rehearse", str(count))
    for words in (
        ("imagenet_256",),
        ("cc12m_256",),
        ("cc12m_256", "--levels", "3"),
        ("cc12m_1024",),
        ("cc12m_1024", "--levels", "5"),
        ("webvid_video",),
    )
    for count in (8, 32)
]


def command(name, *words, run_dir):
    return [sys.executable, str(ROOT / "recipes" / f"{name}.py"), *words, "--run-dir", str(run_dir)]


def rehearse(name, *words, run_dir, timeout=900):
    words = command(name, *words, run_dir=run_dir)
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def table(output):
    """Rows of the table at the end: {phase: cells}."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", output, re.MULTILINE)
    return {int(number): cells.split(" | ") for number, cells in rows}


def test_imagenet_on_two_devices(tmp_path):
    words = "--rehearse 2 --phase-steps 1 1 --phase-batches 16 8 --no-samples".split()
    output = rehearse("imagenet_256", *words, run_dir=tmp_path / "run")
    rows = table(output)
    assert rows.keys() == {1, 2}
    assert [cells[:3] for cells in rows.values()] == [
        ["8: 16", "8: 8", "4"],
        ["8: 2, 32: 6", "8: 1, 32: 3", "1"],  # a replica's one sample cannot be halved
    ]
    assert all(float(cells[4]) > 0.0 for cells in rows.values())
    assert (tmp_path / "run" / "model.keras").is_file()


@pytest.mark.parametrize("words", TWELVE, ids=" ".join)
@pytest.mark.slow
def test_all_of_it(words, tmp_path):
    output = rehearse(*words, run_dir=tmp_path / "run")
    rows = table(output)
    assert "samples: " in output and "exported: " in output
    replicas = int(words[-1])
    for groups, shares, micro, speed, _, peak in rows.values():
        whole = dict(cell.split(": ") for cell in groups.split(", "))
        parts = dict(cell.split(": ") for cell in shares.split(", "))
        assert whole == {level: str(int(rows) * replicas) for level, rows in parts.items()}
        assert all(int(rows) % int(micro) == 0 for rows in parts.values())
        assert float(speed) > 0.0 and float(peak) * 1e9 < 12 * 2**30
    drawn = {path.name[:12] for path in (tmp_path / "run" / "samples").iterdir()}
    assert drawn == {f"step-{4 * number:07d}" for number in rows}
    measured = json.loads((tmp_path / "run" / "run.json").read_text())["validation"]
    assert [(each["phase"], each["step"]) for each in measured] == [(number, 4) for number in rows]


def kill_in_phase_2(words):
    """Start a rehearsal and kill it after the first checkpoint of its second phase."""
    run_dir = Path(words[-1])
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline and process.poll() is None:
            if list((run_dir / "checkpoints" / "phase-2").glob("step-0000002/*.json")):
                break
            time.sleep(0.05)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_killed_on_eight_devices_it_goes_on_with_four(tmp_path):
    """The weights are those of the run on eight, in float32: sums of replicas round differently."""
    words = ["--dtype", "float32", "--no-samples"]
    whole = tmp_path / "whole"
    rehearse("imagenet_256", "--rehearse", "8", *words, run_dir=whole)
    cut = tmp_path / "cut"
    kill_in_phase_2(command("imagenet_256", "--rehearse", "8", *words, run_dir=cut))
    assert not (cut / "model.keras").exists()
    output = rehearse("imagenet_256", "--rehearse", "4", *words, run_dir=cut)
    assert table(output)[1][3] == "before"
    ends = [mdm.load(run / "model.keras").unet.get_weights() for run in (whole, cut)]
    start = mdm.load(whole / "checkpoints" / "phase-2" / "step-0000002").unet.get_weights()
    moved, apart = (
        np.sqrt(sum(np.sum(np.square(a - b)) for a, b in zip(ends[0], other, strict=True)))
        for other in (start, ends[1])
    )
    assert 0.0 < apart <= 1e-4 * moved


@pytest.mark.parametrize("name", ["imagenet_256", "webvid_video"])
@pytest.mark.slow
def test_two_workers(name, tmp_path):
    program = command(name, "--rehearse", "2", run_dir=tmp_path / "run")[1:]
    words = [sys.executable, "-m", "keras_mdm", "launch", "-n", "2", *program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "rehearsed on 2 devices" in done.stdout and "[0] samples: " in done.stdout


def test_each_worker_is_one_replica(tmp_path):
    cluster = {"cluster": {"worker": ["localhost:1", "localhost:2"]}}
    config = json.dumps({**cluster, "task": {"type": "worker", "index": 0}})
    words = command("imagenet_256", "--rehearse", "8", run_dir=tmp_path / "run")
    environment = {**os.environ, "TF_CONFIG": config}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "pass --rehearse 2" in done.stderr.splitlines()[-1]

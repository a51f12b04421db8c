"""`keras-mdm launch`: workers know of each other, are heard, and fail together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from keras_mdm.cli import launch
from keras_mdm.cli.main import main

PROGRAM = """
import json, os, signal, sys, time
task = json.loads(os.environ["TF_CONFIG"])
index = task["task"]["index"]
print("hello", index, json.dumps(task["cluster"]), sys.argv[1:], flush=True)
if "die-once" in sys.argv and index == 0 and not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
if "fail" in sys.argv and index == 1:
    sys.exit(7)
if "wait" in sys.argv or "fail" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: (print("ended well", flush=True), sys.exit(0)))
    print("waiting", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def test_workers_know_of_each_other_and_get_the_arguments(program, capsys):
    assert main(["launch", "-n", "3", program, "--steps", "5"]) == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [line[:3] for line in lines] == ["[0]", "[1]", "[2]"]
    clusters = [json.loads(line[line.index("{") : line.index("}") + 1]) for line in lines]
    assert clusters[0] == clusters[1] == clusters[2] and len(set(clusters[0]["worker"])) == 3
    assert all("['--steps', '5']" in line for line in lines)


def test_when_one_fails_all_end(program, capsys):
    began = time.monotonic()
    assert main(["launch", "-n", "2", program, "fail"]) == 7
    assert time.monotonic() - began < 20
    printed = capsys.readouterr().out
    assert "worker 1 ended with 7" in printed


def test_what_was_killed_is_started_again_and_goes_on(program, tmp_path, capsys):
    words = [program, str(tmp_path / "been"), "die-once", "--fresh"]
    assert main(["launch", "-n", "2", "--restarts", "1", *words]) == 0
    before, after = capsys.readouterr().out.split("starting again")
    assert "worker 0 ended with -9" in before and "--fresh" in before
    assert "'die-once']" in after and "--fresh" not in after
    (tmp_path / "been").unlink()
    assert main(["launch", "-n", "2", *words]) == 137
    assert main(["launch", "-n", "2", "--restarts", "2", program, "fail"]) == 7
    assert capsys.readouterr().out.count("starting again") == 2


def test_signals_are_forwarded(program):
    command = [sys.executable, "-m", "keras_mdm", "launch", "-n", "2", program, "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        heard = ""
        while heard.count("waiting") < 2:
            heard += process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        heard += process.stdout.read()
    assert process.returncode == 0 and heard.count("ended well") == 2


def test_bad_arguments(capsys):
    assert main(["launch", "nowhere.py"]) == 2
    assert "program='nowhere.py'" in capsys.readouterr().err
    assert main(["launch", "-n", "0", __file__]) == 2
    assert "workers=0" in capsys.readouterr().err


def test_ports_differ():
    assert len(set(launch.free_ports(5))) == 5 and "TF_CONFIG" not in os.environ

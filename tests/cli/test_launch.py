"""`keras-mdm launch`: workers know of each other, are heard, and fail together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from keras_mdm.cli import launch
from keras_mdm.cli.launch_output import Relay
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


# Workers that do not end, and a launcher that does.

DRIVER = """
import sys
from keras_mdm.cli import launch, main
launch.PATIENCE, launch.LAST_WORDS = float(sys.argv[1]), 0.5
sys.exit(main.main(["launch", "-n", "2", *sys.argv[2:]]))
"""
STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print("pids", os.getpid(), child.pid, flush=True)
while "talk" in sys.argv:
    print("x" * 1000, flush=True)
time.sleep(100)
"""
WRITES = """
import os, pathlib, signal, sys, time
def end(*_):
    for _ in range(1000):
        print("x" * 1000, flush=True)  # more than a pipe holds, and to nobody
    pathlib.Path(sys.argv[1], str(os.getpid())).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("pids", os.getpid(), flush=True)
time.sleep(100)
"""


FLOODS = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("pids", os.getpid(), flush=True)
piece = b"x" * 65535 + (b"\\n" if "lines" in sys.argv else b"x")
while True:
    os.write(1, piece)
"""
LEAVES = """
import os, signal, subprocess, sys
flood = "import os\\nwhile True: os.write(1, b'left' * 200)"
child = subprocess.Popen([sys.executable, "-c", flood], start_new_session=True)
print("pids", os.getpid(), child.pid, flush=True)
"""


def start(tmp_path, content, *words, patience=2.0):
    """A launcher, and the processes that its workers say they are."""
    path = tmp_path / "program.py"
    path.write_text(content)
    command = [sys.executable, "-c", DRIVER, str(patience), str(path), *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    pids, workers = [], 0
    while workers < 2:
        _, said, found = process.stdout.readline().partition("pids ")
        pids, workers = pids + found.split(), workers + bool(said)
    return process, [int(pid) for pid in pids]


def lives(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1] not in b"ZX"
    except OSError:
        return False


def wait_for_the_end(pids, seconds):
    """Seconds until none lives."""
    began = time.monotonic()
    while any(map(lives, pids)) and time.monotonic() < began + seconds:
        time.sleep(0.05)
    assert not any(map(lives, pids))
    return time.monotonic() - began


@pytest.mark.parametrize(
    "words",
    [[], pytest.param(["talk"], marks=pytest.mark.slow)],
    ids=["quiet", "talking"],
)
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGHUP)),
    ],
)
def test_who_does_not_end_is_killed_with_all_that_he_started(tmp_path, number, words):
    process, pids = start(tmp_path, STUBBORN, *words)
    with process:
        assert len(pids) == 4 and all(map(lives, pids))
        process.send_signal(number)
        if number == signal.SIGHUP:
            process.stdout.close()  # the terminal is closed: nobody listens any more
        assert 1.5 < wait_for_the_end(pids, 10) < 6
        if number != signal.SIGHUP:
            process.stdout.read()
            assert process.wait(timeout=10) == 137
        process.wait(timeout=10)


@pytest.mark.parametrize(
    "words",
    [pytest.param(["lines"], marks=pytest.mark.slow), ["one-line"]],
    ids=["lines", "one line"],
)
def test_a_flood_that_nobody_reads_holds_nothing_up(tmp_path, words):
    process, pids = start(tmp_path, FLOODS, *words, patience=0.5)
    with process:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 137
        assert time.monotonic() - began < 4 and not any(map(lives, pids))


def test_who_was_left_and_prints_is_not_waited_for(tmp_path):
    process, pids = start(tmp_path, LEAVES)
    with process:
        process.stdout.read()
        assert process.wait(timeout=4) == 0
    wait_for_the_end(pids, 5)  # nobody reads what they print


@pytest.mark.slow
def test_last_words_wait_for_a_slow_reader(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import os\nos.write(1, b'x\\n' * 150_000 + b'last')")
    command = [sys.executable, "-c", DRIVER, "2", str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        begun = process.stdout.read(1)
        with pytest.raises(subprocess.TimeoutExpired):  # while the pipe is full
            process.wait(timeout=1.5)
        lines = (begun + process.stdout.read()).splitlines()
    assert process.returncode == 0 and len(lines) == 2 * 150_001
    assert {"[0] last", "[1] last"} < set(lines)


class Printed:
    """A relay, what it has read from, and what it has printed."""

    def __init__(self, workers):
        self.pipes = [os.pipe() for _ in range(workers)]
        self.relay = Relay([reading for reading, _ in self.pipes])
        self.relay.start()

    def write(self, index, data):
        os.write(self.pipes[index][1], data)

    def end(self):
        self.relay.finish()
        self.relay.join(5)
        assert not self.relay.is_alive()


def test_what_is_printed_is_cut_into_lines(capsys):
    printed = Printed(2)
    printed.write(0, "one\r\n\u00e4".encode()[:-1])
    time.sleep(0.3)
    printed.write(0, "\u00e4".encode()[-1:] + b"\rthree\n\xff")
    printed.write(1, b"x" * 40_000 + b"\nno end")
    printed.relay.say("of the launcher's own")
    printed.end()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "[0]" in line] == [
        "[0] one",
        "[0] \u00e4",
        "[0] three",
        "[0] \ufffd",
    ]
    assert "of the launcher's own" in lines and "[1] no end" in lines
    assert f"[1] {'x' * 40_000}" in lines


def test_an_endless_line_is_not_kept(capsys):
    printed = Printed(1)
    for _ in range(8):
        printed.write(0, b"x" * 60_000)
        time.sleep(0.02)
    printed.end()
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.count("x") for line in lines) == 480_000
    assert max(map(len, lines)) <= 2 * 65536 + 4


def test_a_second_ctrl_c_kills_at_once(tmp_path):
    process, pids = start(tmp_path, STUBBORN)
    with process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert all(map(lives, pids))
        process.send_signal(signal.SIGINT)
        assert wait_for_the_end(pids, 10) < 1.0
        process.stdout.read()
    assert process.returncode == 137


@pytest.mark.parametrize("content", [STUBBORN, WRITES], ids=["stubborn", "writes"])
def test_workers_end_with_a_launcher_that_was_killed(tmp_path, content):
    process, pids = start(tmp_path, content, str(tmp_path))
    with process:
        process.kill()
        process.stdout.close()
        took = wait_for_the_end(pids, 10)
    if content == WRITES:
        assert {path.name for path in tmp_path.iterdir()} >= set(map(str, pids))
        assert len(pids) == 2 and took < 1.9
    else:
        assert len(pids) == 4 and took > 1.5


def test_what_a_shell_ignores_stays_ignored(program):
    code = (
        "import signal, sys; from keras_mdm.cli import launch; "
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with launch._noted_signals() as received:\n"
        "    signal.raise_signal(signal.SIGHUP); signal.raise_signal(signal.SIGTERM)\n"
        "sys.exit(received != [signal.SIGTERM])"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_bad_arguments(capsys):
    assert main(["launch", "nowhere.py"]) == 2
    assert "program='nowhere.py'" in capsys.readouterr().err
    assert main(["launch", "-n", "0", __file__]) == 2
    assert "workers=0" in capsys.readouterr().err


def test_ports_differ():
    assert len(set(launch.free_ports(5))) == 5 and "TF_CONFIG" not in os.environ

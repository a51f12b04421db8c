"""A process that is asked to end does so in time, whatever it is at, and loses nothing it has."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from keras_mdm.callbacks import OrderlyStop

PROGRAM = Path(__file__).with_name("signal_program.py")
TERM, INT = signal.SIGTERM, signal.SIGINT


def run(where, folder, *signals):
    """(exit code, seconds since the signal, what was printed) of a process."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), where, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.3)
        printed = process.stdout.read()
    return process.returncode, time.monotonic() - began, printed


@pytest.mark.slow  # deadlines that a loaded machine does not keep
@pytest.mark.parametrize("number", [TERM, INT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("where", "code", "seconds", "said", "written"),
    [
        ("building", 0, (1.0, 2.5), "there was nothing new to save", None),
        ("python", 0, (0.0, 1.0), "all results are on disk", None),
        ("input", 0, (1.0, 3.5), "a checkpoint is written", "checkpoint"),
        ("wakes", 0, (3.0, 3.9), "a checkpoint is written", "checkpoint"),
        ("step", None, (3.9, 6.5), "the current step was not finished after 4 s; the newest", None),
        ("disk", None, (3.9, 6.5), "a file was not finished after 4 s; the newest", None),
        ("writing", 0, (1.5, 3.9), "all results are on disk", "model"),
        ("leaves", 0, (3.9, 6.5), "all results are on disk", None),
    ],
)
def test_it_ends_in_time(tmp_path, number, where, code, seconds, said, written):
    found, took, printed = run(where, tmp_path, number)
    assert found == (128 + number if code is None else code), printed
    assert seconds[0] <= took <= seconds[1], printed
    assert f"Stopped by {number.name}; {said}" in printed and "went on" not in printed
    assert f"To continue: {sys.executable} {PROGRAM} {where}" in printed
    assert ("a second one ends at once" in printed) == (number == INT)
    assert [path.name for path in tmp_path.iterdir()] == ([written] if written else [])


def test_the_keys_pressed_twice_end_it_at_once(tmp_path):
    code, took, printed = run("step", tmp_path, INT, INT)
    assert code == 130 and took < 3.5 and "step-7" in printed
    # In Python it is the exception that everybody knows.
    with OrderlyStop() as stop:
        signal.raise_signal(INT)
        assert stop.caught == INT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(INT)


def test_everything_is_given_back():
    before = signal.getsignal(TERM), signal.getsignal(INT), threading.active_count()
    with open(os.devnull, "wb") as sink:
        os.set_blocking(sink.fileno(), False)
        assert signal.set_wakeup_fd(sink.fileno()) == -1
        try:
            with pytest.raises(RuntimeError), OrderlyStop(), OrderlyStop():
                assert signal.getsignal(TERM) != before[0]
                raise RuntimeError
        finally:
            assert signal.set_wakeup_fd(-1) == sink.fileno()
    assert (signal.getsignal(TERM), signal.getsignal(INT), threading.active_count()) == before


def test_what_is_ignored_stays_ignored():
    """A shell has what runs in its background ignore the keys."""
    before = signal.signal(INT, signal.SIG_IGN)
    try:
        with OrderlyStop() as stop:
            signal.raise_signal(INT)
            assert stop.caught is None
            stop.check()
    finally:
        signal.signal(INT, before)


def test_several_workers_end_together():
    told = []
    with OrderlyStop(agree=lambda came: told.append(came) or len(told) > 1) as stop:
        stop.check()
        with pytest.raises(SystemExit) as ended:
            stop.check()
    assert told == [False, False] and ended.value.code == 0


def test_another_thread_is_left_alone():
    def work():
        with OrderlyStop() as stop:
            stop.check()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(TERM) == signal.SIG_DFL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_dies_of_its_own_signals():
    with OrderlyStop() as stop:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join(timeout=10)
        assert child.exitcode == -TERM and stop.caught is None
        time.sleep(0.2)
        stop.check()
        assert not stop._since


@pytest.mark.parametrize("options", [{"deadline": -1.0}, {"deadline": 2.0, "limit": 1.0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match="Received"):
        OrderlyStop(**options)

"""Several processes with the same texts: one encodes, and the others wait and read."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_mdm.text import embed, encode_cached
from keras_mdm.turns import take_turn
from text.test_text_cache import Letters

TEXTS = [f"{number:03d}" for number in range(40)]


class Slow(Letters):
    """Takes long enough for others to come."""

    def encode(self, texts):
        time.sleep(0.1)
        return super().encode(texts)


def embedded(encoder, folder):
    return embed(encoder, TEXTS, folder, texts_per_file=16, progress=False).encode(TEXTS)


def cached(encoder, folder):
    return encode_cached(encoder, TEXTS, cache_dir=folder, progress=False)


@pytest.mark.parametrize("call", [embedded, cached])
def test_of_several_one_encodes(tmp_path, call):
    encoders = [Slow() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:  # a lock belongs to the open file, in threads as well
        found = list(pool.map(lambda encoder: call(encoder, tmp_path), encoders))
    alone = call(Letters(), tmp_path / "alone")
    for states, mask in found:
        np.testing.assert_array_equal(states, alone[0])
        np.testing.assert_array_equal(mask, alone[1])
    assert sorted(bool(encoder.seen) for encoder in encoders) == [False, False, False, True]


def test_who_waits_is_told_and_what_comes_first_is_not_lost(tmp_path, capsys):
    with ThreadPoolExecutor(1) as pool:
        with take_turn(tmp_path):
            other = pool.submit(embed, Letters(), TEXTS, tmp_path)
            time.sleep(0.3)
            assert not other.done() and "waiting for it" in capsys.readouterr().out
        assert len(other.result(timeout=5)) == len(TEXTS)


def test_nobody_waits_for_a_process_that_was_killed(tmp_path):
    code = (
        "import sys, time; from keras_mdm.turns import take_turn\n"
        "with take_turn(sys.argv[1]): print('mine', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mine\n"
        waits = threading.Event()
        with ThreadPoolExecutor(1) as pool:

            def work():
                with take_turn(tmp_path, waits.set):
                    return True

            done = pool.submit(work)
            assert waits.wait(5) and not done.done()
            os.kill(process.pid, signal.SIGKILL)
            assert done.result(timeout=5)


def test_a_file_system_without_locks_costs_only_time(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert embedded(Letters(), tmp_path)[0].shape == (40, 3, 3)


def test_what_the_body_raises_is_raised(tmp_path):
    with pytest.raises(OSError, match="full"), take_turn(tmp_path):
        raise OSError("full")
    with take_turn(tmp_path, lambda: pytest.fail("nobody has it")):
        pass


def test_what_is_there_is_not_encoded_for_an_estimate(tmp_path):
    embedded(Letters(), tmp_path)
    encoder = Letters()
    embed(encoder, [*TEXTS, "new"], tmp_path, total=41, progress=False)
    assert set(encoder.seen) == {"new"}

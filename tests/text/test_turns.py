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

from keras_mdm.text import StoredStates, embed, encode_cached
from keras_mdm.turns import LEASE, LOCK, take_turn
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


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that has none."""
    import fcntl

    from keras_mdm import turns

    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(turns, "_BEAT", 0.05)
    monkeypatch.setattr(turns, "_DEAD", 0.3)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_several_take_turns_as_well(tmp_path):
    """Each wrote parts of the same names: states of one with the keys of another."""
    groups = [[f"{number:03d}" for number in range(20 * n, 20 * n + 60)] for n in range(4)]

    def work(texts):
        embed(Slow(), texts, tmp_path, texts_per_file=16, progress=False)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, groups))
    stored = StoredStates(tmp_path)
    texts = sorted({text for group in groups for text in group})
    assert len(stored) == len(texts) == 120
    np.testing.assert_array_equal(
        stored.encode(texts)[0], Letters().encode(texts)[0][:, :3].astype(np.float16)
    )
    assert not (tmp_path / LEASE).exists()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_nobody_waits_for_ever_for_one_that_was_killed(tmp_path):
    (tmp_path / LEASE).touch()
    told = []
    with take_turn(tmp_path, lambda: told.append(1)):
        assert told == [1] and (tmp_path / LEASE).exists()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_two_encoders_that_begin_at_once_do_not_share_a_folder(tmp_path):
    def work(length):
        try:
            return embed(Slow(length=length), TEXTS, tmp_path, progress=False).identity
        except ValueError as problem:
            return str(problem)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, (4, 5)))
    (stored,) = (each for each in found if isinstance(each, dict))
    (refused,) = (each for each in found if isinstance(each, str))
    assert "states of the same encoder" in refused
    assert StoredStates(tmp_path).identity == stored


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

"""A file is the old one or the new one, never a part of one."""

import json
import os
import subprocess
import sys

import pytest

from keras_mdm.files import (
    is_temporary,
    read_json,
    remove_dead_temporaries,
    temporary_directory,
    temporary_path,
    write_atomically,
)


def test_write_atomically(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "one")
    assert path.read_text() == "one"
    write_atomically(path, b"two")
    seen = []
    write_atomically(path, lambda target: (seen.append(target), target.write_text("three")))
    assert path.read_text() == "three"
    assert seen[0].suffix == ".txt" and seen[0].parent == path.parent

    def fail(target):
        target.write_text("half")
        assert path.read_text() == "three"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "three"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


WRITER = """
import sys, time
from keras_mdm.files import write_atomically
def slowly(path):
    path.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
write_atomically(sys.argv[1], slowly)
"""


def start_writing(path):
    """A process in the middle of `write_atomically`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "half\n"
    return process


def test_what_killed_processes_left_goes_and_what_living_ones_write_stays(tmp_path):
    folder = tmp_path / "run"

    def found():
        return {path.name.split("-")[-1]: path for path in folder.iterdir()}

    with start_writing(folder / "a.keras") as living, start_writing(folder / "b.keras") as killed:
        left = found()
        assert set(left) == {"a.keras", "b.keras"} and all(map(is_temporary, left.values()))
        assert remove_dead_temporaries(tmp_path, recursive=True) == []
        killed.kill()
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
        assert remove_dead_temporaries(tmp_path) == []
        assert remove_dead_temporaries(tmp_path, recursive=True) == [left["b.keras"]]
        assert found() == {"a.keras": left["a.keras"]}
        living.kill()
    # The next process that writes there removes it without being asked.
    with start_writing(folder / "c.keras") as following:
        assert set(found()) == {"c.keras"}
        following.kill()


def test_a_number_that_was_given_again_keeps_nothing(tmp_path):
    own = temporary_path(tmp_path / "own.npz")
    pid, started = own.name.split("-")[2:4]
    other = own.with_name(own.name.replace(f"-{pid}-{started}-", f"-{pid}-{int(started) + 1}-"))
    for path in (own, other):
        path.touch()
    assert remove_dead_temporaries(tmp_path) == [other] and own.exists()


def test_of_others_only_what_is_old_goes(tmp_path):
    own = temporary_path(tmp_path / "a.npz").name
    machine = own.split("-")[1]
    elsewhere = own.replace(machine, "0" * 12 if machine != "0" * 12 else "1" * 12)
    earlier = f".tmp-{'ab' * 16}-model.keras"
    foreign = [".tmp-step-0000002", ".tmp-notes", ".export-abcdefgh", "model.keras"]
    for name in (elsewhere, earlier, *foreign):
        (tmp_path / name).touch()
    assert remove_dead_temporaries(tmp_path) == []
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    assert {path.name for path in remove_dead_temporaries(tmp_path)} == {elsewhere, earlier}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(foreign)
    assert remove_dead_temporaries(tmp_path / "nowhere") == []


def test_a_temporary_directory_is_of_its_process(tmp_path):
    with temporary_directory(tmp_path / "exported") as scratch:
        (scratch / "file").touch()
        assert is_temporary(scratch) and remove_dead_temporaries(tmp_path) == []
    assert not list(tmp_path.iterdir())


KEYS = {"format": int, "rule": dict, "shards": [{"file": str, "loss": (int, float)}]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b'{"format": 1, "ru', "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not an object"),
        (b"{}", "it has no 'format'"),
        (b'{"format": true, "rule": {}, "shards": []}', "format is True, not int"),
        (b'{"format": 1, "rule": [], "shards": []}', r"rule is \[\], not dict"),
        (b'{"format": 1, "rule": {}, "shards": {}}', "shards is not a list"),
        (b'{"format": 1, "rule": {}, "shards": [{"file": "a"}]}', r"shards\[0\] has no 'loss'"),
        (
            b'{"format": 1, "rule": {}, "shards": [{"file": "a", "loss": "b"}]}',
            r"shards\[0\].loss is 'b', not int or float",
        ),
    ],
)
def test_damaged_json_is_one_error(tmp_path, content, problem):
    file = tmp_path / "plan.json"
    file.write_bytes(content)
    told = rf"the plan must be whole. Received: file='.*plan.json', problem=.*{problem}.*: write it"
    with pytest.raises(ValueError, match=told):
        read_json(file, what="the plan", fix="write it", keys=KEYS)


def test_whole_json_is_read(tmp_path):
    content = {"format": 1, "rule": {}, "shards": [{"file": "a", "loss": 2}], "more": None}
    write_atomically(tmp_path / "plan.json", json.dumps(content))
    assert read_json(tmp_path / "plan.json", what="it", fix="none", keys=KEYS) == content

import json

import pytest

from keras_mdm.runs import checkpoints
from keras_mdm.runs.directory import RunDirectory

PHASES = [{"levels": ("64",), "steps": 10}, {"levels": ("64", "256"), "steps": 5}]


def test_paths(tmp_path):
    run = RunDirectory(tmp_path / "x")
    assert run.checkpoints(2) == tmp_path / "x" / "checkpoints" / "phase-2"
    assert (run.samples.name, run.model.name) == ("samples", "model.keras")
    assert run.logs == tmp_path / "x" / "logs" / "x"  # TensorBoard shows the run as x
    assert not run.path.exists() and run.read() is None
    with pytest.raises(ValueError, match="phase=0"):
        run.checkpoints(0)


def test_start_and_continue(tmp_path):
    run = RunDirectory(tmp_path).start({"seed": 1, "out": tmp_path}, PHASES)
    first = run.read()
    assert first["arguments"] == {"seed": 1, "out": str(tmp_path)}
    assert {"python", "tensorflow", "keras", "numpy"} <= set(first["versions"])
    assert first["phases"] == json.loads(json.dumps(PHASES))
    RunDirectory(tmp_path).start({"seed": 2}, PHASES)
    second = run.read()
    assert second["arguments"] == first["arguments"]
    assert [entry["arguments"] for entry in second["continued"]] == [{"seed": 2}]


def test_the_ledger_notes_phases_and_checkpoints(tmp_path):
    run = RunDirectory(tmp_path).start({}, PHASES)
    assert run.phase_record(1) is None
    run.note_phase(1, {"state": "running", "steps": 0})
    run.note_checkpoint(1, 10, done=True)
    run.note_phase(2, {"state": "running", "steps": 0})
    assert run.phase_record(1) == {"state": "done", "steps": 10}
    run.note_phase(1, {"state": "running", "steps": 0})  # begun again: what came after has not been
    assert run.phase_record(2) is None


def test_a_directory_that_was_moved_does_not_come_into_being_again(tmp_path):
    """Moved between the look at it and the writing."""
    run = RunDirectory(tmp_path / "run")
    with run.locked():
        run.start({}, [{"levels": ["8"]}])
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(ValueError, match="must not be moved.*moved_to="):
            run._write({})
        with pytest.raises(FileNotFoundError):
            checkpoints.save(run.checkpoints(1), 1, {}, {})
    assert not (tmp_path / "run").exists()

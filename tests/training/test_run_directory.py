import json

import pytest

from keras_mdm.training.run_directory import RunDirectory

PHASES = [{"levels": ("64",), "steps": 10}, {"levels": ("64", "256"), "steps": 5}]


def test_paths(tmp_path):
    run = RunDirectory(tmp_path / "x")
    assert run.checkpoints(2) == tmp_path / "x" / "checkpoints" / "phase-2"
    assert (run.logs.name, run.samples.name, run.model.name) == ("logs", "samples", "model.keras")
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


def test_a_run_that_named_the_operator_in_its_phases_goes_on(tmp_path):
    named, silent = ([{**phase, "downsample": kind} for phase in PHASES] for kind in ("area", None))
    run = RunDirectory(tmp_path).start({}, named)
    run.start({}, silent)
    assert run.read()["phases"][1]["downsample"] == "area"  # what was noted stays
    with pytest.raises(ValueError, match="phase 1.downsample: 'area' before, 'bilinear' now"):
        run.start({}, [{**PHASES[0], "downsample": "bilinear"}, PHASES[1]])


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([PHASES[0], {**PHASES[1], "steps": 6}], "phase 2.steps: 5 before, 6 now"),
        (PHASES[:1], "phases: 2 before, 1 now"),
        ([{**PHASES[0], "batch_size": 4}, PHASES[1]], "phase 1.batch_size: None before, 4 now"),
    ],
)
def test_other_phases_are_refused_and_nothing_is_changed(tmp_path, phases, words):
    run = RunDirectory(tmp_path).start({}, PHASES)
    before = run.file.read_bytes()
    with pytest.raises(ValueError) as caught:
        run.start({}, phases)
    assert words in str(caught.value) and "To fix it" in str(caught.value)
    assert run.file.read_bytes() == before

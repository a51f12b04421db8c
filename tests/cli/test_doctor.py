"""`keras-mdm doctor`: what it tries works here, and what fails is said."""

import json

import pytest

from keras_mdm.cli import doctor, doctor_advice, doctor_trials
from keras_mdm.cli import main as cli

HOST = {
    "processor": "a processor",
    "cores": 2,
    "memory_gib": 8.0,
    "bfloat16_in_hardware": [],
    "nvidia": None,
}
MACHINE = {
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "built_with_cuda": True,
    "cuda": "12",
    "cudnn": "9",
    "gpus": [],
    "tf32": False,
    "memory_growth": False,
}


def gpus(*capabilities):
    return [{"name": "a card", "compute_capability": list(pair)} for pair in capabilities]


def said(host=HOST, machine=MACHINE, trials=()):
    return " ".join(doctor_advice.advice(host, machine, trials))


def test_a_trial_in_a_process_of_its_own_and_one_without_hardware(capsys):
    assert cli.main(["doctor", "--json", "--only", "sample", "replicas", "gpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    results = {trial["trial"]: trial for trial in found["trials"]}
    assert results["sample"]["result"] == "works"
    assert 0.0 < results["sample"]["seconds"] < results["sample"]["total_seconds"]
    assert results["sample"]["memory_mib"] > 50
    if not found["machine"]["gpus"]:
        assert results["gpu"]["result"] == results["replicas"]["result"] == "not run"
        assert "GPU" in results["gpu"]["why"]
    assert found["advice"]


@pytest.mark.slow
def test_all_trials(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("works") >= 6 and "failed" not in printed


def test_a_trial_that_fails_is_reported(monkeypatch):
    def trial():
        raise RuntimeError("no\nsuch kernel")

    monkeypatch.setitem(doctor_trials.TRIALS, "sample", ("sampling", trial))
    result = doctor_trials.tried("sample")
    assert (result["result"], result["why"]) == ("failed", "RuntimeError: no such kernel")
    assert "no such kernel" in doctor.row(result)
    assert "sampling fails" in said(trials=[result])


def test_a_process_that_dies_has_failed_its_trial_and_the_others_still_run(monkeypatch, tmp_path):
    # A worker like the real one, which dies in "train" and knows nothing of TensorFlow.
    script = tmp_path / "worker.py"
    script.write_text(
        f"""import json, os, sys
print(json.dumps({{"machine": {MACHINE!r}}}), flush=True)
for name in sys.argv[1:]:
    print(json.dumps({{"begins": name}}), flush=True)
    if name == "train":
        os.abort()
    result = {{"trial": name, "title": name, "result": "not run", "why": "-"}}
    print(json.dumps(result), flush=True)
"""
    )
    monkeypatch.setattr(doctor, "WORKER", (str(script),))
    found = doctor.examine(["export", "train", "sample"], lambda line: None)
    results = {trial["trial"]: trial["result"] for trial in found["trials"]}
    assert results == {"export": "not run", "train": "failed", "sample": "not run"}


@pytest.mark.parametrize(
    ("flags", "capabilities", "expected"),
    [
        ([], [], "float32"),
        (["avx512_bf16"], [], "mixed_bfloat16"),
        ([], [(9, 0)], "mixed_bfloat16"),
        ([], [(9, 0), (7, 5)], "mixed_float16"),  # the oldest decides
        (["avx512_bf16"], [(6, 1)], "float32"),
    ],
)
def test_the_policy_follows_the_hardware(flags, capabilities, expected):
    host = {**HOST, "bfloat16_in_hardware": flags}
    assert doctor_advice.policy(host, {**MACHINE, "gpus": gpus(*capabilities)})[0] == expected


def test_gpus_that_tensorflow_does_not_see():
    card = {"driver": "570.1", "gpus": ["a card, 8 GiB"]}
    assert "tensorflow[and-cuda]" in said({**HOST, "nvidia": card})
    broken = {"driver": None, "gpus": [], "message": "mismatch"}
    assert "driver" in said({**HOST, "nvidia": broken})
    assert "mismatch" in doctor.host_lines({**HOST, "nvidia": broken})
    seen = {**MACHINE, "gpus": gpus((9, 0)), "tf32": True}
    assert "TF32" in said(machine=seen) and "ALLOW_GROWTH" in said(machine=seen)
    assert "tensorflow[and-cuda]" not in said({**HOST, "nvidia": card}, seen)


def test_without_tensorflow():
    assert "cannot be imported" in said(machine=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "sample", "export"])
def test_the_trials_work_on_a_processor(name):
    from keras_mdm.cli import doctor_trials

    found = doctor_trials.tried(name)
    assert found["result"] == "works", found

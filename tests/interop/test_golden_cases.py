"""Every golden case of the authors' code agrees, and the comparison can fail."""

import copy
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import parity
import pytest
from golden_cases.case import Case

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NETWORK = {"outputs", "weights back"}
KINDS = {
    "checkpoint": {"checkpoint"},
    "nested2_text": NETWORK | {"losses", "unguided steps", "guided steps"},
    "nested2_video": NETWORK | {"losses", "unguided steps"},
    "nested2_video_rotary": NETWORK,
    "nested3_text": NETWORK | {"losses", "guided steps"},
    "samplers_nested": {"unguided steps", "guided steps"},
    "samplers_plain": {"unguided steps", "guided steps"},
    "schedules": {"schedules", "VDM weights"},
    "train_steps": {"gradients", "optimizer steps"},
    "unet_plain": NETWORK | {"losses", "VDM weights", "unguided steps"},
    "unet_text_lmhead_nomask": NETWORK,
    "unet_text_masked": NETWORK | {"losses", "guided steps"},
}


def failures(case):
    return [check for check in parity.run(case) if not check.passed]


def test_no_stored_case_is_left_out():
    assert sorted(parity.names(GOLDEN)) == sorted([*KINDS, "tokens"])


def test_token_ids(golden_case):
    """No package holds T5's vocabulary; the rules are tested in tests/text."""
    if "KERAS_MDM_SPIECE" not in os.environ:
        pytest.skip("KERAS_MDM_SPIECE must name T5's spiece.model")
    checks = parity.run(golden_case("tokens"), pathlib.Path(os.environ["KERAS_MDM_SPIECE"]))
    assert len(checks) > 10 and all(check.passed for check in checks), checks


@pytest.mark.parametrize("name", KINDS)
def test_all_comparisons_pass(golden_case, name):
    checks = parity.run(golden_case(name))
    assert [check for check in checks if not check.passed] == []
    assert {check.kind for check in checks} == KINDS[name]


def altered(golden_case, name, *, arrays=None, settings=None):
    """A copy of a case with other arrays, or with its settings changed by a function."""
    case = copy.copy(golden_case(name))
    case.arrays = {**case.arrays, **(arrays or {})}
    case.settings = copy.deepcopy(case.settings)
    if settings:
        settings(case.settings)
    return case


def set_sampler(kind, **fields):
    def change(settings):
        for entry in settings[kind]:
            whole = entry.get("diffusion_config", entry)
            whole["sampler_config"].update(fields)

    return change


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("unet_plain", "out/0"),
        pytest.param("nested2_video", "out/1", marks=pytest.mark.slow),
        ("unet_plain", "loss/eps_target/mse_0"),
        pytest.param("unet_plain", "traj/ddpm_4_clip/x_2_0", marks=pytest.mark.slow),
        ("samplers_nested", "traj/p1_ddpm_clip/x0_1_2"),
        ("train_steps", "after/conv_in.weight"),
        pytest.param("train_steps", "grad_0/conv_in.weight", marks=pytest.mark.slow),
        pytest.param("train_steps", "ema/conv_in.bias", marks=pytest.mark.slow),
    ],
)
def test_one_stored_value_that_is_off_fails(golden_case, name, key):
    value = golden_case(name)[key].copy()
    value.flat[3 % value.size] += 2e-4 * max(1.0, np.max(np.abs(value)))
    assert failures(altered(golden_case, name, arrays={key: value}))


@pytest.mark.parametrize(
    ("name", "kind", "fields"),
    [
        ("samplers_nested", "trajectories", {"schedule_shifted_power": 1.05}),
        ("samplers_plain", "trajectories", {"schedule_type": "COSINE"}),
        pytest.param(
            *("nested2_text", "losses", {"schedule_shifted_power": 1.05}), marks=pytest.mark.slow
        ),
        pytest.param(
            *("unet_text_masked", "losses", {"loss_target_type": "V_PREDICTION"}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("unet_text_masked", "trajectories", {"prediction_type": "DDPM"}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_another_process_fails(golden_case, name, kind, fields):
    assert failures(altered(golden_case, name, settings=set_sampler(kind, **fields)))


@pytest.mark.parametrize(
    "field",
    ["lr", "ema_decay"]
    + [pytest.param(f, marks=pytest.mark.slow) for f in ("gradient_clip_norm", "ema_warmup_steps")],
)
def test_another_optimizer_fails(golden_case, field):
    def change(settings):
        settings["train"][field] *= 2 if field != "ema_decay" else 0.99

    case = Case(GOLDEN, "train_steps")  # its network is trained: not the shared one
    change(case.settings)
    assert failures(case)


def test_what_stops_a_case_is_a_failure(golden_case):
    def change(settings):
        settings["losses"][0]["diffusion_config"]["sampler_config"]["schedule_type"] = "SIGMOID"

    (stopped,) = failures(altered(golden_case, "unet_text_masked", settings=change))
    assert stopped.kind == "stopped" and "schedule_type='SIGMOID'" in stopped.name


@pytest.mark.slow
def test_the_command_ends_with_exit_code_1(tmp_path):
    """A folder of two cases, one of them wrong."""
    for name in ("schedules", "samplers_plain"):
        shutil.copy(GOLDEN / f"{name}.json", tmp_path)
        shutil.copy(GOLDEN / f"{name}.npz", tmp_path)
    command = [sys.executable, parity.__file__, "--cases", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| samplers_plain | guided steps |" in done.stdout
    with np.load(tmp_path / "schedules.npz") as stored:
        arrays = dict(stored)
    arrays["cosine_N32/gamma"][7] *= 1.00001
    np.savez(tmp_path / "schedules.npz", **arrays)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cosine_N32: gamma: 1.00e-05" in done.stdout and "1 failed" in done.stdout
    done = subprocess.run([*command, "--only", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and "missing: ['nothing']" in done.stderr

"""Losses and sampling of the authors' code, network included, with the stored noise."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.diffusion import samplers, schedules
from keras_mdm.interop import load_ml_mdm_diffusion
from keras_mdm.training.level_process import LevelProcess
from keras_mdm.training.sampling import make_denoiser

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
THRESHOLDS = {"CLIP": "static", "DYNAMIC": "dynamic", "DYNAMIC_IF": "dynamic_if", "NONE": "none"}

LOSSES = [
    ("unet_plain", "eps_target"),
    ("unet_plain", "v_target"),
    ("unet_plain", "vdm_weighted"),
    ("unet_plain", "rescaled_signal"),
    ("unet_text_masked", "eps_target"),
    ("unet_text_shipped_style", "eps_target"),
    ("nested2_text", "eps_target_shift_p1"),
    ("nested2_text", "v_target_shift_p2"),
    ("nested2_text", "single_loss"),
    ("nested2_text", "weights_16_1"),
    ("nested2_text", "unshifted_signal_scaling"),
    ("nested3_text", "eps_target_shift_p2"),
    ("nested3_text", "weights_16_4_1"),
    ("nested2_video", "eps_target"),
]
MIXED = [("nested2_text", "mixed_1_1")]  # has a test of its own
TRAJECTORIES = [
    ("unet_plain", "ddpm_4_clip"),
    ("unet_plain", "ddim_4_dynamic"),
    ("unet_text_masked", "ddim_3_cfg_clip"),
    ("unet_text_shipped_style", "ddpm_4_cfg_dynamic"),
    ("unet_text_shipped_style", "ddim_4_cfg_dynamic_if"),
    ("unet_text_shipped_style", "ddim_4_eta1_none"),
    ("nested2_text", "ddpm_3_clip"),
    ("nested2_text", "ddim_3_cfg_dynamic_if"),
    ("nested3_text", "ddpm_2_cfg_dynamic"),
    ("nested2_video", "ddim_2"),
]


def stored(kind):
    found = []
    for file in sorted([*GOLDEN.glob("nested*.json"), *GOLDEN.glob("unet_*.json")]):
        settings = json.loads(file.read_text())
        found += [(file.stem, entry["name"]) for entry in settings.get(kind, [])]
    return sorted(found)


def test_every_stored_case_is_used():
    assert stored("losses") == sorted(LOSSES + MIXED)
    assert stored("trajectories") == sorted(TRAJECTORIES)


def check_configuration(case, sampler_config):
    """Return the shift power of a stored configuration, after checking what all have in common."""
    assert sampler_config["schedule_type"] == "DEEPFLOYD"  # the cosine schedule
    assert sampler_config["num_diffusion_steps"] == 1000
    assert sampler_config["prediction_type"] == "V_PREDICTION"
    assert sampler_config["schedule_shifted"] == (len(case.unet.levels) > 1)
    return sampler_config["schedule_shifted_power"]


def entry(case, kind, name):
    (found,) = (item for item in case.settings[kind] if item["name"] == name)
    return found


def loss_model(case, name):
    return load_ml_mdm_diffusion(
        case.state,
        config={
            "unet_config": case.model["config"],
            "diffusion_config": entry(case, "losses", name)["diffusion_config"],
        },
        size=case.size,
    )


def stored_batch(case):
    top = case.unet.levels[-1]
    batch = {"video" if "x" in top else "image": tf.constant(case.picture("loss/images", 0))}
    if "text" in case.unet.input_names:
        batch |= {"text": case["loss/cond"], "text_mask": case["loss/cond_mask"]}
    return batch | {key.removeprefix("in/micro/"): case[key] for key in case.keys("in/micro/")}


@pytest.mark.parametrize(("case_name", "name"), LOSSES, ids=["-".join(pair) for pair in LOSSES])
def test_losses_agree(golden_case, case_name, name):
    case = golden_case(case_name)
    model = loss_model(case, name)
    x0, conditions = model.prepare(stored_batch(case))
    for index in range(1, len(case.unet.levels)):  # the pyramid of the data
        expected = case.picture(f"loss/images_{index}", index)
        np.testing.assert_allclose(x0[case.level(index)], expected, rtol=0, atol=1e-6)
    index = tf.constant(case["loss/time"] + 1, tf.int32)
    by_level = model.level_losses(
        model.network("raw"), x0, case.pictures("loss/eps"), index, conditions
    )
    for number, level in enumerate(reversed(case.unet.levels)):
        key = f"loss/{name}/mse_{number}"
        if key in case:  # of the highest level only, if the others do not count
            expected = case[key]
            message = f"level {level}"
            np.testing.assert_allclose(by_level[level], expected, 2e-5, 2e-5, err_msg=message)
    total = model.batch_loss(by_level, index)
    np.testing.assert_allclose(total, case[f"loss/{name}/mean_loss"], rtol=2e-5, atol=2e-5)


def test_mixed_batches_agree(golden_case):
    """Outer levels run on the first samples only, and their losses count for more."""
    case = golden_case("nested2_text")
    with pytest.warns(UserWarning, match="mixed_ratio='1:1'"):
        model = loss_model(case, "mixed_1_1")
    x0, conditions = model.prepare(stored_batch(case))
    shares = dict(zip(reversed(case.unet.levels), (0.5, 1.0), strict=True))
    rows = len(case["loss/time"])
    kept = {level: int(share * rows) for level, share in shares.items()}
    cut = {level: x[: kept[level]] for level, x in x0.items()}
    eps = {level: e[: kept[level]] for level, e in case.pictures("loss/eps").items()}
    index = tf.constant(case["loss/time"] + 1, tf.int32)
    by_level = model.level_losses(model.network("raw"), cut, eps, index, conditions)
    total = np.zeros(rows)
    for level, value in by_level.items():
        total[: kept[level]] += value.numpy() / shares[level]
    np.testing.assert_allclose(total, case["loss/mixed_1_1/loss"], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(total.mean(), case["loss/mixed_1_1/mean_loss"], atol=2e-5)


def test_loss_parity_can_fail(golden_case):
    """The wrong target, shift or weight misses the limit by far."""
    case = golden_case("nested2_text")
    model = loss_model(case, "eps_target_shift_p1")
    x0, conditions = model.prepare(stored_batch(case))
    index = tf.constant(case["loss/time"] + 1, tf.int32)
    given = (model.network("raw"), x0, case.pictures("loss/eps"), index, conditions)
    total = float(model.batch_loss(model.level_losses(*given), index))
    for other in ("v_target_shift_p2", "weights_16_1", "single_loss"):
        assert abs(total - float(case[f"loss/{other}/mean_loss"])) > 0.1


def conditions_of(case, prefix, guided):
    """(conditions, unconditional ones or None); stored in one batch, unconditional first."""
    if "text" not in case.unet.input_names:
        return {}, None
    text, mask = (tf.constant(case[f"{prefix}/{key}"], tf.float32) for key in ("cond", "cond_mask"))
    if not guided:
        return {"text": text, "text_mask": mask}, None
    texts, masks = tf.split(text, 2), tf.split(mask, 2)
    without, given = ({"text": t, "text_mask": m} for t, m in zip(texts, masks, strict=True))
    return given, without


@pytest.mark.parametrize(
    ("case_name", "name"), TRAJECTORIES, ids=["-".join(pair) for pair in TRAJECTORIES]
)
def test_sampling_steps_agree(golden_case, case_name, name):
    """Every step starts from the stored previous sample, so errors do not add up."""
    case = golden_case(case_name)
    settings = entry(case, "trajectories", name)
    shift_power = check_configuration(case, settings["sampler_config"])
    process = LevelProcess.create(
        case.unet.levels,
        schedules.cosine(),
        shift_power=shift_power,
        prediction="v",
        use_residual=False,
    )
    prefix = f"traj/{name}"
    guided = settings["guidance"] != 1
    conditions, without = conditions_of(case, prefix, guided)
    denoise = make_denoiser(
        case.unet,
        process,
        conditions,
        without,
        settings["guidance"],
        THRESHOLDS[settings["threshold"]],
        {},
    )
    eta, steps = settings["eta"], settings["steps"]
    sampler = samplers.get("ddpm") if eta is None else samplers.get("ddim", eta=eta)
    grid = samplers.time_grid("release", steps)
    np.testing.assert_array_equal(np.round(np.array(grid) * 1000), settings["timesteps"])
    limit = 1e-4 if guided else 2e-5
    x = case.pictures(f"{prefix}/x_init")
    for step in range(steps):

        def noise(i, level, x_t, step=step):
            index = case.unet.levels[::-1].index(level)
            key = f"{prefix}/noise_{step}_{index}"
            # No noise is stored for a last step that adds none.
            return case.picture(key, index) if key in case else tf.zeros_like(x_t)

        after, x0 = samplers.run(
            sampler, denoise, process.schedules, grid, x, noise, start=step, stop=step + 1
        )
        for stem, actual in (("x0", x0), ("x", after)):
            for level, expected in case.pictures(f"{prefix}/{stem}_{step}").items():
                message = f"{stem} after step {step}, level {level}"
                np.testing.assert_allclose(actual[level], expected, 0, limit, err_msg=message)
        x = case.pictures(f"{prefix}/x_{step}")
    top = case.unet.levels[-1]
    final = np.clip(after[top], -1.0, 1.0)
    np.testing.assert_allclose(final, case.picture(f"{prefix}/final", 0), rtol=0, atol=limit)

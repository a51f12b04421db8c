"""The official diffusion settings, defaults and refusals."""

import numpy as np
import pytest

from keras_mdm.interop import load_ml_mdm_diffusion
from keras_mdm.interop.mdm_diffusion import diffusion_settings, keywords_for

GIVEN = {"no_use_residual": True}


def keywords(levels=("8", "32"), **config):
    sampler = {k: config.pop(k) for k in list(config) if k not in DIFFUSION}
    nested = len(levels) > 1
    settings = diffusion_settings({**GIVEN, **config, "sampler_config": sampler}, nested=nested)
    return keywords_for(settings, levels)


DIFFUSION = (
    "model_output_scale use_vdm_loss_weights use_double_loss multi_res_weights mixed_ratio"
).split()


def test_defaults_are_the_official_ones():
    found = keywords()
    assert (found["prediction"], found["loss_target"], found["threshold"]) == (
        "eps",
        "eps",
        "static",
    )
    assert found["schedule"].num_steps == 32 and found["loss_weighting"] == "vdm"
    assert found["level_weights"] == {"8": 0.0}  # the highest level's loss only
    assert found["shift_power"] == 0.0 and found["signal_scale"] == {"32": 4.0}


def test_shift_is_of_nested_models_and_replaces_the_division():
    shifted = {"schedule_shifted": True, "schedule_shifted_power": 2, "rescale_signal": 3}
    found = keywords(**shifted)
    assert found["shift_power"] == 2.0 and found["signal_scale"] == {}
    alone = keywords(("8",), **shifted)
    assert alone["shift_power"] == 0.0 and alone["signal_scale"] == {"8": 3.0}


def test_clips_count_by_the_side_of_their_grid():
    assert keywords(("8", "16x8", "16x32"))["signal_scale"] == {"16x8": 4.0, "16x32": 16.0}


def test_weights_are_written_highest_level_first():
    found = keywords(use_double_loss=True, multi_res_weights="16:1")
    assert found["level_weights"] == {"32": 16.0, "8": 1.0}
    assert keywords(use_double_loss=True)["level_weights"] == {}


def test_names_in_any_case_and_none():
    found = keywords(
        prediction_type="v_prediction", loss_target_type="None", threshold_function="None"
    )
    assert (found["prediction"], found["loss_target"], found["threshold"]) == ("v", "v", "none")


def test_output_scale_bounds_plain_models_only(golden_case):
    assert keywords(model_output_scale=2.0)["output_limit"] == 0.0
    case = golden_case("unet_plain")
    whole = {
        "unet_config": case.model["config"],
        "diffusion_config": {"model_output_scale": 0.5, "sampler_config": {}},
    }
    # The defaults of the authors' code, 32 linear steps, do not end in noise.
    with pytest.warns(UserWarning, match=r"leaves 0\.851 of the pictures' amplitude"):
        model = load_ml_mdm_diffusion(case.state, config=whole, size=case.size)
    (level,) = model.unet.levels
    for weights in ("raw", "ema"):
        bounded = model.network(weights)(case.inputs)[level]
        free = np.array(case.unet(case.inputs)[level])
        np.testing.assert_allclose(bounded, 0.5 * np.tanh(free / 0.5), rtol=0, atol=1e-5)
    with pytest.warns(UserWarning, match=r"leaves 0\.851"):
        restored = type(model).from_config(model.get_config())
    assert restored.output_limit == 0.5


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"loss_target_type": "HA_STYLE"}, "HA_STYLE"),
        ({"schedule_type": "SIGMOID"}, "SIGMOID"),
        ({"rescale_schedule": 4.0}, "rescale_schedule=4.0"),
        ({"multi_res_weights": "16:1"}, "use_double_loss"),
        ({"multi_res_weights": "16:4:1", "use_double_loss": True}, "one weight per level, 2"),
    ],
)
def test_what_the_official_code_cannot_run(config, words):
    with pytest.raises(ValueError) as failure:
        keywords(**config)
    assert words in str(failure.value)


def test_the_broken_residual_of_nested_models_is_refused():
    with pytest.raises(ValueError, match="no_use_residual=False"):
        diffusion_settings({}, nested=True)


def test_a_network_alone_says_nothing_about_diffusion(golden_case):
    case = golden_case("unet_plain")
    with pytest.raises(ValueError, match="diffusion_config"):
        load_ml_mdm_diffusion(case.state, config=case.model["config"], size=case.size)

"""`keras-mdm import`: a checkpoint and its configuration become a model file."""

import keras
import numpy as np
import pytest
import yaml

from keras_mdm.cli.main import main
from keras_mdm.interop import save_ml_mdm, to_ml_mdm
from keras_mdm.interop.mdm_config import spec_from_config
from keras_mdm.models import NestedUNet

NETWORK = {
    "resolution_channels": [32, 32],
    "num_resnets_per_resolution": [1, 1],
    "attention_levels": [],
    "temporal_dim": 32,
}
CONFIG = {
    "model": "nested_unet",
    "unet_config": {**NETWORK, "inner_config": NETWORK},
    "diffusion_config": {
        "sampler_config": {
            "num_diffusion_steps": 1000,
            "schedule_type": "DEEPFLOYD",
            "prediction_type": "V_PREDICTION",
            "loss_target_type": "DDPM",
            "schedule_shifted": True,
        },
        "use_vdm_loss_weights": False,
        "use_double_loss": True,
        "no_use_residual": True,
    },
    "reader_config": {"image_size": 8},
}


@pytest.fixture
def files(tmp_path):
    unet = NestedUNet(spec_from_config(CONFIG["unet_config"], size=8))
    save_ml_mdm(unet, tmp_path / "x.pth")
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(CONFIG))
    return unet, [str(tmp_path / name) for name in ("x.pth", "x.yaml", "x.keras")]


def test_imported_model_holds_the_weights_and_samples(files, tmp_path, capsys):
    unet, paths = files
    assert main(["import", *paths]) == 0
    printed = capsys.readouterr().out
    assert f"parameters: {unet.count_params():,}" in printed
    assert "1000 steps, predicts v, loss on eps, shift power 1, threshold static" in printed
    assert printed.index("level 8") < printed.index("level 4")
    model = keras.saving.load_model(paths[2], compile=False)
    expected = to_ml_mdm(unet)
    for key, value in to_ml_mdm(model.unet).items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)
    for variable, average in zip(model.ema.variables, model.ema.averages, strict=True):
        np.testing.assert_array_equal(variable, average)
    assert main(["sample", paths[2], "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "grid.png").is_file()


def test_a_failed_import_leaves_an_existing_file_alone(files, capsys):
    _, (weights, config, out) = files
    with open(out, "w") as file:
        file.write("precious")
    assert main(["import", weights, config, out, "--size", "9"]) == 2
    assert "size" in capsys.readouterr().err
    with open(out) as file:
        assert file.read() == "precious"


def test_the_size_must_be_known(files, tmp_path, capsys):
    _, (weights, _, out) = files
    config = tmp_path / "sizeless.yaml"
    config.write_text(yaml.safe_dump({k: v for k, v in CONFIG.items() if k != "reader_config"}))
    assert main(["import", weights, str(config), out]) == 2
    assert "--size" in capsys.readouterr().err
    assert main(["import", weights, str(config), out, "--size", "8"]) == 0
    assert main(["import", weights, str(config), str(tmp_path / "x.h5")]) == 2

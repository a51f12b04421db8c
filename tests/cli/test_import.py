"""`keras-mdm import`: a checkpoint and its configuration become a model file."""

import io
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import sentencepiece
import yaml
from safetensors.numpy import save_file

from keras_mdm.cli.main import main
from keras_mdm.interop import save_ml_mdm, to_ml_mdm
from keras_mdm.interop.mdm_config import spec_from_config
from keras_mdm.models import NestedUNet
from keras_mdm.text import FlanT5

pytestmark = pytest.mark.usefixtures("eagerly")

GOLDEN = Path(__file__).parents[1] / "golden"

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


@pytest.fixture
def encoder_folder(tmp_path, monkeypatch):
    """A tiny random FLAN-T5 of width 24, as Hugging Face stores one."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a panda playing guitar", "a red apple", "a dog"] * 4),
        model_writer=written,
        vocab_size=20,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    monkeypatch.setenv("KERAS_MDM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "flan-t5-tiny"
    folder.mkdir()
    with np.load(GOLDEN / "t5_tiny.npz") as arrays:
        (folder / "config.json").write_bytes(bytes(arrays["flan/config"]))
        prefix = "flan/state/"
        tensors = {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "spiece.model").write_bytes(written.getvalue())
    return folder


def with_text(files, width):
    """Write a checkpoint with text of a width; the configuration does not name it."""
    _, paths = files
    text = {"conditioning_feature_dim": width, "masked_cross_attention": 0}
    network = {**CONFIG["unet_config"], **text}
    network["inner_config"] = {**NETWORK, "attention_levels": [1], "masked_cross_attention": 0}
    save_ml_mdm(NestedUNet(spec_from_config(network, size=8)), paths[0])
    network["conditioning_feature_dim"] = -1
    Path(paths[1]).write_text(yaml.safe_dump({**CONFIG, "unet_config": network}))
    return paths


@pytest.mark.slow
def test_prompts_right_after_an_import_with_its_text_encoder(
    files, encoder_folder, tmp_path, capsys
):
    paths = with_text(files, 24)
    assert main(["import", *paths, "--text-encoder", str(encoder_folder)]) == 0
    assert "text: width 24, encoder flan_t5 in float32" in capsys.readouterr().out
    prompt = "a panda playing guitar"
    assert main(["sample", paths[2], prompt, "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "000-a-panda-playing-guitar_8.png").is_file()
    model = keras.saving.load_model(paths[2], compile=False)
    states, mask = FlanT5(encoder_folder).null()
    np.testing.assert_array_equal(model.null_condition["text"], states)  # the empty prompt
    np.testing.assert_array_equal(model.null_condition["text_mask"], mask)
    # The folder is gone: which encoder is wanted is known, where it lies is not.
    encoder_folder.rename(tmp_path / "elsewhere")
    assert main(["sample", paths[2], prompt, "--steps", "2"]) == 2
    assert "FlanT5(FOLDER)" in capsys.readouterr().err
    given = ["--text-encoder", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "again")]
    assert main(["sample", paths[2], prompt, "--steps", "2", *given]) == 0
    drawn = [(tmp_path / name / "grid.png").read_bytes() for name in ("out", "again")]
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_the_notebook_on_released_checkpoints_runs(files, encoder_folder, tmp_path, monkeypatch):
    """As it stands, but for the names of the files, the size and the steps."""
    paths = with_text(files, 24)
    notebook = Path(__file__).parents[2] / "docs" / "notebooks" / "released_checkpoint.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    names = {
        "vis_model_64x64.pth": paths[0],
        "cc12m_64x64.yaml": paths[1],
        "flan-t5-xl": str(encoder_folder),
        ", 64, ": ", 8, ",
        "STEPS = 50": "STEPS = 2",
    }
    monkeypatch.chdir(tmp_path)
    shown: list = []
    namespace = {"display": shown.append}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            for old, new in names.items():
                source = source.replace(old, new)
            exec(source, namespace)
    assert len(shown) == 2 and namespace["changed"]["8"].shape == (1, 8, 8, 3)
    assert tuple(namespace["larger"].unet.levels) == ("4", "8", "32")
    assert (tmp_path / "released_64.keras").is_file()


def test_prompts_need_the_text_encoder(files, encoder_folder, capsys):
    paths = with_text(files, 24)
    assert main(["import", *paths]) == 0
    assert "prompts need one, pass --text-encoder DIR" in capsys.readouterr().out
    sample = ["sample", paths[2], "a dog", "--steps", "2"]
    assert main(sample) == 2
    assert "--text-encoder DIR" in capsys.readouterr().err
    # Its null condition is not this encoder's empty prompt: guidance would be another.
    assert main([*sample, "--text-encoder", str(encoder_folder)]) == 2
    assert "wanted=None" in capsys.readouterr().err


def test_a_text_encoder_of_the_wrong_width_is_refused(files, encoder_folder, capsys):
    paths = with_text(files, 16)
    assert main(["import", *paths, "--text-encoder", str(encoder_folder)]) == 2
    error = capsys.readouterr().err
    assert "must have the width 16" in error and "width=24" in error
    assert not Path(paths[2]).exists()
    assert main(["import", *paths, "--text-encoder", paths[0]]) == 2
    assert "must be a folder" in capsys.readouterr().err


def test_a_network_without_text_takes_no_text_encoder(files, encoder_folder, capsys):
    _, paths = files
    assert main(["import", *paths, "--text-encoder", str(encoder_folder)]) == 2
    assert "a network without text" in capsys.readouterr().err


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

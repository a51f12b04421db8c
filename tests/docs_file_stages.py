"""Stages of the pages about data and files that go in and out, in small."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from docs_kit import (
    LARGE,
    SMALL,
    model_of,
    pictures,
    stage,
    stand_in_minilm,
    t5,
    text_model,
    write_drawings,
    write_export,
    write_pictures,
    write_run,
)
from docs_pages import ROOT
from golden_cases.case import Case
from interop.conftest import GOLDEN
from interop.test_files import unknown_width, write_config
from PIL import Image
from serving.fakes import serving as served
from tiny_models import TEXT_WIDTH, Colours, FakeEncoder

import keras_mdm as mdm
from keras_mdm import evaluation
from keras_mdm.interop.torch_reader import TorchFile
from keras_mdm.serving import painter_of

# What is asked of the block under another backend, in a process of its own.
PREDICTED = """
shapes = {tensor.name: [side or 2 for side in tensor.shape] for tensor in unet.inputs}
found = predict(weights, {name: jax.numpy.ones(shape) for name, shape in shapes.items()})
assert all(bool(jax.numpy.isfinite(value).all()) for value in found.values())
print({level: value.shape for level, value in found.items()})
"""


@stage("docs/backends.md")
def backends(page):
    levels = [SMALL, LARGE]
    unet = mdm.build_nested_unet(levels, text_width=TEXT_WIDTH)
    model = mdm.MatryoshkaDiffusion(unet, text_encoder=FakeEncoder())
    model.compile("sgd")
    write_run("runs/x", model)
    page.run()
    assert Path("x.weights.h5").is_file()
    if importlib.util.find_spec("jax") is None:
        pytest.skip("no jax here")
    written = f"[{', '.join(f'mdm.{level!r}' for level in levels)}], text_width={TEXT_WIDTH}"
    block = page.next({"[64, 256], text_width=2048": written})
    # Another backend is chosen before Keras is imported.
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", f"{block}\n{PREDICTED}"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert done.stdout.splitlines()[-1] == "{'16': (2, 16, 16, 3), '64': (2, 64, 64, 3)}"


@stage("docs/checkpoints.md", slow=True)
def checkpoints(page):
    sizes, cases = {}, {256: ("nested2_text", "nested_unet"), 64: ("unet_text_masked", "unet")}
    for size, (name, model) in cases.items():
        case = Case(GOLDEN, name)
        config = unknown_width(case.model["config"])
        write_config(Path(f"cc12m_{size}x{size}.yaml"), config, model)
        mdm.interop.save_ml_mdm(case.unet, f"vis_model_{size}x{size}.pth")
        sizes[size] = case.size
    page.run({"size=256": f"size={sizes[256]}"})
    written, back = (TorchFile(name).items() for name in ("vis_model_256x256.pth", "back.pth"))
    for key, value in written["state_dict"].items():
        np.testing.assert_array_equal(back["state_dict"][key], value)
    t5(page)
    page.run({"size=64": f"size={sizes[64]}", "scale=7.5": "scale=7.5, steps=1"})
    assert list(page["images"]) == [str(sizes[64])]


@stage("docs/data.md")
def data(page):
    stand_in_minilm(page)
    write_pictures("cc12m", [(70, 70), (60, 100), (100, 60), (50, 90)] * 3)
    page.run({"batch_size=64": "batch_size=2"})
    batch = next(iter(page["batches"]))
    assert batch["image"].shape == (2, 256, 256, 3) and "text" in batch
    shapes = set()
    few = {"batch_size=16, seed=0": "batch_size=2, seed=0, repeat=False"}
    page.run(few | {'batch["image"]': 'shapes.add(batch["image"].shape[1:])'}, shapes=shapes)
    assert shapes == {(64, 64, 3), (48, 80, 3), (80, 48, 3)}
    page.run(model=model_of())
    pytest.importorskip("resvg_py")
    pytest.importorskip("emoji")
    write_drawings()
    page.run()
    assert page["data"].captions[0].startswith("a twemoji drawing of ")


@stage("docs/evaluation.md")
def evaluating(page):
    for name in ("evaluation", "evaluation.evaluate"):
        module = importlib.import_module(f"keras_mdm.{name}")
        page.patch.setattr(module, "EfficientNetLite0", Colours)
    model = text_model()
    real = {f"real_{size}": pictures(100, size) for size in (16, 64)}
    few = {"count=2000": "count=100", '{"steps": 25}': '{"steps": 1}'}
    page.run(few, model=model, prompts=["a"] * 100, **real)
    assert page["report"].value("64", "precision") >= 0.0
    pytest.importorskip("resvg_py")
    pytest.importorskip("emoji")
    write_drawings()
    page.run()
    page.run(real=pictures(100), request=evaluation.Request(2))
    run, phase = SimpleNamespace(note=print), SimpleNamespace(first_step=5)
    (made,) = page["callbacks"](
        SimpleNamespace(run=run, phase=phase, logger=SimpleNamespace(writer=None))
    )
    assert (made.every, made.first_step) == (5000, 5)


@stage("docs/export.md", slow=True)
def export(page):
    levels = [SMALL, LARGE]
    page.run(unet=model_of(levels, network={"num_classes": 2}).unet)
    Image.fromarray(pictures()).save("samples.png")
    Path("evaluation").mkdir()
    real = {"64": pictures(4)}
    report = evaluation.evaluate(real, real, features=Colours(), few=True, progress=False)
    Path("evaluation/report.json").write_text(report.to_json())
    page.run()
    assert list(page["model"].class_names) == ["cat", "dog"]
    write_export(page, levels)
    assert page.run({"[10, 10]": "[2, 2]"}).shape == (2, 64, 64, 3)


@stage("docs/serving.md")
def serving(page):
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(package)
    with served(painter_of(text_model())) as (_, address):
        page.run({"http://127.0.0.1:8000": address})
    assert Image.open("apple.png").size == (64, 64)

"""Stages of the pages about making, training and drawing, in small."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from data.videos import write_video
from docs_kit import (
    ALONE,
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
from PIL import Image
from runs.test_loading import save
from tiny_models import PLAIN_INNER, FakeEncoder, outer

import keras_mdm as mdm
from keras_mdm.costs.unallocated import unallocated


@stage("README.md")
def readme(page):
    pytest.importorskip("resvg_py")
    pytest.importorskip("emoji")
    stand_in_minilm(page)
    write_drawings(["twemoji"])
    few = {"steps_per_epoch=600": "steps_per_epoch=1", "steps=10": "steps=1"}
    page.run(few | {"batch_size=32": "batch_size=2"})
    assert page["images"]["32"].shape == (2, 32, 32, 3)
    write_export(page, [dataclasses.replace(SMALL, size=64, patch=4)])
    drawn = page.run()
    assert drawn.shape == (1, 64, 64, 3) and drawn.dtype == "uint8"


@stage("docs/getting-started.md")
def getting_started(page):
    model = text_model(text_encoder=t5(page))
    model.compile("sgd")
    write_run("runs/demo", model)
    page.run()
    assert {name: (i.shape, str(i.dtype)) for name, i in page["images"].items()} == {
        "16": ((2, 16, 16, 3), "uint8"),
        "64": ((2, 64, 64, 3), "uint8"),
    }


@stage("docs/choosing-a-sampler.md", slow=True)
def choosing_a_sampler(page):
    model = text_model(power_emas=(0.05,))
    prompts = ["red apple", "panda", "sun"]
    page.run({"steps=25": "steps=2"}, model=model)
    assert page["images"]["64"].shape == (1, 64, 64, 3)
    page.run({"steps=10, outer_steps=3": "steps=2, outer_steps=1"}, prompts=prompts)
    page.run()
    Image.fromarray(pictures(size=80)).save("apple.png")
    mask = np.zeros((64, 64), "uint8")
    mask[:, :32] = 1
    page.run({"num_images=8": "num_images=2", "* 8": "* 2"}, mask=mask, small=pictures(1, 16))
    shown = []
    page.run(show=shown.append)
    assert page["way"]["64"].shape[1:] == (3, 64, 64, 3) and len(shown) == 1
    page.run()
    assert page["preview"].unet.levels == ("16",)
    batch = {"image": pictures(2, 64), "low_res": pictures(2, 16)}
    batches = tf.data.Dataset.from_tensors(batch)
    small = {"[256]": "[level]", "seed=0": "seed=0, steps=2"}
    assert page.run(small, level=ALONE, batches=batches)["64"].shape == (1, 64, 64, 3)
    levels = [dataclasses.replace(PLAIN_INNER, channels=(64,)), outer(16)]
    small = {"[8, 16]": "levels", "num_images=4": "num_images=1, steps=2"}
    batches = batches.repeat()
    small |= {"mdm.data.image_dataset(...)": "batches"}
    page.run(small, levels=levels, batches=batches, draw=None, titles=["a"])
    assert next(iter(page["batches"]))["image"].shape == (2, 16, 16, 48)
    assert page["images"].shape == (1, 64, 64, 3)


@stage("docs/sizes.md")
def sizes(page):
    with unallocated():
        assert page.run(encoder=FakeEncoder()) == ("h48w80", "h192w320")
    assert page.run(model=text_model()).shape == (1, 48, 80, 3)
    write_pictures("photographs", [(70, 70), (60, 100), (100, 60), (50, 90)])
    few = {"batch_size=64": "batch_size=2", "steps_per_epoch=1000": "steps_per_epoch=2"}
    few["num_images=4"] = "num_images=1, steps=2"
    unet = model_of([SMALL, LARGE]).unet
    drawn = page.run(few, unet=unet, source=mdm.data.open_images("photographs"))
    assert drawn["h48w80"].shape == (1, 48, 80, 3)


@stage("docs/training.md", slow=True)
def training(page):
    text, mask = FakeEncoder().encode([f"picture {number}" for number in range(8)])

    def batches(level, rows, first_step):
        given = {"batch_size": rows, "seed": 0, "first_step": first_step}
        return mdm.data.image_text_dataset(pictures(8, int(level)), text, mask, **given)

    inner = {"[64], steps=500_000, batch_size=2048": "levels[:1], steps=2, batch_size=8"}
    small = {"[64, 256], steps=500_000, batch_size=1024": "levels, steps=2, batch_size=12"}
    small |= inner | {"30_000": "1"}
    page.run(small, levels=[SMALL, LARGE], encoder=FakeEncoder(), pictures=batches)
    assert Path("runs/x/model.keras").is_file()

    three = model_of(network={"num_classes": 3, "time_width": None})
    pairs = tf.data.Dataset.from_tensors((pictures(4), np.array([0, 1, 2, 0])))
    few = {'model.fit(pictures, ["a red apple", ...]': "captioned.fit(pictures, texts"}
    given = {"pictures": pictures(20), "classes": np.arange(20) % 3, "texts": ["a red apple"] * 20}
    captioned = text_model()
    captioned.compile("adam")
    given |= {"captioned": captioned, "dataset_of_pairs": pairs, "other": pairs}
    assert page.run(few | {"epochs=10": "epochs=1"}, model=three, **given).name == "1"
    assert page.run().groups == {"64": 64, "256": 192}

    shutil.rmtree("runs")
    model = model_of(power_emas=(0.05, 0.1))
    model.compile("adam")
    Path("runs/x").mkdir(parents=True)
    for step in range(1, 4):
        model.train_on_batch({"image": pictures(2)})
        save(Path("runs/x"), 2, step, model)
    page.run(model=model)
    assert page["distance"] < 1.0

    shutil.rmtree("runs")
    inside = model_of([SMALL], network={"num_classes": 3})
    inside.compile("adam")
    write_run("runs/x", inside)
    larger = model_of(network={"num_classes": 3})
    page.run(larger=larger)
    page.run(three=three)
    assert page["five"].unet.spec.num_classes == 5

    shutil.rmtree("runs")
    page.names["pictures"] = batches
    made = page["make_model"], page["make_dataset"]
    mdm.fit_progressively(page["phases"][:1], *made, run_dir="runs/x", progress=False)
    more = {"[64], steps=600_000, batch_size=2048": "levels[:1], steps=3, batch_size=8"}
    page.run(more | {"30_000": "1"})
    assert mdm.load("runs/x").unet.levels == ("16", "64")

    page.run(PROMPTS=["a", "b"])
    draw, run = page["Draw"](), SimpleNamespace(samples="samples")
    draw.check(None, text_model())
    (grid,) = draw(SimpleNamespace(model=text_model(), run=run))
    assert grid.every == 1000


@stage("docs/video.md", slow=True)
def video(page):
    pytest.importorskip("av")
    Path("clips").mkdir()
    for number in range(3):
        Path(f"clips/{number}.txt").write_text(f"clip {number}")
        write_video(Path(f"clips/{number}.mp4"), 64)
    captions = ["", *(f"clip {number}" for number in range(3))]
    mdm.text.embed(FakeEncoder(), captions, "embeddings", progress=False)
    page.run()
    batch = next(iter(page["batches"]))
    assert batch["video"].shape == (8, 16, 64, 64, 3) and "text" in batch
    still = {"attention": (0,) * 4, "temporal_attention": (0,) * 4, "groups": 4}
    clips = mdm.LevelSpec(16, 8, channels=(8, 8, 8, 16), blocks=(1,) * 4, **still)
    model = text_model([SMALL, clips, outer(32, 8)])
    given = {"model": model, "picture": pictures(size=32), "prompts": ["a pizza turning"]}
    page.run(every_second=pictures(4, 32)[None], **given)
    assert page["clips"].shape == (1, 8, 32, 32, 3) and Path("pizza.mp4").is_file()

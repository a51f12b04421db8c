"""What pages of the documentation take for granted, in small: models, pictures, drawings, runs."""

import dataclasses
import inspect
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
from data.conftest import svg, write_emoji_asset
from PIL import Image
from runs.test_loading import save, write_run_file
from text.test_flan_t5 import write as write_t5
from tiny_models import INNER, PLAIN_INNER, FakeEncoder, tiny_unet

import keras_mdm as mdm
from keras_mdm.data.emoji.catalogue import STYLES, names_and_groups
from keras_mdm.data.emoji.file_names import in_words

STAGES, SLOW = {}, set()


def stage(name, *, slow=False):
    """Decorate the function (page) of a page: it calls `page.run` once for every block."""

    def added(function):
        STAGES[name] = function
        SLOW.update([name] if slow else [])
        return function

    return added


# The levels that the pages call 16 and 64, and one of 64 alone.
SMALL = dataclasses.replace(INNER, size=16)
LARGE = mdm.LevelSpec(64, patch=4, channels=(8,), blocks=(1,), groups=4)
ALONE = dataclasses.replace(PLAIN_INNER, size=64, patch=4)
# Animals, two apples and shapes, of which a few are held out for validation.
CONCEPTS = ["1f34e", "1f34f", *(f"1f4{number:02x}" for number in range(0x00, 0x3E))]


def model_of(levels=(SMALL, LARGE), *, network=None, **options):
    """A model of tiny levels that draws in one step, any of them without those above."""
    unet = tiny_unet(levels, **(network or {}))
    unet.trained_alone = unet.levels
    return mdm.MatryoshkaDiffusion(unet, **{"sampling": {"steps": 1}, **options})


def text_model(levels=(SMALL, LARGE), **options):
    encoder = options.pop("text_encoder", None) or FakeEncoder()
    network = {"text_width": encoder.width}
    return model_of(levels, network=network, text_encoder=encoder, **options)


def pictures(count=None, size=64, channels=3):
    """Random uint8 pictures; one without an axis of pictures unless there is a count."""
    shape = (size, size, channels)
    shape = shape if count is None else (count, *shape)
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def write_pictures(folder, sizes):
    """Write PNG files of (height, width) whose names are captions."""
    Path(folder).mkdir()
    for number, size in enumerate(sizes):
        array = np.random.default_rng(number).integers(0, 256, (*size, 3)).astype("uint8")
        Image.fromarray(array).save(Path(folder) / f"picture_{number}.png")


def write_run(path, model, *, phase=1, steps=(3,)):
    """Write checkpoints of a phase, as a run in training has them; the model is compiled."""
    path = Path(path)
    path.parent.mkdir(exist_ok=True)
    write_run_file(path, *steps)
    for step in steps:
        save(path, phase, step, model)


def t5(page, folder="flan-t5-xl"):
    """An encoder with the files of FLAN-T5, in the working directory."""
    write_t5(Path(folder), page.vocabulary)
    return mdm.text.FlanT5(folder)


def write_drawings(styles=tuple(STYLES)):
    """Put drawings into the cache as if they had been fetched."""
    names, _ = names_and_groups()
    for style in styles:
        words = style == "fluent"
        keys = [key for key in CONCEPTS if key in names]
        stems = [in_words(names[key]) if words else key for key in keys]
        colours = [f"#{number * 0x30508 & 0xFFFFFF:06x}" for number in range(len(keys))]
        files = {f"{stem}.svg": svg(colour) for stem, colour in zip(stems, colours, strict=True)}
        write_emoji_asset(Path(os.environ["KERAS_MDM_CACHE"]), files, name=STYLES[style])


def stand_in_minilm(page):
    """Let `mdm.text.MiniLM` make a small encoder, of the arguments that the real one takes."""
    signature = inspect.signature(mdm.text.MiniLM)

    def made(*args, **options):
        signature.bind(*args, **options)
        return FakeEncoder()

    page.patch.setattr(mdm.text, "MiniLM", made)


def write_export(page, levels):
    """Write `exported/1`, of a model that takes strings."""
    eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    mdm.export_saved_model(text_model(levels, text_encoder=t5(page)), "exported")
    tf.config.run_functions_eagerly(eager)

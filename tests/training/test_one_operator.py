"""The process owns D^r: batches, files, pictures to change and masks see its operator."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny_models import PLAIN_INNER, as_dataset, make_batch, outer, tiny_unet

from keras_mdm import LevelSpec, MatryoshkaDiffusion, Phase, fit_progressively
from keras_mdm.data import mixed_dataset
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.diffusion.pyramid import DOWNSAMPLING
from keras_mdm.optimizers import Adam
from keras_mdm.sampling import starting

pytestmark = pytest.mark.usefixtures("eagerly")

WIDE = LevelSpec(32, channels=(8, 8, 16), blocks=(1, 1, 1), attention=(0, 0, 0), groups=4)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 32, 32, 3)).astype("uint8")


def make_model(levels=(PLAIN_INNER, WIDE), **options):
    return MatryoshkaDiffusion(tiny_unet(list(levels)), **options)


def grey(x):
    return (np.asarray(x) + 1.0) * 127.5


@pytest.mark.parametrize("kind", DOWNSAMPLING)
def test_it_is_read_and_set_as_the_models(kind, tmp_path):
    model = make_model(downsample="bilinear", frame="middle")
    assert model.downsample == model.process.downsample == "bilinear"
    model.downsample = kind
    assert (model.process.downsample, model.process.frame) == (kind, "middle")
    assert model.process.up_to("8").downsample == model.cut("8").downsample == kind
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").downsample == kind
    np.testing.assert_allclose(
        grey(model.prepare({"image": IMAGES})[0]["8"]), reduce_pixels(IMAGES, 8, kind), atol=0.501
    )


@pytest.mark.parametrize("kind", ["nearest", None, 1])
def test_other_operators_are_refused(kind):
    model = make_model()
    with pytest.raises(ValueError, match="`downsample` must be one of 'area', 'bilinear'"):
        model.downsample = kind
    assert model.downsample == "area"
    with pytest.raises(ValueError, match="`frame` must be one of"):
        dataclasses.replace(model.process, frame="last")


@pytest.mark.parametrize("kind", DOWNSAMPLING)
def test_pictures_to_change_and_to_hold_are_reduced_by_it(kind):
    model = make_model([PLAIN_INNER, outer(16), outer(32)], downsample=kind)
    options = {"num_images": 2, "steps": 1, "progress": False}
    kept = model.generate(init_image=IMAGES, strength=0.0, **options)
    preview = model.generate(init_image=IMAGES, strength=0.0, stop_at="16", **options)
    held = model.generate(hold={"16": IMAGES}, **options)
    for size in (8, 16):
        expected = reduce_pixels(IMAGES, size, kind).astype(int)
        for found in (kept, preview, held):
            assert np.abs(found[str(size)] - expected).max() <= 1


def test_masks_follow_the_pixels_that_count():
    mask = np.zeros((32, 32), bool)
    mask[4, 4] = mask[9, 10] = True  # a corner of its block; one of the four in the middle
    corner, middle = [1, 1], [2, 2]
    for kind, drawn in (("area", [corner, middle]), ("bilinear", [middle])):
        levels = starting.mask_levels(mask, make_model(downsample=kind).process, 1)
        assert np.argwhere(np.asarray(levels["8"])[0, ..., 0]).tolist() == drawn
        assert np.asarray(levels["32"]).sum() == 2


def train(run_dir, kind, steps=1):
    models = []

    def make(phase):
        model = make_model(phase.levels, downsample="bilinear")
        model.compile(optimizer=Adam(phase.learning_rate_schedule()))
        models.append(model)
        return model

    def dataset(phase, first_step):
        batches = [make_batch(np.random.default_rng(0), 2, size=32, text=False)] * steps
        return mixed_dataset({"32": as_dataset(batches)})

    phase = Phase([PLAIN_INNER, WIDE], steps, batch_size=2, mixed=False, downsample=kind)
    fit_progressively([phase], make, dataset, run_dir=run_dir, progress=False)
    return models[-1].downsample


@pytest.mark.parametrize(
    ("kind", "trained"), [(None, "bilinear"), pytest.param("area", "area", marks=pytest.mark.slow)]
)
def test_a_phase_leaves_it_to_the_model_unless_it_says_otherwise(kind, trained, tmp_path):
    assert train(tmp_path / "run", kind) == trained

"""Exported models in a server: no network of ours, the same pictures."""

import dataclasses

import numpy as np
import pytest
from tiny_models import PLAIN_INNER, outer, tiny_unet

from keras_mdm.cascade import Cascade
from keras_mdm.export import described, export_saved_model
from keras_mdm.serving.exports import ExportPainter, find_export
from keras_mdm.serving.limits import Limits
from keras_mdm.serving.wishes import Wish
from keras_mdm.training import MatryoshkaDiffusion


@pytest.fixture(scope="module")
def model():
    options = {"class_names": ["cat", "dog", "cow"], "sampling": {"steps": 2}}
    return MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], num_classes=3), **options)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported") / "classes"
    assert export_saved_model(model, directory).parent == directory
    return directory


def test_the_newest_version_is_found(directory, tmp_path):
    assert find_export(directory) == find_export(directory / "1") == directory / "1"
    for number in ("2", "10", "x"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "saved_model.pb").touch()
    (tmp_path / "11").mkdir()  # nothing is in it
    assert find_export(tmp_path) == tmp_path / "10"
    assert find_export(tmp_path / "11") is find_export(tmp_path / "none") is None


def test_it_draws_what_the_model_draws(model, directory):
    painter = ExportPainter(directory / "1", limits=Limits())
    facts = painter.described()
    assert facts["fields"] == ["label", "steps", "guidance_scale", "seed"]
    assert facts["class_names"] == ["cat", "dog", "cow"]
    assert facts["defaults"] == {"steps": 2, "guidance_scale": 4.0}
    wishes = [Wish(label="dog", seed=1), Wish(seed=2, guidance_scale=1.5), Wish(label=2, seed=3)]
    orders = [painter.order(wish) for wish in wishes]
    assert len({painter.key(order) for order in orders}) == 1  # guidance is by row
    assert painter.key(painter.order(Wish(steps=3))) != painter.key(orders[0])
    found = painter.paint(orders, lambda *step: None)
    for label, seed, scale, (pictures, _) in zip(
        (1, -1, 2), (1, 2, 3), (4.0, 1.5, 4.0), found, strict=True
    ):
        given = {"seed": [seed], "guidance_scale": scale, "progress": False}
        expected = model.generate(labels=[label], **given)["8"][0].astype(int)
        assert np.abs(pictures["8"] - expected).max() <= 1


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(steps=0), "`steps` must be an integer of at least 1"),
        (Wish(steps=10**9), "`steps` must be at most 100 on this server"),
        (Wish(label=3), "`label` must be from -1 to 2"),
        (Wish(label="horse"), "`label` must be one of 'cat', 'dog', 'cow'"),
        (Wish(guidance_scale={"8": 1.0}), "must be one number"),
        (Wish(level="16"), "`level` must be one of '8'"),
    ],
)
def test_mistakes_are_found_before_anything_waits(directory, wish, words):
    with pytest.raises(ValueError, match=words):
        ExportPainter(directory / "1", limits=Limits()).order(wish)


def test_an_export_that_does_not_say_what_it_is_is_refused(directory, tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ValueError, match="export the model again"):
        ExportPainter(tmp_path, limits=Limits())
    assert described.read(directory / "1")["most_steps"] == 1000


def test_a_cascade_whose_upsampler_is_told_the_noise(tmp_path):
    told = dataclasses.replace(PLAIN_INNER, size=16, micro_conditions={"low_res_noise": 0.0})
    low, high = (
        MatryoshkaDiffusion(unet, sampling={"steps": 2, "guidance_scale": 2.0})
        for unet in (
            tiny_unet([PLAIN_INNER], num_classes=3),
            tiny_unet([told], num_classes=3, in_channels=6, out_channels=3),
        )
    )
    model = Cascade(low, high)
    painter = ExportPainter(export_saved_model(model, tmp_path / "cascade"), limits=Limits())
    orders = [*painter.rehearsal("plain"), painter.order(Wish(label=1, seed=5))]
    _, (pictures, _) = painter.paint(orders, lambda *step: None)
    expected = model.generate(labels=[1], seed=[5], progress=False)
    for level, picture in pictures.items():
        assert np.abs(picture.astype(int) - expected[level][0]).max() <= 1


def test_an_export_with_outer_steps_says_how_few_steps_it_takes(tmp_path):
    unet = tiny_unet([PLAIN_INNER, outer(16)])
    model = MatryoshkaDiffusion(unet, sampling={"steps": 4, "outer_steps": 3})
    painter = ExportPainter(export_saved_model(model, tmp_path / "sparse"), limits=Limits())
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 3"):
        painter.order(Wish(steps=2))
    painter.paint([painter.order(Wish(steps=3))], lambda *step: None)

"""A cascade draws what its two models draw one after the other, and passes for one model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_models import (
    CLIP,
    INNER,
    PLAIN_INNER,
    TEXT_WIDTH,
    THREE_PARTS,
    FakeEncoder,
    MeanColour,
    outer,
    tiny_unet,
)

import keras_mdm
from keras_mdm import Cascade, LevelSpec, MatryoshkaDiffusion, evaluation, export_saved_model
from keras_mdm.cli import asked
from keras_mdm.cli import main as cli
from keras_mdm.evaluation.samples import weights_digest
from keras_mdm.sampling.stepping import start_noise
from keras_mdm.stages import levels_of, seed_of_stage

pytestmark = pytest.mark.usefixtures("eagerly")


def single(size, **options):
    """A level that can be a network of its own."""
    plain = {"channels": (8,), "blocks": (1,), "attention": (0,), "groups": 4}
    return LevelSpec(size, use_mid_block=False, **plain, **options)


PLAIN_OUTER = single(16, micro_conditions={"low_res_noise": 0.0})
OPTIONS = {"steps": 2, "low_res_noise": 500, "progress": False}


def low_model(levels=(PLAIN_INNER,), *, encoder=None, **options):
    return MatryoshkaDiffusion(tiny_unet(list(levels), **options), text_encoder=encoder)


def high_model(levels=(PLAIN_OUTER,), *, encoder=None, **options):
    options = {"in_channels": 6, **options}
    return MatryoshkaDiffusion(tiny_unet(list(levels), **options), text_encoder=encoder)


def cascade(**options):
    options = {"num_classes": 3, **options}
    return Cascade(low_model(**options), high_model(**options))


def assert_same(found, expected, tolerance=0):
    assert list(found) == list(expected)
    for level, value in expected.items():
        assert np.abs(np.asarray(found[level]).astype(int) - value).max() <= tolerance, level


def test_it_draws_what_its_models_draw_one_after_the_other():
    model, given = cascade(), {"labels": [0, 1, 2], "progress": False}
    found = model.generate(
        **given,
        low_res_noise=700,
        sampler="dpmpp_2m",
        guidance_scale={"8": 3.0, "16": 1.5},
        low={"steps": 3},
        high={"steps": 2, "sampler": "ddpm"},
        seed=4,
    )
    small = model.low.generate(
        **given, steps=3, sampler="dpmpp_2m", guidance_scale=3.0, seed=seed_of_stage(4, 0)
    )
    large = model.high.generate(
        **given,
        low_res=small["8"],
        low_res_noise=700,
        steps=2,
        sampler="ddpm",
        guidance_scale=1.5,
        seed=seed_of_stage(4, 1),
    )
    assert seed_of_stage(4, 0) == 4
    assert_same(found, small | large)
    other = model.generate(**given, steps=2, low_res_noise=1)
    assert np.any(model.generate(**given, steps=2, low_res_noise=900)["16"] != other["16"])


def test_a_picture_does_not_depend_on_the_others():
    model = cascade()
    whole = model.generate(labels=[0, 1, 2], seed=[5, 6, 7], **OPTIONS)
    one = model.generate(labels=[1], seed=[6], **OPTIONS)
    assert_same(one, {level: value[1:2] for level, value in whole.items()}, 1)
    batches = model.generate(labels=[0, 1, 2], seed=[5, 6, 7], batch_size=2, **OPTIONS)
    assert_same(batches, whole, 1)


def test_texts_are_encoded_once_for_both_and_copies_are_adjacent():
    encoder = FakeEncoder()
    low = low_model([INNER], text_width=TEXT_WIDTH, encoder=encoder)
    high = high_model(text_width=TEXT_WIDTH, encoder=encoder)
    encoder.calls.clear()
    model = Cascade(low, high)
    given = {**OPTIONS, "guidance_scale": 2.0}
    found = model.generate(["a", "b c"], num_images_per_prompt=2, **given)
    assert encoder.calls == [["a", "b c"]]
    expected = model.generate(["a", "a", "b c", "b c"], **given)
    assert_same(found, expected)
    negative = {"negative_prompts": ["x", "y"]}
    found = model.generate(["a", "b c"], num_images_per_prompt=2, **given, **negative)
    negative = {"negative_prompts": ["x", "x", "y", "y"]}
    assert_same(found, model.generate(["a", "a", "b c", "b c"], **given, **negative))
    model.text_encoder = other = FakeEncoder()
    assert model.low.text_encoder is other and model.high.text_encoder is other
    assert model.text_encoder_identity == encoder.identity


def test_a_nested_upsampler_keeps_its_inner_levels_to_itself():
    low = low_model()
    high = high_model([PLAIN_INNER, outer(16)])
    model = Cascade(low, high)
    assert model.levels == levels_of(model) == ("8", "16")
    found = model.generate(num_images=2, steps=1, progress=False)
    assert_same({"8": found["8"]}, low.generate(num_images=2, steps=1, progress=False))
    # Both have a level 8, but not the same noise there.
    first, second = (
        start_noise(
            stage.process,
            3,
            tf.fill([50], tf.constant(seed_of_stage(3, number), tf.int64)),
            tf.range(50, dtype=tf.int64),
        )["8"].numpy()
        for number, stage in enumerate(model.stages)
    )
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_levels_of_clips():
    moving = Cascade(low_model(), high_model([PLAIN_INNER, CLIP]))
    assert moving.levels == ("8", "4x8")
    nested = Cascade(low_model([PLAIN_INNER, outer(16)]), high_model([single(16), outer(32)]))
    assert nested.levels == ("8", "16", "32")


def test_one_file_holds_both(tmp_path, monkeypatch):
    model = cascade()
    model.low.compile("adam")  # its optimizer is not the cascade's
    batch = {"image": np.zeros((2, 8, 8, 3), "uint8"), "label": np.zeros(2, "int32")}
    model.low.train_on_batch(batch)
    path = tmp_path / "cascade.keras"
    model.save(path)
    expected = model.generate(labels=[0, 1], **OPTIONS)
    for load in (keras_mdm.load, keras.saving.load_model):
        again = load(path)
        assert isinstance(again, Cascade) and not again.low.compiled
        assert_same(again.generate(labels=[0, 1], **OPTIONS), expected)
        assert weights_digest(again) == weights_digest(model)
    # A file that could not be written leaves the one before.
    before = path.read_bytes()

    def full(model, file, *args, **kwargs):
        open(file, "wb").write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(OSError, match="disk full"):
        model.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("classes", [3, None], ids=["classes", "unconditional"])
def test_what_is_exported_draws_the_same(tmp_path, classes):
    model = cascade(num_classes=classes)
    assert model.export(tmp_path / "served") == tmp_path / "served" / "1"
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["scalars"]
    given = {"label": tf.constant([2, 0])} if classes else {"num_images": tf.constant(2)}
    given |= {"steps": tf.constant(2), "seed": tf.constant(5, tf.int64)}
    scale = 2.0 if classes else 1.0
    given["guidance_scale"] = tf.constant(scale)
    found = served(low_res_noise=tf.constant(500), **given)
    pictures = {"labels": [2, 0]} if classes else {"num_images": 2}
    expected = model.generate(**pictures, guidance_scale=scale, seed=5, **OPTIONS)
    assert_same({level: found[level] for level in expected}, expected, 1)
    for wrong in ({"low_res_noise": tf.constant(1001)}, {"steps": tf.constant(0)}):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Received"):
            served(**{"low_res_noise": tf.constant(1), **given, **wrong})


def test_it_is_evaluated_as_one_model(tmp_path):
    model = cascade()
    rng = np.random.default_rng(0)
    real = {k: rng.integers(0, 256, (8, int(k), int(k), 3)).astype("uint8") for k in ("8", "16")}
    options = {"steps": 1, "low_res_noise": 300, "high": {"steps": 2}}
    request = evaluation.Request(6, labels=[0, 1, 2] * 2, batch_size=4, options=options)
    given = {"features": MeanColour(), "measures": ("kernel",), "few": True, "progress": False}
    directory = tmp_path / "pictures"
    found = evaluation.evaluate(model, real, request=request, directory=directory, **given)
    assert {row.subject for row in found.rows} == {"8", "16", "8 enlarged to 16"}
    drawn = np.asarray(Image.open(directory / "16" / "00005.png"))
    expected = model.generate(labels=[2], seed=[5], progress=False, **options)["16"][0]
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    # The pictures are those of both models.
    for stage in model.stages:
        other = weights_digest(model)
        weight = stage.unet.trainable_variables[0]
        weight.assign(weight + 1.0)
        assert weights_digest(model) != other
        with pytest.raises(ValueError, match="another model"):
            evaluation.evaluate(model, real, request=request, directory=directory, **given)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(asked, "features_of", lambda name: MeanColour())
    model = cascade()
    file = str(tmp_path / "cascade.keras")
    model.save(file)
    words = ["--steps", "2", "--low-res-noise", "500"]
    out = tmp_path / "samples"
    assert cli.main(["sample", file, "--label", "1", *words, "--out", str(out)]) == 0
    expected = model.generate(labels=[1], **OPTIONS)
    for level, value in expected.items():
        found = np.asarray(Image.open(out / f"000-label-1_{level}.png"))
        assert np.abs(found.astype(int) - value[0]).max() <= 1
    assert cli.main(["sample", file, "--label", "1", "--stop-at", "8"]) == 2
    assert "stop_at" in capsys.readouterr().err
    real = tmp_path / "real"
    real.mkdir()
    for number in range(4):
        pixels = np.full((16, 16, 3), 60 * number, "uint8")
        Image.fromarray(pixels).save(real / f"{number}.png")
    command = ["evaluate", file, "--reference", str(real), "-n", "4", "--few", *words]
    command += ["--metrics", "kernel", "--out", str(tmp_path / "evaluation")]
    assert cli.main([*command, "--guidance", "8=2", "16=1"]) == 0
    assert "level 16" in capsys.readouterr().out
    assert len(list((tmp_path / "evaluation" / "pictures" / "16").iterdir())) == 4
    assert cli.main(["cut", file, "8", str(tmp_path / "8.keras")]) == 2
    assert "cascade.low" in capsys.readouterr().err


PARTS = {
    "no upsampler": lambda: (low_model(), low_model([single(16)])),
    "the other way round": lambda: (high_model(), low_model()),
    "low sees a picture": lambda: (high_model([PLAIN_INNER]), high_model()),
    "not smaller": lambda: (low_model([single(16)]), high_model()),
    "larger": lambda: (low_model([single(32)]), high_model()),
    "aspect": lambda: (low_model([single((8, 4))]), high_model()),
    "fewer frames": lambda: (low_model([PLAIN_INNER, CLIP]), high_model()),
    "channels seen": lambda: (low_model(in_channels=1, out_channels=1), high_model()),
    "channels drawn": lambda: (low_model(), high_model(in_channels=4, out_channels=1)),
    "codes": lambda: (
        low_model(in_channels=8, out_channels=8),
        high_model(in_channels=16, out_channels=8),
    ),
    "classes": lambda: (low_model(num_classes=3), high_model(num_classes=4)),
    "a condition": lambda: (low_model(num_classes=3), high_model()),
    "encoder": lambda: (
        low_model([INNER], text_width=TEXT_WIDTH, encoder=FakeEncoder()),
        high_model(text_width=TEXT_WIDTH, encoder=FakeEncoder("other")),
    ),
    "a network": lambda: (tiny_unet([PLAIN_INNER]), high_model()),
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_that_do_not_fit_are_refused(parts):
    low, high = parts()
    with pytest.raises(ValueError, match=THREE_PARTS):
        Cascade(low, high)


@pytest.mark.parametrize(
    "options",
    [
        {"high": {"steps": 1001}},
        {"high": {"sampler": "none"}},
        {"high": {"low_res": np.zeros((2, 8, 8, 3), "uint8")}},
        {"low": {"seed": 3}},
        {"low": {"stop_at": "8"}},
        {"init_image": np.zeros((8, 8, 3), "uint8")},
        {"stepz": 2},
        {"low_res_noise": 0},
        {"guidance_scale": {"32": 2.0}},
        {"seed": [1]},
        {"seed": -1},
        {"num_images_per_prompt": 0},
        {"labels": [0, 3]},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_is_wrong_is_said_before_anything_is_drawn(monkeypatch, options):
    model = cascade()
    monkeypatch.setattr("keras_mdm.sampling.generate._draw", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ValueError, match=THREE_PARTS):
        model.generate(**{"labels": [0, 1], **OPTIONS, **options})


def test_a_dry_run_draws_nothing_and_training_is_refused():
    model = cascade()
    assert model.generate(labels=[0], dry_run=True, **OPTIONS) == {}
    with pytest.raises(ValueError, match="one by one" + THREE_PARTS):
        model.compile("adam")
    plain = Cascade(low_model(), high_model([single(16)]))  # without noise augmentation
    with pytest.raises(ValueError, match="low_res_noise"):
        plain.generate(num_images=1, **OPTIONS)


def test_export_by_name(tmp_path):
    with pytest.raises(ValueError, match="must be empty"):
        (tmp_path / "file").write_text("x")
        export_saved_model(cascade(), tmp_path)


def test_an_export_refuses_defaults_that_it_has_only_once(tmp_path):
    model = cascade()
    for name, values in {"steps": (2, 3), "guidance_scale": (6.0, 1.0)}.items():
        for stage, value in zip(model.stages, values, strict=True):
            stage.sampling = {name: value}
        with pytest.raises(ValueError, match=f"'{name}' to be exported" + THREE_PARTS):
            export_saved_model(model, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()

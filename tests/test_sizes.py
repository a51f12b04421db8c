"""Models of pictures that are not square, and trained models at other sizes."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import INNER, TEXT_WIDTH, THREE_PARTS, FakeEncoder, outer, tiny_unet

import keras_mdm as mdm
from keras_mdm import LevelSpec, MatryoshkaDiffusion, export_saved_model
from keras_mdm.models import with_size

pytestmark = pytest.mark.usefixtures("eagerly")

PROMPTS = ["a red ball", "two cats"]
QUICK = {"steps": 3, "guidance_scale": 2.0, "seed": 5}
WIDE_INNER = LevelSpec(
    (8, 12),
    **{k: getattr(INNER, k) for k in ("channels", "blocks")}
    | {"attention": (1,), "heads": 1, "groups": 8, "attention_ffn": False, "use_mid_block": False},
)


def model_of(levels=(INNER, outer(16)), **options):
    network = {"text_width": TEXT_WIDTH, **options.pop("network", {})}
    encoder = FakeEncoder() if network["text_width"] else None
    return MatryoshkaDiffusion(tiny_unet(levels, **network), text_encoder=encoder, **options)


@pytest.fixture(scope="module")
def model():
    """A model of squares whose averages differ from its weights."""
    model = model_of()
    for average in model.ema.averages:
        average.assign(average.value * 0.9)
    return model


@pytest.fixture(scope="module")
def wide():
    return model_of([WIDE_INNER, outer((16, 24))])


# Pictures that are not square


@pytest.mark.usefixtures("traced")
@pytest.mark.slow
def test_a_wide_model_trains_saves_and_loads(tmp_path):
    model = model_of([WIDE_INNER, outer((16, 24))], network={"text_width": None, "num_classes": 3})
    model.compile(optimizer=mdm.optimizers.Adam(1e-3))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 16, 24, 3)).astype("uint8"),
        "label": rng.integers(0, 3, 4),
    }
    data = tf.data.Dataset.from_tensors(batch).repeat(2)
    history = model.fit(data, verbose=0).history
    assert {"loss_h8w12", "loss_h16w24"} < set(history)
    model.evaluate(data, verbose=0)
    drawn = model.generate(labels=[0, 1], **QUICK)
    assert drawn["h8w12"].shape == (2, 8, 12, 3) and drawn["h16w24"].shape == (2, 16, 24, 3)
    model.save(tmp_path / "wide.keras")
    loaded = mdm.load(tmp_path / "wide.keras")
    assert loaded.unet.spec == model.unet.spec
    again = loaded.generate(labels=[0, 1], **QUICK)
    np.testing.assert_array_equal(again["h16w24"], drawn["h16w24"])
    with pytest.raises(ValueError, match=r"resize the data to the level h16w24"):
        model.fit(
            tf.data.Dataset.from_tensors({**batch, "image": np.zeros((4, 24, 16, 3), "uint8")})
        )


def test_pictures_to_start_from_masks_and_levels_that_are_held(wide):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype("uint8")
    mask = np.zeros((16, 24), bool)
    mask[:, 12:] = True
    drawn = wide.generate(PROMPTS, init_image=picture, mask=mask, **QUICK)["h16w24"]
    small = tf.image.resize(picture[None] / 127.5 - 1.0, (16, 24), "bicubic", antialias=True)
    left = np.round((np.clip(small[0, :, :12], -1, 1) + 1) * 127.5)
    assert np.abs(drawn[0, :, :12] - left).max() <= 1
    held = np.random.default_rng(1).integers(0, 256, (8, 12, 3)).astype("uint8")
    found = wide.generate(PROMPTS, hold={"h8w12": held}, **QUICK)
    assert np.abs(found["h8w12"][1].astype(int) - held).max() <= 1
    for wrong in ({"init_image": picture[:, :32]}, {"init_image": picture, "mask": mask.T}):
        with pytest.raises(ValueError, match=THREE_PARTS):
            wide.generate(PROMPTS, **wrong, **QUICK)
    with pytest.raises(ValueError, match=r"aspect of the model, 16:24"):
        wide.generate(PROMPTS, init_image=picture[:, :32], **QUICK)


def test_an_upsampler_of_wide_pictures_and_its_export(tmp_path):
    model = model_of([WIDE_INNER, outer((16, 24))], network={"text_width": None, "in_channels": 6})
    low = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3)).astype("uint8")
    drawn = model.generate(low_res=low, steps=3, seed=5, guidance_scale=1.0)
    assert drawn["h16w24"].shape == (2, 16, 24, 3)
    with pytest.raises(ValueError, match=r"h:w = 16:24"):
        model.generate(low_res=low[:, :, :4], steps=3)
    served = tf.saved_model.load(str(export_saved_model(model, tmp_path / "export")))
    serve = served.signatures["scalars"]
    rest = {
        "steps": tf.constant(3),
        "guidance_scale": tf.constant(1.0),
        "seed": tf.constant(5, tf.int64),
    }
    found = serve(low_res=tf.constant(low), **rest)
    assert np.abs(found["h16w24"].numpy().astype(int) - drawn["h16w24"]).max() <= 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="height and width as 16:24"):
        serve(low_res=tf.constant(low[:, :, :4]), **rest)


def test_grids_keep_the_aspect():
    pictures = {
        "h8w12": np.zeros((2, 8, 12, 3), "uint8"),
        "h16w24": np.zeros((2, 16, 24, 3), "uint8"),
    }
    from keras_mdm.pictures.grids import captioned_grid, contact_sheet

    grid = captioned_grid(pictures, PROMPTS, size=32, gap=0, font_size=10)
    assert grid.shape[1] == 2 * 48 and np.all(grid[:64] == 0)
    assert contact_sheet(np.zeros((1, 3, 8, 12, 3), "uint8"), ["a"], gap=0).shape == (
        8,
        9 * 14 + 36,
        3,
    )


# A trained model at another size


def test_at_its_own_size_a_model_draws_the_same_to_the_bit(model):
    expected = model.generate(PROMPTS, **QUICK)
    same = model.with_size((24, 40)).with_size(16)
    assert same.unet.spec == model.unet.spec
    for level, pictures in same.generate(PROMPTS, **QUICK).items():
        np.testing.assert_array_equal(pictures, expected[level])


def test_a_model_of_squares_draws_wide_pictures(model):
    wide = model.with_size((24, 40))
    assert wide.unet.levels == ("h12w20", "h24w40")
    drawn = wide.generate(PROMPTS, **QUICK)
    assert {k: v.shape for k, v in drawn.items()} == {
        "h12w20": (2, 12, 20, 3),
        "h24w40": (2, 24, 40, 3),
    }
    for mine, other in zip(model.unet.levels, wide.unet.levels, strict=True):
        mine, other = model.process.schedules[mine], wide.process.schedules[other]
        assert mine.get_config() == other.get_config()
    weights = {v.path: v for v in model.unet.weights}
    averages = dict(zip((v.path for v in model.ema.variables), model.ema.averages, strict=True))
    for variable, average in zip(wide.ema.variables, wide.ema.averages, strict=True):
        old = variable.path.replace("h24w40", "16").replace("h12w20", "8")
        np.testing.assert_array_equal(variable, weights[old])
        np.testing.assert_array_equal(average, averages[old])


def test_what_belongs_to_a_level_goes_with_it():
    model = model_of(
        level_weights={"8": 0.5},
        guidance_shares={"16": 0.25},
        residual={"16": 0.3},
        downsample="bilinear",
    )
    model.unet.trained_alone = ("8",)
    tall = model.with_size((24, 8))
    assert tall.level_weights == {"h12w4": 0.5} and tall.guidance_shares == {"h24w8": 0.25}
    assert float(tall.residual_std["h24w8"]) == pytest.approx(0.3)
    assert tall.unet.trained_alone == ("h12w4",) and tall.process.downsample == "bilinear"
    assert tall.cut("h12w4").unet.spec.levels[0].shape.name == "h12w4"


def test_attention_over_positions_takes_any_number_of_them(model):
    """It has no embedding of positions: shuffled positions give shuffled results."""
    layer = model.unet.parts["level_8"]
    attention = next(
        part for part in layer._flatten_layers() if type(part).__name__ == "SpatialAttention"
    )
    rng = np.random.default_rng(0)
    text = rng.normal(size=(1, 3, TEXT_WIDTH)).astype("float32")
    mask = np.ones((1, 3), "float32")
    for height, width in ((4, 6), (7, 5)):
        x = rng.normal(size=(1, height, width, 32)).astype("float32")
        order = rng.permutation(height * width)
        shuffled = x.reshape(1, -1, 32)[:, order].reshape(x.shape)
        found = np.asarray(attention(x, text=text, text_mask=mask)).reshape(1, -1, 32)[:, order]
        again = np.asarray(attention(shuffled, text=text, text_mask=mask)).reshape(1, -1, 32)
        np.testing.assert_allclose(again, found, atol=2e-5)


def test_clips_at_another_size_and_length():
    clip = LevelSpec(
        8,
        4,
        channels=(16, 16, 16),
        blocks=(1, 1, 1),
        attention=(0, 0, 0),
        groups=4,
        temporal_attention=(0, 0, 0),
    )
    model = model_of([INNER, clip])
    other = model.with_size((8, 12)).with_frames(8)
    assert other.unet.levels == ("2xh8w12", "8xh8w12")
    assert other.generate(PROMPTS, **QUICK)["8xh8w12"].shape == (2, 8, 8, 12, 3)
    turned = model.with_frames(8).with_size((8, 12))
    assert turned.unet.spec == other.unet.spec


@pytest.mark.parametrize("size", [(12, 15), 18.0, (16, 16, 16), 0, "16", (0, 16), 1])
def test_sizes_that_do_not_fit_are_refused(model, size):
    with pytest.raises(ValueError, match=THREE_PARTS):
        model.with_size(size)


def test_the_error_names_the_nearest_size():
    level = LevelSpec(
        16, channels=(16, 16), blocks=(1, 1), attention=(0, 0), groups=4, use_mid_block=False
    )
    unet = tiny_unet([level, outer(32)])
    assert with_size(unet, (36, 20)).levels == ("h18w10", "h36w20")
    with pytest.raises(ValueError, match=r"divisible by 4.+pass \(36, 20\)"):
        with_size(unet, (35, 21))

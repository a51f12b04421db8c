"""What `generate` can be asked for beyond prompts and steps, on networks of random weights."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import (
    CLIP,
    INNER,
    PLAIN_INNER,
    TEXT_WIDTH,
    THREE_PARTS,
    FakeEncoder,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion, cut
from keras_mdm.diffusion import guidance, samplers
from keras_mdm.sampling import starting
from keras_mdm.sampling.generate import _bucket
from sampling import drawing
from sampling.drawing import PROMPTS, assert_equal, largest, scramble_averages

METHODS = [  # euler and euler_ancestral are other names of two
    name if name in ("ddim", "heun") else pytest.param(name, marks=pytest.mark.slow)
    for name in samplers.NAMES
    if not name.startswith("euler")
]


def make_model(levels=(INNER, outer(16)), **options):
    model = MatryoshkaDiffusion(
        tiny_unet(list(levels), text_width=TEXT_WIDTH, num_classes=4),
        text_encoder=FakeEncoder(),
        power_emas=(0.1,),
        cond_dropout={"text": 0.1, "label": 0.1},
        **options,
    )
    scramble_averages(model)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def draw(model, prompts=PROMPTS, **options):
    return drawing.draw(model, prompts, **{"steps": 4, **options})


# Numbers of pictures, seeds, noise


def test_pictures_per_prompt_follow_each_other(model):
    twice = [prompt for prompt in PROMPTS for _ in range(2)]
    assert_equal(draw(model, num_images_per_prompt=2), draw(model, twice))


def test_every_picture_may_have_its_own_seed(model):
    together = draw(model, seed=[7, 1, 9], output="float32", sampler="ddpm")
    for row, (prompt, seed) in enumerate(zip(PROMPTS, (7, 1, 9), strict=True)):
        alone = draw(model, [prompt], seed=seed, output="float32", sampler="ddpm")
        assert largest({k: v[row : row + 1] for k, v in together.items()}, alone) < 1e-5


def test_noise_is_what_the_seed_would_draw(model):
    noise = model.noise_for(1, 3)
    assert_equal(draw(model, noise=noise), draw(model))
    assert largest(draw(model, noise={k: -v for k, v in noise.items()}), draw(model)) > 3
    assert_equal(draw(model, noise=noise, stop_at="8"), draw(model, stop_at="8"))


def test_noise_between_seeds_keeps_its_length(model):
    between = model.noise_between(4, 5, 5)
    for name, value in between.items():
        np.testing.assert_allclose(value[0], model.noise_for(4, 1)[name][0], atol=1e-6)
        np.testing.assert_allclose(value[-1], model.noise_for(5, 1)[name][0], atol=1e-6)
        ends = np.linalg.norm(value[[0, -1]].reshape(2, -1), axis=1)
        inside = np.linalg.norm(value[1:-1].reshape(3, -1), axis=1)
        # The arc runs between the two lengths; halfway on the chord it would be 0.7 of them.
        assert np.all(inside > 0.97 * ends.min()) and np.all(inside < 1.03 * ends.max())


def test_batches_are_filled_up_to_a_few_sizes():
    assert [_bucket(rows) for rows in (1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 32)] == [
        2,
        2,
        3,
        4,
        6,
        6,
        8,
        12,
        16,
        24,
        32,
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_picture_does_not_depend_on_its_batch(model, name):
    options = {"sampler": name, "output": "float32"}
    together = draw(model, **options)
    alone = draw(model, PROMPTS[:1], **options)
    assert largest({k: v[:1] for k, v in together.items()}, alone) < 1e-5
    assert largest(together, draw(model, batch_size=2, **options)) < 1e-5


@pytest.mark.slow
def test_the_same_bits_after_a_reload_and_over_stretches(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.text_encoder = FakeEncoder()
    for name in ("heun", "dpmpp_2m_sde"):
        options = {"sampler": name, "steps": 7}
        once = draw(model, **options)
        assert_equal(once, draw(loaded, **options))
        assert_equal(once, draw(model, callback=lambda *_: None, **options))


def test_one_graph_for_all_numbers():
    model = make_model()
    draw(model)
    draw(model, ["one"], steps=9, seed=8, guidance_scale=7.0)
    draw(model, [*PROMPTS, "a b c d", "e"], seed=[1, 2, 3, 4, 5], guidance_scale=0.5)
    states = np.ones((2, 9, TEXT_WIDTH), "float32")
    draw(model, {"text": states, "text_mask": np.ones((2, 9))})
    assert model._graphs.tracings() == [1, 1]  # the start and the steps
    draw(model, guidance_scale=1.0)  # without the other half: a second graph, once
    draw(model, guidance_scale=1.0, guidance_rescale=0.5)
    assert model._graphs.tracings() == [1, 1, 1]


# Guidance


def test_negative_prompts_take_the_place_of_no_prompt(model):
    assert_equal(draw(model), draw(model, negative_prompts=""))
    one = draw(model, negative_prompts="blue")
    assert_equal(one, draw(model, negative_prompts=["blue"] * 3))
    assert largest(one, draw(model)) > 3
    # Away from the prompt itself there is nothing to add: the conditional sample.
    assert largest(draw(model, negative_prompts=PROMPTS), draw(model, guidance_scale=1.0)) <= 1
    # Repeated with the prompts.
    several = draw(model, negative_prompts=["a", "b", "c"], num_images_per_prompt=2)
    negative = ["a", "a", "b", "b", "c", "c"]
    assert_equal(several, draw(model, np.repeat(PROMPTS, 2).tolist(), negative_prompts=negative))
    labels = {"label": [1, 1, 1]}
    assert largest(draw(model, negative_prompts=labels), draw(model)) > 3


def rows_computed(model, **options):
    """Rows that every level of the network was run on, in all steps together."""
    counted = dict.fromkeys(model.unet.levels, 0)
    bounded = type(model).bounded

    def count(name, rows):
        counted[name] += int(rows)
        return np.int32(0)

    def counting(outputs):
        for name, value in outputs.items():
            seen = tf.numpy_function(
                lambda rows, name=name: count(name, rows), [tf.shape(value)[0]], tf.int32
            )
            with tf.control_dependencies([seen]):
                outputs = {**outputs, name: tf.identity(value)}
        return bounded(model, outputs)

    model.__dict__["bounded"] = counting
    del model._graphs
    try:
        images = draw(model, **options)
    finally:
        del model.__dict__["bounded"]
        del model._graphs
    return counted, images


@pytest.mark.slow
def test_what_is_not_needed_is_not_computed(model):
    assert rows_computed(model)[0] == {"8": 24, "16": 24}  # 4 steps, 3 pictures, 2 halves
    assert rows_computed(model, guidance_scale=1.0)[0] == {"8": 12, "16": 12}
    # Steps begin at 1, 0.75, 0.5 and 0.25: two of them are guided.
    counted, _ = rows_computed(model, guidance_interval=(0.3, 0.8))
    assert counted == {"8": 18, "16": 18}
    assert rows_computed(model, stop_at="8")[0] == {"8": 24, "16": 0}


@pytest.mark.slow
def test_an_interval_guides_the_steps_inside_of_it(model):
    assert_equal(draw(model), draw(model, guidance_interval=(0.0, 1.0)))
    assert_equal(draw(model, guidance_interval=(0.8, 0.9)), draw(model, guidance_scale=1.0))
    # Two steps, the second one guided: by hand from the state after the first.
    options = {"steps": 2, "output": "float32", "threshold": "none"}
    found = draw(model, guidance_interval=(0.0, 0.6), **options)
    _, plain = draw(model, guidance_scale=1.0, return_steps=2, **options)
    _, guided = draw(model, guidance_interval=(0.0, 0.6), return_steps=2, **options)
    for name in plain:
        np.testing.assert_array_equal(plain[name][0], guided[name][0])
    assert largest(found, draw(model, guidance_scale=1.0, **options)) > 0.02


@pytest.mark.slow
def test_multistep_methods_remember_across_the_interval(model):
    # Guidance by the conditional output itself changes nothing, whichever graph computes it.
    away = {"negative_prompts": PROMPTS, "sampler": "dpmpp_2m", "steps": 6}
    inside = draw(model, guidance_interval=(0.3, 0.7), **away)
    assert largest(inside, draw(model, guidance_scale=1.0, sampler="dpmpp_2m", steps=6)) <= 1


def test_rescaling_gives_back_the_deviation():
    rng = np.random.default_rng(0)
    conditional = rng.normal(size=(2, 6, 6, 3)).astype("float32")
    guided = (3.0 * conditional + rng.normal(size=conditional.shape)).astype("float32")
    full = np.array(guidance.rescale(guided, conditional, 1.0))
    np.testing.assert_allclose(full.std((1, 2, 3)), conditional.std((1, 2, 3)), rtol=1e-5)
    half = np.array(guidance.rescale({"6": guided}, {"6": conditional}, 0.25)["6"])
    np.testing.assert_allclose(half, 0.25 * full + 0.75 * guided, rtol=1e-5)
    np.testing.assert_array_equal(guidance.rescale(guided, conditional, 0.0), guided)
    constant = np.ones((1, 4), "float32")
    np.testing.assert_array_equal(guidance.rescale(constant, constant, 1.0), constant)


def test_rescaling_lowers_the_contrast(model):
    options = {"threshold": "none", "output": "float32", "guidance_scale": 8.0}
    plain, rescaled = draw(model, **options), draw(model, guidance_rescale=0.9, **options)
    assert all(rescaled[name].std() < plain[name].std() for name in plain)


def test_halves_one_after_the_other_give_the_same(model):
    assert largest(draw(model), draw(model, split_guidance=True)) <= 1


@pytest.mark.slow
def test_autoguidance(model):
    plain = draw(model, guidance_scale=1.0)
    # A network that is no weaker has nothing to be guided away from.
    assert_equal(draw(model, autoguidance="ema"), plain)
    raw = draw(model, autoguidance="raw")
    assert largest(raw, plain) > 3
    assert_equal(
        draw(model, guidance_scale=0.0, autoguidance="raw"),
        draw(model, weights="raw", guidance_scale=1.0),
    )
    weaker = make_model()
    for average, variable in zip(weaker.ema.averages, weaker.ema.variables, strict=True):
        average.assign(variable.value)
    assert largest(draw(model, autoguidance=weaker), raw) <= 1
    with pytest.raises(ValueError, match=THREE_PARTS):
        draw(model, autoguidance=make_model([INNER]))


def test_autoguidance_needs_no_condition():
    plain = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), power_emas=(0.1,))
    options = {"num_images": 2, "steps": 2, "progress": False}
    for average in plain.ema.averages:
        average.assign(0.5 * np.asarray(average))
    guided = plain.generate(guidance_scale=2.0, autoguidance="raw", **options)
    assert largest(guided, plain.generate(**options)) > 1


@pytest.mark.slow
def test_a_picture_does_not_depend_on_the_device(model, two_replicas):
    """On the second device, and with variables mirrored on both."""
    options = {"sampler": "ddpm", "output": "float32"}
    here = draw(model, **options)
    with tf.device("CPU:1"):
        there = draw(make_model(), **options)
    assert largest(here, there) < 1e-5
    with two_replicas.scope():
        mirrored = make_model()
    assert largest(here, draw(mirrored, **options)) < 1e-5


# Starting from pictures


def pictures(size, rows=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, size, size, 3)).astype("uint8")


def test_strength_says_how_much_of_a_picture_changes(model):
    images = pictures(16)
    kept, way = draw(model, init_image=images, strength=0.0, return_steps=2)
    np.testing.assert_array_equal(way["16"], [images, images])
    np.testing.assert_array_equal(kept["16"], images)
    np.testing.assert_allclose(
        kept["8"], images.reshape(3, 8, 2, 8, 2, 3).mean((2, 4)), rtol=0, atol=0.51
    )
    distances = [
        np.mean(np.abs(draw(model, init_image=images, strength=s, steps=20)["16"] - images * 1.0))
        for s in (0.1, 0.5, 1.0)
    ]
    assert distances[0] < distances[1] < distances[2]
    # One picture for all rows is the same as one for each.
    one = np.repeat(images[:1], 3, axis=0)
    assert_equal(draw(model, init_image=images[0]), draw(model, init_image=one))
    # Nearly all signal is gone at the start: almost the sample of the noise alone.
    assert largest(draw(model, init_image=images, strength=1.0), draw(model)) <= 2


@pytest.mark.parametrize("name", METHODS)
def test_what_the_mask_keeps_is_kept(model, name):
    images, mask = pictures(16), np.zeros((16, 16), bool)
    mask[3:9, 5:12] = True
    found, way = draw(model, init_image=images, mask=mask, sampler=name, return_steps=4)
    np.testing.assert_array_equal(found["16"][:, ~mask], images[:, ~mask])
    assert np.any(found["16"][:, mask] != images[:, mask])
    # A lower pixel is kept where everything above it is.
    low = np.zeros((8, 8), bool)
    low[1:5, 2:6] = True
    pooled = np.round(images.reshape(3, 8, 2, 8, 2, 3).mean((2, 4)))
    np.testing.assert_allclose(found["8"][:, ~low], pooled[:, ~low], rtol=0, atol=1.0)
    np.testing.assert_array_equal(way["16"][1][:, ~mask], images[:, ~mask])


def test_lower_levels_can_be_held(model):
    low = pictures(8)
    found = draw(model, hold={"8": low})
    np.testing.assert_array_equal(found["8"], low)
    other = draw(model, hold={"8": pictures(8, seed=1)})
    assert np.any(found["16"] != other["16"])  # what is held reaches the level above


def test_holding_a_middle_level_holds_those_below():
    model = make_model([INNER, outer(16), outer(32)])
    middle = pictures(16)
    found = draw(model, hold={"16": middle})
    np.testing.assert_array_equal(found["16"], middle)
    pooled = middle.reshape(3, 8, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_allclose(found["8"], pooled, rtol=0, atol=0.51)


@pytest.mark.slow
def test_clips_take_all_of_it():
    clips = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER, CLIP]))
    options = {"num_images": 2, "steps": 3, "progress": False}
    start = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3)).astype("uint8")
    np.testing.assert_array_equal(
        clips.generate(init_image=start, strength=0.0, **options)["4x8"], start
    )
    mask = np.zeros((4, 8, 8), bool)
    mask[2:] = True
    found = clips.generate(init_image=start, mask=mask, **options)
    np.testing.assert_array_equal(found["4x8"][:, :2], start[:, :2])
    np.testing.assert_array_equal(found["8"], start[:, 0])  # its only frame is kept
    held = clips.generate(hold={"8": start[:, 0]}, sampler="unipc", **options)
    np.testing.assert_array_equal(held["8"], start[:, 0])


def test_masks_of_lower_levels_cover_every_pixel_above(model):
    mask = np.zeros((2, 16, 16), "uint8")
    mask[0, 5, 5], mask[1, :, :8] = 255, 1
    levels = starting.mask_levels(mask, model.process, 2)
    assert np.array(levels["8"])[0, ..., 0].nonzero() == (np.array([2]), np.array([2]))
    np.testing.assert_array_equal(
        np.array(levels["8"])[1, ..., 0], np.repeat([[1.0] * 4 + [0] * 4], 8, axis=0)
    )


# Previews and steps


@pytest.mark.slow
def test_a_preview_is_the_smaller_model(model, tmp_path):
    small = model.cut("8")
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    loaded.text_encoder = FakeEncoder()
    preview = draw(model, stop_at="8")
    assert sorted(preview) == ["8"]
    assert_equal(preview, draw(small))
    assert_equal(preview, draw(loaded))
    assert_equal(draw(model, stop_at="8", weights="ema_0.1"), draw(small, weights="ema_0.1"))
    assert largest(preview, {"8": draw(model)["8"]}) > 1  # not the full model's
    assert_equal(draw(model, stop_at="16"), draw(model))


def test_previews_and_cuts_warn_after_a_training_without_mixing(tmp_path):
    model = make_model()
    model.unet.trained_alone = ["16"]
    with pytest.warns(UserWarning, match="without mixed resolutions"):
        draw(model, stop_at="8")
    with pytest.warns(UserWarning, match="without mixed resolutions"):
        cut(model.unet, "8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.unet.trained_alone == ("16",)
    model.unet.trained_alone = ["8", "16"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        draw(model, stop_at="8")
        assert cut(model.unet, "8").trained_alone == ("8",)


def test_steps_on_the_way(model):
    images, way = draw(model, steps=10, return_steps=3)
    assert {k: v.shape for k, v in way.items()} == {"8": (3, 3, 8, 8, 3), "16": (3, 3, 16, 16, 3)}
    assert_equal(images, draw(model, steps=10))
    assert_equal({k: v[-1] for k, v in way.items()}, images)
    seen = []
    draw(
        model, steps=5, batch_size=2, callback=lambda done, steps, x: seen.append((done, steps, x))
    )
    assert [done for done, _, _ in seen] == [1, 2, 3, 4, 5] * 2
    assert [len(x["16"]) for _, _, x in seen] == [2] * 5 + [1] * 5
    # With two steps left the estimate is that of the step before.
    _, all_steps = draw(model, steps=5, return_steps=5)
    np.testing.assert_array_equal(all_steps["16"][2][:2], seen[2][2]["16"])


@pytest.mark.slow
def test_a_grid_of_noise_levels_goes_through(model):
    found = [draw(model, grid=grid) for grid in ("logsnr", "karras")]
    assert largest(*found) > 3


def test_an_all_zero_mask_of_the_text_gives_numbers(model):
    states, mask = FakeEncoder().encode(PROMPTS)
    for rows in ([0.0, 1.0, 1.0], [0.0, 0.0, 0.0]):
        some = {"text": states, "text_mask": mask * np.array(rows)[:, None]}
        found = draw(model, some, output="float32")
        assert all(np.all(np.isfinite(value)) for value in found.values())


@pytest.mark.parametrize(
    "options",
    [
        {"negative_prompts": ["a", "b"]},
        {"negative_prompts": [1, 2, 3]},
        {"negative_prompts": "a", "guidance_scale": 1.0},
        {"negative_prompts": "a", "autoguidance": "raw"},
        {"guidance_interval": (0.8, 0.2)},
        {"guidance_interval": (0.2, 1.2)},
        {"guidance_interval": 0.5},
        {"guidance_interval": (None, 0.5)},
        {"callback": 3},
        {"hold": pictures(8)},
        {"noise": np.zeros((3, 8, 8, 3))},
        {"negative_prompts": {"text": "x"}},
        {"guidance_rescale": 1.5},
        {"autoguidance": "ema_0.2"},
        {"autoguidance": 3},
        {"num_images_per_prompt": 0},
        {"seed": [1, 2]},
        {"seed": [1, 2, -3]},
        {"seed": "1"},
        {"noise": {"8": np.zeros((3, 8, 8, 3))}},
        {"noise": {"8": np.zeros((3, 8, 8, 3)), "16": np.zeros((2, 16, 16, 3))}},
        {"stop_at": "64"},
        {"init_image": np.zeros((16, 24, 3), "uint8")},
        {"init_image": np.zeros((2, 16, 16, 3), "uint8")},
        {"init_image": np.zeros((16, 16, 4), "uint8")},
        {"init_image": np.full((16, 16, 3), 2.0)},
        {"init_image": np.zeros((16, 16, 3), "int32")},
        {"init_image": pictures(16), "strength": 1.1},
        {"init_image": pictures(16), "strength": -0.1},
        {"init_image": pictures(16), "mask": np.ones((8, 8))},
        {"init_image": pictures(16), "mask": np.zeros((16, 16))},
        {"strength": 0.5},
        {"mask": np.ones((16, 16))},
        {"hold": {"16": pictures(16)}},
        {"hold": {"4": pictures(4)}},
        {"hold": {"8": pictures(8)}, "init_image": pictures(16)},
        {"output": "float16"},
        {"return_steps": -1},
        {"micro": {"score": 1.0}},
        {"sampler": "heun", "eta": 0.5},
        {"grid": "cosine"},
        {"prompts": {"text": np.zeros((2, 3, TEXT_WIDTH)), "text_mask": np.ones((2, 4))}},
    ],
    ids=str,
)
def test_bad_input_is_one_error_before_any_work(model, options):
    options = {"prompts": PROMPTS, **options}
    prompts = options.pop("prompts")
    with pytest.raises(ValueError, match=THREE_PARTS):
        draw(model, prompts, **options)

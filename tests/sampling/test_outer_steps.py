"""`generate(outer_steps=...)`: outer levels computed in some of the steps."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, TEXT_WIDTH, THREE_PARTS, FakeEncoder, outer, tiny_unet

from keras_mdm import Cascade, MatryoshkaDiffusion, export_saved_model
from keras_mdm.diffusion import samplers
from keras_mdm.sampling import generate as drawing
from keras_mdm.sampling import outer_steps
from keras_mdm.sampling.graph import process_of
from keras_mdm.sampling.options import Options
from keras_mdm.sampling.plan import SamplingPlan
from keras_mdm.sampling.request import resolve
from sampling.drawing import PROMPTS, assert_equal, largest, scramble_averages
from sampling.drawing import draw as draw_prompts

STEPS = 4


def make_model(levels=(PLAIN_INNER, outer(16)), **options):
    options = {"threshold": "static", "residual": {"16": 0.3}, **options}
    model = MatryoshkaDiffusion(tiny_unet(list(levels)), **options)
    scramble_averages(model)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def three():
    levels = [PLAIN_INNER, outer(16), outer(32)]
    return make_model(levels, residual={"16": 0.3, "32": 0.2})


def draw(model, **options):
    given = {"num_images": 2, "steps": STEPS, "seed": 1, "progress": False, "output": "float32"}
    return model.generate(**{**given, **options})


def asked(model, **options):
    """The request of these options."""
    code = drawing.generate.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    defaults = {"prompts": None, **drawing.generate.__kwdefaults__}
    given = {name: defaults[name] for name in names}
    return resolve(model, Options(**{**given, "num_images": 2, "steps": STEPS, **options}))


def by_hand(model, computed):
    """Draw step by step; `computed` names the highest level that each step computes."""
    process, levels = model.process, model.unet.levels
    times = np.linspace(1.0, 0.0, len(computed) + 1).astype("float32")
    x = {name: tf.constant(value) for name, value in model.noise_for(1, 2).items()}
    estimates = {name: tf.zeros_like(value) for name, value in x.items()}
    for (t, s), top in zip(itertools.pairwise(times), computed, strict=True):
        names = levels[: levels.index(top) + 1]
        part = process_of(model, SamplingPlan(stop_at=top))
        inputs = {f"z_{name}": x[name] for name in names}
        outputs = model.network("ema", top)({**inputs, "time": tf.fill([2], 1000.0 * t - 1.0)})
        z = {name: x[name] for name in names}
        found = part.predictions(outputs, z, tf.constant(t), model.residual_std)[1]
        found = {name: tf.clip_by_value(value, -1.0, 1.0) for name, value in found.items()}
        for below, shape in itertools.pairwise(process.shapes):
            if shape.name not in found:
                detail = estimates[shape.name] - process.enlarged(
                    estimates[below.name], below, shape
                )
                picture = process.enlarged(found[below.name], below, shape)
                found[shape.name] = tf.clip_by_value(picture + detail, -1.0, 1.0)
        estimates = found
        for name in levels:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = (
                process.amplitudes(name, tf.constant(time)) for time in (t, s)
            )
            x[name] = samplers.ddim_step(x[name], found[name], alpha_t, sigma_t, alpha_s, sigma_s)
    return x


def compare_by_hand(model, computed, **options):
    found = draw(model, **options)
    wanted = {name: value.numpy() for name, value in by_hand(model, computed).items()}
    assert largest(found, wanted) < 1e-4


def test_levels_hold_their_detail_between_evaluations(model):
    """Against a loop written again."""
    compare_by_hand(model, ["8", "16", "8", "16"], outer_steps=2)


@pytest.mark.slow
def test_three_levels_hold_their_detail_between_evaluations(three):
    compare_by_hand(three, ["8", "16", "8", "32"], outer_steps={"16": 2, "32": 1})


def test_all_steps_are_the_default(model):
    """Also those that the loop of single steps takes."""
    default = draw(model)
    graphs = len(model._graphs)
    assert_equal(draw(model, outer_steps=STEPS), default)
    assert_equal(draw(model, outer_steps={}), default)
    assert len(model._graphs) == graphs
    request = asked(model, outer_steps=1, seed=1, output="float32")
    every = {"16": tf.ones([STEPS], tf.bool)}
    request.amounts["outer_steps"] = every
    assert_equal(drawing._draw(model, request), default)


def test_numbers_do_not_trace_again_and_stretches_give_the_same_bits(model):
    once = draw(model, outer_steps=2)
    traced = model._graphs.tracings()
    seen = []
    stepwise = draw(
        model, outer_steps={"16": 2}, callback=lambda done, steps, images: seen.append(images)
    )
    assert_equal(stepwise, once)
    draw(model, outer_steps=3, steps=5, seed=3)
    assert sorted(traced) == sorted(model._graphs.tracings())
    # Estimates of all levels are there from the first step on, before any evaluation of the outer.
    assert seen[0].keys() == once.keys()
    assert largest(once, draw(model)) > 0.01


def test_which_steps_compute_which_level(three):
    request = asked(three, outer_steps={"32": 2})
    assert request.plan.tops == ("16", "32")
    assert asked(three, outer_steps=2).plan.tops == ("8", "32")
    assert asked(three, outer_steps={"16": 3, "32": 1}).plan.tops == ("8", "16", "32")
    assert asked(three, outer_steps=2, stop_at="16").plan.tops == ("8", "16")
    assert asked(three, outer_steps={"16": STEPS, "32": STEPS}).plan.tops == ()
    due = {name: each.numpy().tolist() for name, each in request.amounts["outer_steps"].items()}
    assert due == {"16": [True] * 4, "32": [False, True, False, True]}


def test_a_picture_to_change_keeps_its_detail(model):
    """The first step that is taken computes all levels."""
    picture = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)).astype("float32")
    request = asked(model, outer_steps=1, init_image=picture, strength=0.75)
    assert request.first == 1
    assert request.amounts["outer_steps"]["16"].numpy().tolist() == [False, True, False, True]


@pytest.mark.slow
def test_kept_pixels_come_back_bit_for_bit(model):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype("uint8")
    mask = np.zeros((16, 16))
    mask[:5] = 1.0
    found = draw(model, outer_steps=1, init_image=picture, mask=mask, output="uint8")
    for row in found["16"]:
        np.testing.assert_array_equal(row[5:], picture[5:])
        assert np.abs(row[:5].astype(int) - picture[:5]).max() > 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"outer_steps": 0},
        {"outer_steps": STEPS + 1},
        {"outer_steps": 1.5},
        {"outer_steps": True},
        {"outer_steps": "16"},
        {"outer_steps": {"8": 1}},
        {"outer_steps": {"64": 1}},
        {"outer_steps": {"16": 1}},  # 32 in all steps
        {"outer_steps": {"16": 2, "32": 3}},
        {"outer_steps": 2, "stop_at": "8"},
    ],
)
def test_wrong_numbers_have_one_clear_error(three, wrong):
    with pytest.raises(ValueError, match=THREE_PARTS):
        draw(three, dry_run=True, **wrong)


def test_only_nested_levels_that_ran_alone(model):
    single = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    with pytest.raises(ValueError, match=THREE_PARTS):
        draw(single, outer_steps=1, dry_run=True)
    model.unet.trained_alone = ("16",)
    try:
        with pytest.warns(UserWarning, match="without mixed resolutions"):
            draw(model, outer_steps=1, dry_run=True)
        draw(model, outer_steps=STEPS, dry_run=True)  # no warning
    finally:
        model.unet.trained_alone = None


def served(model, directory, steps, **options):
    export_saved_model(model, directory, **options)
    function = tf.saved_model.load(directory / "1").signatures["scalars"]
    given = {"steps": tf.constant(steps), "guidance_scale": tf.constant(1.0)}
    count = tf.constant(2) if not model.unet.spec.text_width else None
    given |= {"seed": tf.constant(1, tf.int64), "num_images": count}
    return lambda **more: function(**{**given, **more})


@pytest.mark.slow
def test_the_export_draws_the_same(model, tmp_path):
    function = served(model, tmp_path / "a", STEPS, outer_steps=2)
    wanted = draw(model, outer_steps=2, output="uint8")
    assert_equal({k: v.numpy() for k, v in function().items()}, wanted)
    wanted = draw(model, steps=6, outer_steps=2, output="uint8")
    assert_equal({k: v.numpy() for k, v in function(steps=tf.constant(6)).items()}, wanted)
    wanted = draw(model, steps=2, output="uint8")
    assert_equal({k: v.numpy() for k, v in function(steps=tf.constant(2)).items()}, wanted)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least 2"):
        function(steps=tf.constant(1))


def test_an_export_checks_the_levels(three, tmp_path):
    for wrong in ({"64": 2}, {"16": 2}, 0, 1001):
        with pytest.raises(ValueError, match=THREE_PARTS):
            export_saved_model(three, tmp_path / "a", outer_steps=wrong)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_the_export_of_three_levels_draws_the_same(three, tmp_path):
    function = served(three, tmp_path / "a", STEPS, outer_steps={"32": 2})
    wanted = draw(three, outer_steps={"32": 2}, output="uint8")
    assert_equal({k: v.numpy() for k, v in function().items()}, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddpm", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_every_sampler(model, sampler):
    """Stretches give the same bits, and the innermost level alone is what a preview draws."""
    options = {"sampler": sampler, "steps": 6}
    once = draw(model, outer_steps=1, **options)
    assert_equal(draw(model, outer_steps=1, callback=lambda *_: None, **options), once)
    # All but the last step ran without the outer level.
    images, way = draw(model, outer_steps=1, return_steps=6, **options)
    _, alone = draw(model, stop_at="8", return_steps=6, **options)
    np.testing.assert_array_equal(way["8"][:5], alone["8"][:5])
    assert_equal(images, once)


@pytest.mark.slow
def test_with_guidance_its_interval_and_reconstruction(tmp_path):
    model = MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER, outer(16)], text_width=TEXT_WIDTH),
        text_encoder=FakeEncoder(),
        cond_dropout=0.1,
        signal_scale={"16": 2.0},
    )
    scramble_averages(model)

    def pictures(**options):
        options = {"steps": 6, "output": "float32", **options}
        return draw_prompts(model, **options)

    one = pictures(outer_steps=2)
    alone = draw_prompts(model, PROMPTS[:1], steps=6, output="float32", outer_steps=2)
    assert largest({k: v[:1] for k, v in one.items()}, alone) < 1e-5
    # A guidance of scale 1 inside an interval is no guidance.
    plain = pictures(outer_steps=2, guidance_scale=1.0)
    assert_equal(pictures(outer_steps=2, guidance_interval=(0.99, 0.995)), plain)
    assert largest(pictures(outer_steps=2, guidance_interval=(0.3, 0.7)), plain) > 0.01
    held = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype("uint8")
    found = pictures(outer_steps=2, hold={"8": held}, reconstruction=1.0, output="uint8")
    np.testing.assert_array_equal(found["8"], held)
    assert largest(pictures(outer_steps=2, jit_compile=True), one) < 1e-3


def test_a_cascade_passes_it_to_the_stage_that_it_is_for():
    low = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER, outer(16)]))
    high = MatryoshkaDiffusion(tiny_unet([replace(PLAIN_INNER, size=32)], in_channels=6))
    cascade = Cascade(low, high)
    options = {"num_images": 2, "steps": 2, "dry_run": True}
    assert cascade.generate(low={"outer_steps": 1}, **options) == {}
    for wrong in ({"outer_steps": 1}, {"high": {"outer_steps": 1}}):
        with pytest.raises(ValueError, match=THREE_PARTS):
            cascade.generate(**options, **wrong)


def test_levels_that_skip_steps_ascend():
    levels = ("8", "16", "32")
    assert outer_steps.tops_of(levels, {}) == ()
    assert outer_steps.tops_of(levels, {"16": None, "32": 3}) == ("16", "32")
    assert outer_steps.tops_of(levels, {"16": 3, "32": 3}) == ("8", "32")

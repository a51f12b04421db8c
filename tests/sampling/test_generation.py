"""`generate`, the saved model file, and the exported sampler draw the same pictures."""

import subprocess
import sys

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
    arrays,
    make_batch,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion, export_saved_model, optimizers, text
from keras_mdm.conditioning.conditions import drop, unconditional
from keras_mdm.costs.unallocated import unallocated
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.diffusion.schedules import cosine
from keras_mdm.sampling.denoiser import make_denoiser
from keras_mdm.sampling.plan import SamplingPlan, amounts_of
from sampling.drawing import PROMPTS, assert_equal, draw, largest, scramble_averages


def make_model(**options):
    model = MatryoshkaDiffusion(
        tiny_unet([INNER, outer(16)], text_width=TEXT_WIDTH, num_classes=4),
        text_encoder=FakeEncoder(),
        residual={"16": 0.3},
        cond_dropout={"text": 0.1, "label": 0.1},
        **options,
    )
    scramble_averages(model)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def test_seeds_decide_and_nothing_is_left_behind(model):
    before = arrays(model.variables)
    images = draw(model)
    assert {k: (v.shape, v.dtype.name) for k, v in images.items()} == {
        "8": ((3, 8, 8, 3), "uint8"),
        "16": ((3, 16, 16, 3), "uint8"),
    }
    assert_equal(images, draw(model))
    assert largest(images, draw(model, seed=2)) > 10
    for old, new in zip(before, arrays(model.variables), strict=True):
        np.testing.assert_array_equal(old, new)


def test_stretches_give_the_same_bits(model):
    assert_equal(draw(model, steps=30), draw(model, steps=30, progress=True))


def test_a_picture_does_not_depend_on_its_batch(model):
    together, alone = draw(model), draw(model, PROMPTS[:2])
    assert largest({k: v[:2] for k, v in together.items()}, alone) <= 1
    assert largest(together, draw(model, batch_size=2)) <= 1


def test_every_level_gets_its_own_guidance(model):
    """Estimates of one step, in closed form: a network that answers by the half of the batch."""
    levels = model.unet.levels

    def network(inputs):
        rows = inputs["time"].shape[0] // 2
        halves = tf.concat([tf.fill([rows], 0.1), tf.fill([rows], 0.2)], axis=0)
        return {
            name: halves[:, None, None, None] * tf.ones_like(inputs[f"z_{name}"]) for name in levels
        }

    process = LevelProcess.create(
        levels, cosine(), shift_power=2.0, prediction="x0", use_residual=False
    )
    x = {name: tf.zeros((2, int(name), int(name), 3)) for name in levels}
    amounts = amounts_of(levels, guidance_scale=3.0, shares={"16": 0.25})
    plan = SamplingPlan(threshold="none")
    denoise = make_denoiser(network, process, plan, amounts, {}, away={})
    found = denoise(x, tf.constant(0.5))
    np.testing.assert_allclose(found["8"], 0.1 + 3.0 * 0.1, rtol=1e-6)  # w = 3
    np.testing.assert_allclose(found["16"], 0.1 + 1.5 * 0.1, rtol=1e-6)  # w = 1 + 0.25 * 2


@pytest.mark.slow
def test_guidance_by_level_is_the_models_shares_of_one_number(model, tmp_path):
    shared = make_model(guidance_shares={"16": 0.0})
    one_level = draw(shared, guidance_scale=3.0)
    assert_equal(one_level, draw(model, guidance_scale={"8": 3.0}))
    assert_equal(draw(model, guidance_scale=3.0), draw(model, guidance_scale={"8": 3.0, "16": 3.0}))
    assert largest(one_level, draw(model, guidance_scale=3.0)) > 3
    shared.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.text_encoder = FakeEncoder()
    assert_equal(one_level, draw(loaded, guidance_scale=3.0))
    assert_equal(draw(model, guidance_scale={"8": 1.0, "16": 1.0}), draw(model, guidance_scale=1.0))


def test_guidance_one_is_conditional_and_zero_unconditional(model):
    encoder = FakeEncoder()
    states, mask = encoder.encode(PROMPTS)
    conditions = {"text": states, "text_mask": mask, "label": np.full(3, -1, "int32")}
    assert_equal(draw(model), draw(model, conditions))
    null, null_mask = encoder.null()
    nothing = {
        "text": np.repeat(null[None], 3, axis=0),
        "text_mask": np.repeat(null_mask[None], 3, axis=0),
    }
    # Guidance 0 of a prompt is the conditional sample of no prompt.
    assert largest(draw(model, guidance_scale=0.0), draw(model, nothing, guidance_scale=1.0)) <= 1
    assert largest(draw(model, guidance_scale=1.0), draw(model, nothing, guidance_scale=1.0)) > 3


def test_averages_are_used_unless_raw_weights_are_asked_for(model):
    assert largest(draw(model), draw(model, weights="raw")) > 3


def test_other_numbers_do_not_trace_again(model):
    draw(model)
    traced = model._graphs.tracings()
    draw(model, steps=4, seed=9, guidance_scale=2.0)
    assert traced == model._graphs.tracings()


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "euler?"},
        {"steps": 0},
        {"steps": 1001},
        {"steps": 2.5},
        {"guidance_scale": -1.0},
        {"guidance_scale": {"64": 2.0}},
        {"guidance_scale": {"8": -2.0}},
        {"seed": -1},
        {"seed": 1.5},
        {"threshold": "soft"},
        {"grid": "log"},
        {"eta": 2.0},
        {"weights": "best"},
        {"labels": [4, 0, 0]},
        {"labels": [0, 0]},
        {"prompts": []},
        {"prompts": "a red apple"},
        {"prompts": [3]},
        {"prompts": None},
        {"prompts": {"txt": np.zeros((1, 2, TEXT_WIDTH))}},
        {"prompts": {"text": np.zeros((1, 2, TEXT_WIDTH + 1))}},
    ],
    ids=str,
)
def test_bad_input_is_one_error_before_any_work(model, options):
    options = {"prompts": PROMPTS, **options}
    prompts = options.pop("prompts")
    with pytest.raises(ValueError, match=THREE_PARTS):
        draw(model, prompts, **options)


def test_a_model_without_conditions_takes_a_number_and_no_guidance():
    plain = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    assert plain.generate(num_images=2, steps=2, progress=False)["8"].shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match=THREE_PARTS):
        plain.generate(num_images=2, guidance_scale=2.0)


def test_clips():
    clips = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER, CLIP]))
    images = clips.generate(num_images=2, steps=2, progress=False)
    assert images["4x8"].shape == (2, 4, 8, 8, 3)
    assert np.any(images["4x8"][:, 0] != images["4x8"][:, 1])


def test_dropping_a_condition_equals_passing_none(model):
    rng = np.random.default_rng(0)
    batch = make_batch(rng, 4)
    conditions = {k: tf.constant(batch[k]) for k in ("text", "text_mask")}
    conditions["label"] = tf.constant([0, 1, 2, 3])
    null = model.null_condition
    dropped = drop(conditions, null, tf.constant([True, False, True, False]))
    none = unconditional(conditions, null)
    for name, value in dropped.items():
        np.testing.assert_array_equal(value[::2], none[name][::2])
        np.testing.assert_array_equal(value[1::2], conditions[name][1::2])
    assert none["label"].numpy().tolist() == [-1] * 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = make_model(
        seed=5, shift_power=1.0, loss_target="eps", level_weights={"8": 2.0}, threshold="static"
    )
    model.compile(optimizer=optimizers.SGD(0.5, clip_norm=1.0))
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return model, path


def test_keras_file_keeps_everything_but_the_encoder(saved, monkeypatch):
    model, path = saved
    loaded = keras.saving.load_model(path)
    assert loaded.get_config() == model.get_config()
    assert loaded.text_encoder is None and loaded.optimizer.clip_norm == 1.0
    for name, value in model.null_condition.items():
        np.testing.assert_array_equal(loaded.null_condition[name], value)
    monkeypatch.setattr(text, "from_identity", lambda identity: FakeEncoder(identity["name"]))
    assert_equal(draw(model), draw(loaded))


def test_the_threshold_is_the_models_own_unless_given(saved, model):
    static, _ = saved
    assert_equal(draw(static), draw(static, threshold="static"))
    assert_equal(draw(model), draw(model, threshold="dynamic"))
    assert largest(draw(static), draw(static, threshold="dynamic")) > 3


@pytest.mark.slow
def test_a_threshold_that_model_and_sampling_disagree_about_must_be_said(saved, model):
    static, _ = saved
    with pytest.raises(ValueError, match=THREE_PARTS) as caught:
        draw(static, sampling="paper")
    assert "threshold='dynamic' or threshold='static'" in str(caught.value)
    for threshold in ("dynamic", "static"):
        paper = draw(static, sampling="paper", threshold=threshold)
        assert_equal(paper, draw(static, sampler="ddpm", threshold=threshold))
    assert_equal(draw(model, sampling="paper"), draw(model, sampler="ddpm"))


def test_a_number_of_steps_beside_a_schedule_must_be_its_own():
    unet = tiny_unet([PLAIN_INNER])
    record = cosine(20)
    assert MatryoshkaDiffusion(unet, schedule=record).get_config()["schedule"]["num_steps"] == 20
    with pytest.raises(ValueError, match=THREE_PARTS):
        MatryoshkaDiffusion(unet, schedule=record, num_steps=1000)


def test_a_dry_run_checks_a_model_without_values_and_draws_nothing():
    with unallocated():
        empty = MatryoshkaDiffusion(
            tiny_unet([INNER, outer(16)], text_width=TEXT_WIDTH, num_classes=4),
            text_encoder=FakeEncoder(),
            cond_dropout={"text": 0.1, "label": 0.1},
            residual=True,  # not measured before training
        )
    assert draw(empty, dry_run=True, labels=[0, 1, 2], guidance_scale={"8": 2.0}) == {}
    assert draw(empty, dry_run=True, return_steps=2, negative_prompts="grey") == {}
    for wrong in (
        {"steps": 1001},
        {"guidance_scale": {"64": 2.0}},
        {"sampler": "euler?"},
        {"labels": [0, 0, 4]},
        {"stop_at": "32"},
    ):
        with pytest.raises(ValueError, match=THREE_PARTS):
            draw(empty, dry_run=True, **wrong)
    assert not len(empty._graphs)  # nothing was traced


def test_a_missing_encoder_is_named(saved):
    loaded = keras.saving.load_model(saved[1])
    loaded._encoder_identity = None
    with pytest.raises(ValueError, match=THREE_PARTS):
        draw(loaded)


SERVE = """
import sys
import numpy as np
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["scalars"]
inputs = {name: tf.constant(value) for name, value in np.load(sys.argv[2]).items()}
found = served(**inputs)
assert "keras_mdm" not in sys.modules
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
"""


def serve(model, tmp_path, inputs, **scalars):
    export_saved_model(model, tmp_path / "export")
    inputs |= {
        "steps": np.int32(scalars["steps"]),
        "guidance_scale": np.float32(scalars.get("guidance_scale", 1.0)),
        "seed": np.int64(scalars["seed"]),
    }
    np.savez(tmp_path / "in.npz", **inputs)
    files = [str(tmp_path / name) for name in ("export/1", "in.npz", "out.npz")]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *files], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(tmp_path / "out.npz"))


def test_saved_model_equals_generate_with_tensorflow_alone(model, tmp_path):
    states, mask = FakeEncoder().encode(PROMPTS)
    inputs = {"text": states, "text_mask": mask, "label": np.array([0, 2, -1], "int32")}
    scalars = {"steps": 3, "seed": 1, "guidance_scale": 3.0}
    found = serve(model, tmp_path, dict(inputs), **scalars)
    assert_equal(found, draw(model, inputs))


def test_saved_model_without_conditions(tmp_path):
    plain = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), threshold="static")
    found = serve(plain, tmp_path, {"num_images": np.int32(2)}, steps=2, seed=4)
    assert_equal(found, plain.generate(num_images=2, steps=2, seed=4, progress=False))


def test_saved_model_with_another_sampler(tmp_path):
    plain = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    export_saved_model(plain, tmp_path / "export", sampler="unipc", grid="karras")
    served = tf.saved_model.load(tmp_path / "export" / "1").signatures["scalars"]
    scalars = {"steps": tf.constant(5), "guidance_scale": tf.constant(1.0)}
    found = served(num_images=tf.constant(2), seed=tf.constant(4, tf.int64), **scalars)
    options = {"num_images": 2, "steps": 5, "seed": 4, "progress": False}
    assert_equal(
        {name: value.numpy() for name, value in found.items()},
        plain.generate(sampler="unipc", grid="karras", **options),
    )


def test_export_refuses_a_full_directory_and_leaves_nothing_half_done(model, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(ValueError, match=THREE_PARTS):
        export_saved_model(model, tmp_path / "full")

    def crash(module, directory, **_):
        tf.io.gfile.makedirs(directory)
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", crash)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(model, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]

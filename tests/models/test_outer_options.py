"""Patches, a learned deviation and a view of the level below, as options of outer levels."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import (
    INNER,
    PLAIN_INNER,
    TEXT_WIDTH,
    THREE_PARTS,
    as_dataset,
    make_batch,
    outer,
    tiny_unet,
)

import keras_mdm as mdm
from keras_mdm.layers.patches import from_patches, to_patches
from keras_mdm.models.sizes import with_size

pytestmark = pytest.mark.usefixtures("eagerly")

PATCHED = dataclasses.replace(outer(16), patch=2, channels=(16,), blocks=(1,), attention=(0,))
LEARNED = dataclasses.replace(outer(16), learned_deviation=True)
SEEING = dataclasses.replace(outer(16), sees_below=True)
ALL = dataclasses.replace(PATCHED, learned_deviation=True, sees_below=True)


def inputs_of(unet, rows=2):
    rng = np.random.default_rng(1)
    shapes = {t.name: [rows, *(d or 3 for d in t.shape[1:])] for t in unet.inputs}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def test_patches_are_squares_of_pixels():
    x = np.arange(2 * 4 * 6 * 3, dtype="float32").reshape(2, 4, 6, 3)
    patches = to_patches(x, 2)
    assert patches.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(patches[1, 1, 2], x[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(from_patches(patches, 2), x)


@pytest.mark.parametrize("patch, resolutions", [(1, (16, 8)), (2, (8,))])
def test_the_first_resolution_is_that_of_the_patches(patch, resolutions):
    unet = mdm.build_nested_unet([INNER, mdm.LevelSpec(16, patch=patch, groups=8)])
    assert unet.spec.levels[1].resolutions == resolutions


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(PATCHED, id="patch", marks=pytest.mark.slow),
        pytest.param(LEARNED, id="s"),
        pytest.param(SEEING, id="view", marks=pytest.mark.slow),
        pytest.param(ALL, id="all"),
    ],
)
def test_such_levels_train_grow_save_and_load(level, tmp_path):
    highest = dataclasses.replace(outer(32), patch=level.patch)
    unet = tiny_unet([INNER, level, highest], text_width=TEXT_WIDTH)
    model = mdm.MatryoshkaDiffusion(unet, residual={"16": 0.3, "32": 0.2}, seed=1)
    model.compile(mdm.optimizers.SGD(1e-2))
    before = [np.asarray(w).copy() for w in unet.trainable_weights]
    model.train_on_batch(make_batch(np.random.default_rng(0), 2, size=32))
    still = [
        w.path for w, old in zip(unet.trainable_weights, before, strict=True) if np.all(w == old)
    ]
    assert not still
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.unet.spec == unet.spec
    given = {"text": np.ones((2, 3, TEXT_WIDTH), "float32"), "text_mask": np.ones((2, 3))}
    ours, theirs = (m.generate(given, steps=2, seed=3)["32"] for m in (model, loaded))
    np.testing.assert_array_equal(ours, theirs)


def test_a_patched_innermost_level_and_one_around_it():
    inner = mdm.LevelSpec(
        16, patch=2, channels=(16,), blocks=(1,), attention=(0,), groups=8, use_mid_block=False
    )
    unet = tiny_unet([inner, mdm.LevelSpec(32, patch=2, channels=(8, 16), groups=8)])
    shapes = {name: value.shape for name, value in unet(inputs_of(unet)).items()}
    assert shapes == {"16": (2, 16, 16, 3), "32": (2, 32, 32, 3)}
    assert with_size(unet, (32, 48)).levels == ("h16w24", "h32w48")


def test_clips_in_patches():
    inner = dataclasses.replace(PLAIN_INNER, size=8, patch=2)
    space = mdm.LevelSpec(
        8, 4, patch=2, channels=(8, 8, 16), temporal_attention=(0, 0, 0), groups=4
    )
    unet = tiny_unet([inner, space])
    assert unet(inputs_of(unet))["4x8"].shape == (2, 4, 8, 8, 3)
    with pytest.raises(ValueError, match="changes time" + ".*" + THREE_PARTS):
        mdm.build_nested_unet([inner, dataclasses.replace(space, patch=1)])


@pytest.mark.parametrize("shape", [(8, 4), (16, 2)], ids=["more frames", "larger"])
def test_a_clip_level_sees_the_level_below(shape):
    frames = {"channels": (8, 8), "temporal_attention": (0, 0), "groups": 4}
    wide = {"channels": (8, 8), "groups": 4}
    levels = [PLAIN_INNER, mdm.LevelSpec(8, 2, **frames)]
    own = frames if shape[0] == 8 else wide
    level = mdm.LevelSpec(*shape, sees_below=True, learned_deviation=True, **own)
    unet = tiny_unet([*levels, level])
    given = inputs_of(unet)
    before = unet(given)
    assert before[level.name].shape == (2, *unet.spec.levels[-1].input_shape(4))
    below = levels[-1].name
    changed = unet({**given, f"z_{below}": given[f"z_{below}"] + 0.1})
    assert np.max(np.abs(before[level.name] - changed[level.name])) > 1e-4


def test_a_new_level_with_a_learned_deviation_begins_as_the_wiener_estimate():
    pictures = {}
    for level in (outer(16), LEARNED):
        unet = tiny_unet([PLAIN_INNER, level], scramble=False)
        model = mdm.MatryoshkaDiffusion(unet, residual={"16": 0.3})
        pictures[level.learned_deviation] = model.generate(num_images=2, steps=3, seed=1)["16"]
    np.testing.assert_array_equal(pictures[False], pictures[True])


def test_the_deviation_of_a_pixel_is_that_of_the_data_times_the_predicted_factor():
    unet = tiny_unet([PLAIN_INNER, LEARNED])
    model = mdm.MatryoshkaDiffusion(unet, residual={"16": 0.3})
    rng = np.random.default_rng(0)
    z = {"8": rng.normal(size=(2, 8, 8, 3)), "16": rng.normal(size=(2, 16, 16, 3))}
    z = {name: value.astype("float32") for name, value in z.items()}
    change = rng.normal(size=(2, 16, 16, 1)).astype("float32")
    v = {"8": 0.1 * z["8"], "16": rng.normal(size=(2, 16, 16, 3)).astype("float32")}
    t = tf.constant([0.3, 0.6])
    _, found = model.process.predictions(
        {**v, "16": np.concatenate([v["16"], change], axis=-1)}, z, t, {"16": 0.3}
    )
    alpha, sigma = (np.asarray(a).reshape(2, 1, 1, 1) for a in model.process.amplitudes("16", t))
    below, shape = model.process.shapes
    alpha_8, sigma_8 = (np.asarray(a).reshape(2, 1, 1, 1) for a in model.process.amplitudes("8", t))
    inner = np.clip(alpha_8 * z["8"] - sigma_8 * v["8"], -1.0, 1.0)
    u = np.asarray(model.process.enlarged(tf.constant(inner), below, shape), "float64")
    variance = np.square(0.3 * np.exp(4.0 * np.tanh(change / 4.0)))
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    expected = u + gain * (z["16"] - alpha * u) - sigma * v["16"]
    np.testing.assert_allclose(found["16"], expected, rtol=0, atol=2e-5)


def test_what_a_level_sees_is_the_level_below():
    """The view changes the outer level only, and follows the innermost picture."""
    unet = tiny_unet([PLAIN_INNER, SEEING])
    given = inputs_of(unet)
    before = unet(given)
    part = unet.parts["level_16_up"]
    part.view.kernel.assign(0.0 * part.view.kernel)
    part.view.bias.assign(0.0 * part.view.bias)
    after = unet(given)
    np.testing.assert_array_equal(before["8"], after["8"])
    assert np.max(np.abs(before["16"] - after["16"])) > 1e-3


def test_mixed_groups_micro_batches_recompute_and_bfloat16():
    """One step is the same whether or not its batch is cut and its blocks are computed again."""
    ends = []
    for options in ({}, {"micro_batches": 2}, {"recompute": ["16"]}):
        unet = tiny_unet([INNER, ALL], text_width=TEXT_WIDTH)
        model = mdm.MatryoshkaDiffusion(unet, residual={"16": 0.3}, seed=1)
        model.compile(mdm.optimizers.SGD(1e-2), **options)
        rng = np.random.default_rng(0)
        mixed = {"8": make_batch(rng, 2, size=8), "16": make_batch(rng, 4)}
        model.fit(tf.data.Dataset.from_tensors(mixed), verbose=0)
        ends.append([np.asarray(w) for w in unet.trainable_weights])
    for other in ends[1:]:
        for ours, theirs in zip(ends[0], other, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    unet = tiny_unet([INNER, ALL], text_width=TEXT_WIDTH, dtype="mixed_bfloat16")
    outputs = unet(inputs_of(unet))
    assert outputs["16"].dtype == tf.float32 and outputs["16"].shape == (2, 16, 16, 4)


def test_two_replicas_make_the_same_step(two_replicas):
    ends = []
    batch = make_batch(np.random.default_rng(0), 4)
    for strategy in (None, two_replicas):
        with strategy.scope() if strategy else contextlib.nullcontext():
            unet = tiny_unet([INNER, ALL], text_width=TEXT_WIDTH)
            model = mdm.MatryoshkaDiffusion(unet, residual={"16": 0.3}, seed=1)
            model.compile(mdm.optimizers.SGD(1e-2))
        model.fit(as_dataset([batch]), epochs=1, verbose=0)
        ends.append([np.asarray(w) for w in unet.trainable_weights])
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_guidance_rescaling_lora_and_an_export(tmp_path, traced):
    unet = tiny_unet([INNER, ALL], text_width=TEXT_WIDTH)
    model = mdm.MatryoshkaDiffusion(unet, residual={"16": 0.3}, seed=1)
    given = {"text": np.ones((1, 3, TEXT_WIDTH), "float32"), "text_mask": np.ones((1, 3))}
    options = {"steps": 2, "seed": 3, "guidance_scale": 2.0}
    drawn = model.generate(given, **options)["16"]
    rescaled = model.generate(given, **options, guidance_rescale=0.7)["16"]
    assert np.all(np.isfinite(rescaled)) and np.max(np.abs(drawn - rescaled)) > 1e-4
    mdm.export_saved_model(model, tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export" / "1")).signatures["scalars"]
    assert "16" in served.structured_outputs
    model.enable_lora(2)
    model.compile(mdm.optimizers.SGD(1e-1))
    model.train_on_batch(make_batch(np.random.default_rng(0), 2))
    adapted = model.generate(given, **options, weights="raw")["16"]
    model.merge_lora()
    merged = model.generate(given, **options, weights="raw")["16"]
    np.testing.assert_allclose(adapted, merged, rtol=0, atol=1e-4)


def test_a_picture_to_start_from_is_not_taken_for_a_deviation():
    """Inputs of a level may have more channels than its prediction, here six."""
    inner = dataclasses.replace(outer(16), learned_deviation=True)
    unet = tiny_unet(
        [PLAIN_INNER, inner, dataclasses.replace(outer(32), sees_below=True)], in_channels=6
    )
    before = unet(inputs_of(unet))
    assert before["32"].shape == (2, 32, 32, 3) and before["16"].shape == (2, 16, 16, 4)
    kernel = unet.parts["level_32_up"].view.kernel
    assert kernel.shape[2] == 6 + 3 + 6


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: mdm.LevelSpec(18, patch=4), "multiples of its patch"),
        (lambda: mdm.LevelSpec(16, patch=0), "patch"),
        (lambda: mdm.LevelSpec(16, sees_below="yes"), "True or False"),
        (lambda: mdm.build_nested_unet([mdm.LevelSpec(16, sees_below=True)]), "no level below"),
        (
            lambda: mdm.build_nested_unet([mdm.LevelSpec(16, learned_deviation=True)]),
            "no level below",
        ),
        (lambda: mdm.build_nested_unet([INNER, mdm.LevelSpec(16, patch=4)]), "fewer patches"),
        (
            lambda: mdm.MatryoshkaDiffusion(tiny_unet([INNER, LEARNED], text_width=TEXT_WIDTH)),
            "needs the residual output",
        ),
        (lambda: mdm.interop.to_ml_mdm(tiny_unet([PLAIN_INNER, PATCHED])), "official layout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "made",
)
def test_what_does_not_fit_is_one_error(make, said):
    with pytest.raises(ValueError, match=said + ".*" + THREE_PARTS):
        make()

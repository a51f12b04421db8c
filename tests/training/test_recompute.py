"""Recomputation: the same gradients, less memory, in every kind of layer."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import CLIP, INNER, TEXT_WIDTH, arrays, make_batch, outer, tiny_unet

from keras_mdm import LevelSpec, MatryoshkaDiffusion
from keras_mdm.export import export_saved_model
from keras_mdm.models.recompute import set_recompute
from keras_mdm.optimizers import SGD
from training.test_mixing import mixed_batch


def step(levels, batch, recompute, dtype=None):
    """(logs, how far the weights moved) of one traced step."""
    unet = tiny_unet(levels, text_width=TEXT_WIDTH, dtype=dtype)
    model = MatryoshkaDiffusion(unet, null_text=np.ones((2, TEXT_WIDTH)), cond_dropout=0.0, seed=3)
    model.compile(optimizer=SGD(0.1, clip_norm=None), recompute=recompute)
    start = arrays(unet.trainable_variables)
    traced = tf.function(model.train_step, autograph=False)
    logs = {key: float(value) for key, value in traced(batch).items()}
    end = arrays(unet.trainable_variables)
    return logs, [b - a for a, b in zip(start, end, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recompute", "dtype"),
    [(True, "float32"), (["16"], "mixed_bfloat16")],
    ids=str,
)
def test_gradients_stay_the_same(recompute, dtype):
    batch = tf.nest.map_structure(tf.constant, mixed_batch(np.random.default_rng(0)))
    levels = [INNER, outer(16)]
    logs, moved = step(levels, batch, False, dtype)
    again, moved_again = step(levels, batch, recompute, dtype)
    limit = 1e-6 if dtype == "float32" else 2e-2
    for key in ("loss", "gradient_norm"):
        assert again[key] == pytest.approx(logs[key], rel=limit)
    largest = max(np.max(np.abs(value)) for value in moved)
    for one, other in zip(moved, moved_again, strict=True):
        # Weights of the order of one move in steps of their own last digit.
        np.testing.assert_allclose(other, one, atol=max(limit * largest, 3e-7))
    assert largest > 1e-4


@pytest.mark.slow
def test_clips_too():
    rng = np.random.default_rng(0)
    batch = make_batch(rng, 2, size=8)
    batch["video"] = rng.integers(0, 256, (2, 4, 8, 8, 3)).astype("uint8")
    del batch["image"]
    batch = tf.nest.map_structure(tf.constant, batch)
    inner = LevelSpec(8, channels=(8,), blocks=(1,), attention=(0,), groups=4, use_mid_block=False)
    levels = [inner, CLIP]
    logs, _ = step(levels, batch, False)
    again, _ = step(levels, batch, ["4x8"])
    assert again["gradient_norm"] == pytest.approx(logs["gradient_norm"], rel=1e-6)


def test_it_can_be_switched_off_and_is_remembered():
    unet = tiny_unet([INNER, outer(16)], text_width=TEXT_WIDTH)
    layers = [
        layer
        for stage in (*unet.parts["level_16_down"].down, *unet.parts["level_16_up"].up)
        for layer in (*stage.residual, *stage.spatial, *stage.temporal)
    ]
    assert set_recompute(unet, ["16"]) == ("16",)
    assert all("call" in layer.__dict__ for layer in layers)
    inner = unet.parts["level_8"].down[0].residual[0]
    assert "call" not in inner.__dict__
    assert set_recompute(unet, False) == ()
    assert not any("call" in layer.__dict__ for layer in layers)
    model = MatryoshkaDiffusion(unet)
    model.compile(optimizer=SGD(0.1), recompute=["16"], micro_batches=2)
    assert model.get_compile_config()["recompute"] == ["16"]
    for wrong in (["64"], "16"):
        with pytest.raises(ValueError, match="recompute"):
            set_recompute(unet, wrong)


@pytest.mark.slow
def test_the_backward_pass_runs_the_forward_one_again():
    """Counted in the traced gradient: what memory it saves, benchmarks/training.py measures."""
    counts = {}
    for recompute in (False, ["16"], True):
        unet = tiny_unet([INNER, outer(16)], text_width=TEXT_WIDTH)
        set_recompute(unet, recompute)
        inputs = {f"z_{size}": tf.zeros((2, size, size, 3)) for size in (8, 16)}
        inputs |= {"time": tf.ones(2), "text": tf.zeros((2, 3, TEXT_WIDTH))}

        def gradient(unet=unet, inputs=inputs):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(unet(inputs, training=True)["16"])
            return tape.gradient(loss, unet.trainable_variables)

        graph = tf.function(gradient, autograph=False).get_concrete_function().graph
        definition = graph.as_graph_def()
        nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
        counts[str(recompute)] = sum(node.op == "Conv2D" for node in nodes)
    assert counts["False"] < counts["['16']"] < counts["True"], counts


@pytest.mark.slow
def test_it_is_no_part_of_an_export(tmp_path):
    """A graph with gradient functions in it cannot be written."""
    unet = tiny_unet([INNER, outer(16)], text_width=TEXT_WIDTH)
    model = MatryoshkaDiffusion(unet, null_text=np.ones((2, TEXT_WIDTH)))
    model.compile(optimizer=SGD(0.1), recompute=True)
    text, mask = np.ones((2, 3, TEXT_WIDTH), "float32"), np.ones((2, 3), "float32")
    given = {"text": text, "text_mask": mask}
    expected = model.generate(given, steps=2, guidance_scale=1.0, seed=0, progress=False)
    export_saved_model(model, tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export" / "1")).signatures["scalars"](
        text=tf.constant(text),
        text_mask=tf.constant(mask),
        steps=tf.constant(2),
        guidance_scale=tf.constant(1.0),
        seed=tf.constant(0, tf.int64),
    )
    for level, images in expected.items():
        np.testing.assert_array_equal(served[level], images)

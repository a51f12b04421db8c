"""`jit_compile=True` gives what the step and the sampler give without it."""

import contextlib
import os

import numpy as np
import pytest
import tensorflow as tf
from sampling.drawing import scramble_averages
from tiny_models import (
    CLIP,
    INNER,
    PLAIN_INNER,
    TEXT_WIDTH,
    arrays,
    make_batch,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion, randomness
from keras_mdm.optimizers import SGD, Adam
from keras_mdm.tracing import compiled_whole
from training.test_mixing import as_dataset, mixed_batch, norm

# Compiling takes most of the time here; XLA reads this when it compiles first.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.mark.parametrize("seed", [0, 3, 2**62 + 12345])
def test_draws_are_the_same(seed):
    def draw(seed, step, samples):
        base = randomness.key(seed, "train", step)
        # Names whose checksums fit into 31 bits, and names whose do not.
        shapes = {"8": (3,), "16": (16, 16, 3), "x": ()}
        return {
            "key": base,
            "fold": randomness.fold(base, "16"),
            **randomness.normal_per_sample(base, samples, shapes),
            **randomness.uniform_per_sample(base, samples, ("time", "condition")),
            "row": randomness.normal_per_row(samples, "step", step, samples, {"8": (5,)})["8"],
        }

    samples = tf.range(3, dtype=tf.int64) * 2**33
    given = tf.constant(seed, tf.int64), tf.constant(5, tf.int32), samples
    plain = tf.function(draw, autograph=False)(*given)
    compiled = tf.function(compiled_whole(draw), autograph=False, jit_compile=True)(*given)
    for name, value in plain.items():
        exact = name in ("key", "fold", "time", "condition")
        np.testing.assert_allclose(value, compiled[name], rtol=0, atol=0 if exact else 4e-6)


def images(rows=4, **options):
    rng = np.random.default_rng(0)
    return [make_batch(rng, rows, **options) for _ in range(2)]


def clips():
    rng = np.random.default_rng(0)
    return [{"video": rng.integers(0, 256, (2, 4, 8, 8, 3)).astype("uint8")} for _ in range(2)]


def mixed():
    rng = np.random.default_rng(0)
    return [mixed_batch(rng, classes=3) for _ in range(2)]


def plain_unet(**options):
    return tiny_unet([PLAIN_INNER], num_classes=3, **options)


# Network, batches, options of `compile`, options of the model.
CASES = {
    "class": (
        plain_unet,
        lambda: images(size=8, classes=3),
        {"micro_batches": 2, "steps_per_execution": 2},
        {"times": "stratified"},
    ),
    "text": (
        lambda: tiny_unet([INNER], text_width=TEXT_WIDTH, text_blocks=1),
        lambda: images(size=8),
        {"micro_batches": 2, "steps_per_execution": 2, "recompute": True},
        {"times": "stratified", "null_text": np.ones((2, TEXT_WIDTH), "float32")},
    ),
    "image": (
        lambda: tiny_unet([PLAIN_INNER, outer(16)], num_classes=3),
        lambda: images(classes=3),
        {"optimizer": Adam(1e-3)},
        {"residual": {"16": 0.3}, "loss_weighting": "vdm", "power_emas": (0.1,)},
    ),
    "video": (lambda: tiny_unet([PLAIN_INNER, CLIP]), clips, {}, {}),
    "mixed": (
        lambda: tiny_unet([PLAIN_INNER, outer(16)], num_classes=3),
        mixed,
        {"micro_batches": 2},
        {"cond_dropout": {"label": 0.3}},
    ),
}


def train(make, batches, compiling, options, *, jit_compile, strategy=None):
    """Start, weights, averages, and the losses of training and of evaluation."""
    compiling = {"optimizer": SGD(0.05), **compiling}
    optimizer = compiling.pop("optimizer")
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = MatryoshkaDiffusion(make(), **{"cond_dropout": 0.3, **options})
        start = arrays(model.unet.trainable_variables)
        model.compile(
            type(optimizer).from_config(optimizer.get_config()),
            **compiling,
            jit_compile=jit_compile,
        )
    history = model.fit(as_dataset(batches()), verbose=0).history
    evaluated = model.evaluate(as_dataset(batches()), verbose=0, return_dict=True)
    losses = [history["loss"][0], evaluated["loss"]]
    return start, arrays(model.unet.trainable_variables), arrays(model.ema.averages), losses


def apart(one, two):
    return norm([a.astype("float64") - b for a, b in zip(one, two, strict=True)])


def assert_the_same(case, strategy=None):
    start, weights, averages, losses = train(*case, jit_compile=False, strategy=strategy)
    _, compiled, compiled_averages, compiled_losses = train(
        *case, jit_compile=True, strategy=strategy
    )
    assert 0.0 < apart(weights, compiled) < 1e-4 * apart(weights, start)  # 0: nothing was compiled
    assert apart(averages, compiled_averages) < 1e-4 * apart(averages, start)
    np.testing.assert_allclose(losses, compiled_losses, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [name if name == "class" else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_training(name):
    assert_the_same(CASES[name])


@pytest.mark.slow
def test_training_on_two_replicas(two_replicas):
    assert_the_same((plain_unet, lambda: images(size=8, classes=3), {}, {}), two_replicas)


@pytest.mark.slow
def test_mixed_batches_on_two_replicas(two_replicas):
    assert_the_same(CASES["mixed"], two_replicas)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_rounded_elsewhere_and_no_worse(dtype):
    def weights(dtype, jit_compile):
        case = lambda: plain_unet(dtype=dtype), lambda: images(size=8, classes=3), {}, {}
        return train(*case, jit_compile=jit_compile)[1]

    exact, half, compiled = weights(None, False), weights(dtype, False), weights(dtype, True)
    assert 0.0 < apart(half, compiled) < 1.5 * apart(exact, half)
    assert apart(exact, compiled) < 1.5 * apart(exact, half)


SAMPLING = {
    "ddim": {},
    "noise": {"sampler": "dpmpp_2m_sde", "guidance_rescale": 0.5, "threshold": "dynamic"},
    "known": {
        "init_image": np.zeros((8, 8, 3), "uint8"),
        "mask": np.arange(64).reshape(8, 8) < 20,
        "reconstruction": 0.5,
    },
}


def test_sampling():
    model = MatryoshkaDiffusion(plain_unet())
    scramble_averages(model)
    for options in SAMPLING.values():
        given = {"labels": [0, 1], "steps": 3, "output": "float32", "progress": False, **options}
        plain = model.generate(**given)["8"]
        compiled = model.generate(**given, jit_compile=True)["8"]
        assert 0.0 < np.abs(plain - compiled).max() < 1e-4
    assert model._graphs.tracings() == [1] * len(model._graphs)


def test_jit_compile_is_true_or_false():
    with pytest.raises(ValueError, match=r"`jit_compile` must be one of .+Received.+To fix it"):
        MatryoshkaDiffusion(plain_unet()).generate(labels=[0], jit_compile="auto")

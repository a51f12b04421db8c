"""Training of two linear heads with the symmetric contrastive loss."""

import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

_BATCH = 256
_RATE = 1e-3
_DECAY = 0.1
_BETAS = (0.9, 0.98)
_LARGEST_SCALE = 100.0

Heads = dict[str, np.ndarray]
_Tensors = dict[str, tf.Tensor]


def fit_heads(x: np.ndarray, y: np.ndarray, *, width: int, steps: int, seed: int) -> Heads:
    """Train heads on pairs of rows.

    Args:
        x: (N, D) features of pictures, float64.
        y: (N, W) sentence states of their texts, float64. Equal rows are one text: the pictures of
            one text are not told apart.
        width: of the common space.
        steps: of AdamW, with a cosine decay of the learning rate.
        seed: of the starting weights and of the batches.

    Returns:
        float32 arrays: `picture_weight` (D, width), `picture_bias` (width,), `text_weight`,
        `text_bias` and `scale` (), the inverse of the learned temperature.
    """
    rng = np.random.default_rng(seed)
    _, text_ids = np.unique(y, axis=0, return_inverse=True)
    text_ids = text_ids.reshape(-1)
    (x, *x_moments), (y, *y_moments) = _standardised(x), _standardised(y)
    start = {
        "picture_weight": rng.normal(size=(x.shape[1], width)) / math.sqrt(x.shape[1]),
        "picture_bias": np.zeros(width),
        "text_weight": rng.normal(size=(y.shape[1], width)) / math.sqrt(y.shape[1]),
        "text_bias": np.zeros(width),
        "log_scale": math.log(1.0 / 0.07),
    }
    batches = _batches(len(x), rng)
    # Matrices are small: threads of NumPy's that wait for one another would take longer than the
    # products, where other processes keep the processor busy. There are no variables, so that no
    # strategy of the caller has a say.
    with tf.device("CPU:0"):
        step = tf.function(_step, autograph=False)
        heads = {name: tf.constant(value, tf.float32) for name, value in start.items()}
        first = {name: tf.zeros_like(value) for name, value in heads.items()}
        second = dict(first)
        for number in range(steps):
            rows = next(batches)
            rate = _RATE * 0.5 * (1.0 + math.cos(math.pi * number / steps))
            # Corrections of both averages, which start at zero.
            warm = tuple(1.0 - beta ** (number + 1) for beta in _BETAS)
            numbers = tf.constant([rate, *warm], tf.float32)
            heads, first, second = step(
                heads, first, second, numbers, x[rows], y[rows], text_ids[rows]
            )
    found = {name: value.numpy() for name, value in heads.items()}
    picture = _unstandardised(found["picture_weight"], found["picture_bias"], *x_moments)
    text = _unstandardised(found["text_weight"], found["text_bias"], *y_moments)
    return {
        "picture_weight": picture[0],
        "picture_bias": picture[1],
        "text_weight": text[0],
        "text_bias": text[1],
        "scale": np.exp(found["log_scale"]),
    }


def contrastive_loss(heads: _Tensors, x: tf.Tensor, y: tf.Tensor, text_ids: tf.Tensor) -> tf.Tensor:
    """The mean of the cross-entropies from pictures to texts and back.

    The wanted distribution of a picture is even over the rows of the batch that have its text.

    Args:
        heads: weights, biases and `log_scale`.
        x: (B, D) features.
        y: (B, W) sentence states.
        text_ids: (B,) integers, equal for equal texts.
    """
    u = tf.math.l2_normalize(x @ heads["picture_weight"] + heads["picture_bias"], axis=1)
    v = tf.math.l2_normalize(y @ heads["text_weight"] + heads["text_bias"], axis=1)
    logits = tf.exp(heads["log_scale"]) * tf.matmul(u, v, transpose_b=True)
    wanted = tf.cast(text_ids[:, None] == text_ids[None], logits.dtype)
    wanted /= tf.reduce_sum(wanted, axis=1, keepdims=True)  # symmetric
    logs = tf.nn.log_softmax(logits, axis=1) + tf.nn.log_softmax(logits, axis=0)
    return -0.5 * tf.reduce_mean(tf.reduce_sum(wanted * logs, axis=1))


def _step(
    heads: _Tensors,
    first: _Tensors,
    second: _Tensors,
    numbers: tf.Tensor,
    *batch: tf.Tensor,
) -> tuple[_Tensors, _Tensors, _Tensors]:
    with tf.GradientTape() as tape:
        tape.watch(heads)
        loss = contrastive_loss(heads, *batch)
    slopes = tape.gradient(loss, heads)
    rate, warm_first, warm_second = tf.unstack(numbers)
    found: tuple[_Tensors, _Tensors, _Tensors] = ({}, {}, {})
    for name, slope in slopes.items():
        mean = first[name] + (1.0 - _BETAS[0]) * (slope - first[name])
        square = second[name] + (1.0 - _BETAS[1]) * (slope**2 - second[name])
        value = heads[name]
        if name.endswith("weight"):
            value *= 1.0 - rate * _DECAY
        value -= rate * (mean / warm_first) / (tf.sqrt(square / warm_second) + 1e-8)
        if name == "log_scale":
            value = tf.minimum(value, math.log(_LARGEST_SCALE))
        found[0][name], found[1][name], found[2][name] = value, mean, square
    return found


def _standardised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    # What hardly varies among the training pictures must not be blown up in others.
    deviation = np.maximum(deviation, 1e-3 * max(float(deviation.max()), 1e-30))
    return ((x - mean) / deviation).astype("float32"), mean, deviation


def _unstandardised(
    weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The head that does to plain features what the given one does to standardised ones."""
    plain = weight / deviation[:, None]
    return plain.astype("float32"), (bias - mean @ plain).astype("float32")


def _batches(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches without repetition inside a pass; what does not fill one is left out."""
    size = min(_BATCH, count)
    while True:
        order = rng.permutation(count)
        for begin in range(0, count - size + 1, size):
            yield order[begin : begin + size]

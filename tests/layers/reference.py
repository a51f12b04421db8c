"""Float64 NumPy definitions of what the layers compute, and random weights for them."""

import math

import numpy as np

erf = np.vectorize(math.erf)


def randomize(layer, seed=0, scale=0.2):
    """Give every weight of a built layer a random value, those that start at zero included."""
    rng = np.random.default_rng(seed)
    values = []
    for variable in layer.weights:
        value = rng.normal(scale=scale, size=variable.shape)
        values.append(value + 1.0 if variable.name == "gamma" else value)
    layer.set_weights(values)


def f64(x):
    return np.asarray(x, "float64")


def silu(x):
    return x / (1.0 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def affine(layer, x):
    """A dense layer."""
    y = f64(x) @ f64(layer.kernel)
    return y if layer.bias is None else y + f64(layer.bias)


def group_norm(x, gamma, beta, groups, epsilon=1e-5):
    batch, channels = x.shape[0], x.shape[-1]
    parts = f64(x).reshape(batch, -1, groups, channels // groups)
    mean = parts.mean(axis=(1, 3), keepdims=True)
    variance = parts.var(axis=(1, 3), keepdims=True)
    parts = (parts - mean) / np.sqrt(variance + epsilon)
    return parts.reshape(x.shape) * f64(gamma) + f64(beta)


def layer_norm(layer, x, epsilon=1e-5):
    x = f64(x)
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * f64(layer.gamma) + f64(layer.beta)


def conv2d(layer, x, stride=1, pad=1):
    """A 3x3 convolution: rows of pixels times rows of the kernel, padded alike on all sides."""
    kernel = f64(layer.kernel)
    x = np.pad(f64(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height = (x.shape[1] - kernel.shape[0]) // stride + 1
    width = (x.shape[2] - kernel.shape[1]) // stride + 1
    y = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            y[:, i, j] = np.einsum("bijc,ijcd->bd", window, kernel)
    return y + f64(layer.bias)


def attention(query, key, value, heads, mask=None):
    """Head by head; channel c of the width belongs to head c // d."""
    width = query.shape[-1] // heads
    out = np.zeros(query.shape[:2] + (query.shape[-1],))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = query[..., part] @ key[..., part].transpose(0, 2, 1) / math.sqrt(width)
        if mask is not None:
            logits = np.where(np.asarray(mask)[:, None, :] > 0, logits, -np.inf)
        out[..., part] = softmax(logits) @ value[..., part]
    return out


def token_attention(layer, x, mask=None, turn=None):
    """`TokenAttention`; `turn` maps queries and keys `(B, L, D)` to rotated ones."""
    x = f64(x)
    query, key, value = np.split(affine(layer.qkv, layer_norm(layer.norm, x)), 3, axis=-1)
    if turn is not None:
        query, key = turn(query), turn(key)
    x = x + affine(layer.proj_out, attention(query, key, value, layer.heads, mask))
    return x + affine(layer.ffn_out, gelu(affine(layer.ffn_in, layer_norm(layer.ffn_norm, x))))

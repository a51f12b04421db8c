"""The autoencoder of latent diffusion in float64 NumPy, from the names of its tensors alone.

Written from the published description, without a layer of ours: pictures are `(B, C, H, W)`, and a
state is {key: array} in PyTorch's layouts.
"""

import re
import zlib

import numpy as np


def values_of(key, shape):
    """Random values that depend on the key alone; the generator is frozen by NumPy."""
    drawn = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    inputs = np.prod(shape[1:]) if len(shape) > 1 else 25.0
    around = 1.0 if "norm" in key and key.endswith("weight") else 0.0
    return (around + drawn / np.sqrt(inputs)).astype("float32")


def state_of(width, multipliers, blocks, codes, *, attention=(), channels=3, inner=None):
    """A random state of these sizes, with the keys of the published files."""
    inner, found = inner or codes, {}

    def add(key, *shape):
        found[f"{key}.weight"] = values_of(f"{key}.weight", shape)
        found[f"{key}.bias"] = values_of(f"{key}.bias", shape[:1])

    def block(key, arrive, leave):
        add(f"{key}.norm1", arrive)
        add(f"{key}.conv1", leave, arrive, 3, 3)
        add(f"{key}.norm2", leave)
        add(f"{key}.conv2", leave, leave, 3, 3)
        if arrive != leave:
            add(f"{key}.nin_shortcut", leave, arrive, 1, 1)

    def attends(key, wide):
        add(f"{key}.norm", wide)
        for name in ("q", "k", "v", "proj_out"):
            add(f"{key}.{name}", wide, wide, 1, 1)

    def middle(part, wide):
        block(f"{part}.mid.block_1", wide, wide)
        attends(f"{part}.mid.attn_1", wide)
        block(f"{part}.mid.block_2", wide, wide)

    widths, last = [width * m for m in multipliers], len(multipliers) - 1
    add("encoder.conv_in", width, channels, 3, 3)
    arrive = width
    for n, wide in enumerate(widths):
        for b in range(blocks):
            block(f"encoder.down.{n}.block.{b}", arrive, wide)
            arrive = wide
            if n in attention:
                attends(f"encoder.down.{n}.attn.{b}", wide)
        if n < last:
            add(f"encoder.down.{n}.downsample.conv", wide, wide, 3, 3)
    middle("encoder", widths[-1])
    add("encoder.norm_out", widths[-1])
    add("encoder.conv_out", 2 * inner, widths[-1], 3, 3)
    add("decoder.conv_in", widths[-1], inner, 3, 3)
    middle("decoder", widths[-1])
    arrive = widths[-1]
    for n in range(last, -1, -1):
        for b in range(blocks + 1):
            block(f"decoder.up.{n}.block.{b}", arrive, widths[n])
            arrive = widths[n]
            if n in attention:
                attends(f"decoder.up.{n}.attn.{b}", widths[n])
        if n:
            add(f"decoder.up.{n}.upsample.conv", widths[n], widths[n], 3, 3)
    add("decoder.norm_out", widths[0])
    add("decoder.conv_out", channels, widths[0], 3, 3)
    add("quant_conv", 2 * codes, 2 * inner, 1, 1)
    add("post_quant_conv", inner, codes, 1, 1)
    return found


class Reference:
    """What a state computes."""

    def __init__(self, state, groups=32):
        self.state = {key: np.asarray(value, "float64") for key, value in state.items()}
        self.groups = groups

    def moments(self, images):
        x = self.conv("encoder.conv_in", images)
        numbers = sorted({int(n) for n in self._numbers(r"encoder\.down\.(\d+)\.")})
        for n in numbers:
            x = self.resolution(f"encoder.down.{n}", x)
            if f"encoder.down.{n}.downsample.conv.weight" in self.state:
                padded = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))
                x = self.conv(f"encoder.down.{n}.downsample.conv", padded, stride=2, pad=0)
        return self.conv("quant_conv", self.ending("encoder", self.middle("encoder", x)), pad=0)

    def decoded(self, codes):
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", codes, pad=0))
        x = self.middle("decoder", x)
        numbers = sorted({int(n) for n in self._numbers(r"decoder\.up\.(\d+)\.")})
        for n in reversed(numbers):
            x = self.resolution(f"decoder.up.{n}", x)
            if n:
                x = self.conv(f"decoder.up.{n}.upsample.conv", x.repeat(2, 2).repeat(2, 3))
        return self.ending("decoder", x)

    def _numbers(self, pattern):
        return [match[1] for match in map(re.compile(pattern).match, self.state) if match]

    def resolution(self, key, x):
        block = 0
        while f"{key}.block.{block}.norm1.weight" in self.state:
            x = self.block(f"{key}.block.{block}", x)
            if f"{key}.attn.{block}.norm.weight" in self.state:
                x = self.attention(f"{key}.attn.{block}", x)
            block += 1
        return x

    def middle(self, part, x):
        x = self.attention(f"{part}.mid.attn_1", self.block(f"{part}.mid.block_1", x))
        return self.block(f"{part}.mid.block_2", x)

    def ending(self, part, x):
        return self.conv(f"{part}.conv_out", silu(self.norm(f"{part}.norm_out", x)))

    def block(self, key, x):
        h = self.conv(f"{key}.conv1", silu(self.norm(f"{key}.norm1", x)))
        h = self.conv(f"{key}.conv2", silu(self.norm(f"{key}.norm2", h)))
        shortcut = f"{key}.nin_shortcut"
        return h + (self.conv(shortcut, x, pad=0) if f"{shortcut}.weight" in self.state else x)

    def attention(self, key, x):
        batch, channels, height, width = x.shape
        normed = self.norm(f"{key}.norm", x)
        q, k, v = (
            self.conv(f"{key}.{name}", normed, pad=0).reshape(batch, channels, -1) for name in "qkv"
        )
        logits = np.einsum("bci,bcj->bij", q, k) / np.sqrt(channels)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        found = np.einsum("bij,bcj->bci", shares, v).reshape(batch, channels, height, width)
        return x + self.conv(f"{key}.proj_out", found, pad=0)

    def norm(self, key, x, epsilon=1e-6):
        parts = x.reshape(len(x), self.groups, -1)
        parts = (parts - parts.mean(-1, keepdims=True)) / np.sqrt(
            parts.var(-1, keepdims=True) + epsilon
        )
        weight, bias = (self.state[f"{key}.{name}"][:, None, None] for name in ("weight", "bias"))
        return parts.reshape(x.shape) * weight + bias

    def conv(self, key, x, stride=1, pad=1):
        weight, bias = self.state[f"{key}.weight"], self.state[f"{key}.bias"]
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
        windows = windows[:, :, ::stride, ::stride]
        return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True) + bias[:, None, None]


def silu(x):
    return x / (1.0 + np.exp(-x))


def last(x):
    """Channels last."""
    return np.moveaxis(np.asarray(x), 1, -1)


def first(x):
    """Channels first, float64."""
    return np.moveaxis(np.asarray(x, "float64"), -1, 1)

"""Maps our variables to the tensors of the official state dict, in the official order."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_mdm.layers.temporal_attention import HEAD_WIDTH
from keras_mdm.models.nested_unet import NestedUNet

# Layouts of tensors in the state dict, with the permutation to our layout; `TO_OFFICIAL` undoes it.
TO_OURS = {
    "vector": lambda x: x,
    "linear": lambda x: x.T,  # (out, in) -> (in, out)
    "pointwise": lambda x: x[:, :, 0, 0].T,  # 1x1 convolution -> dense
    "conv": lambda x: x.transpose(2, 3, 1, 0),  # (out, in, kh, kw) -> (kh, kw, in, out)
    "conv_time": lambda x: x.transpose(2, 1, 0)[:, None],  # (out, in, k) -> (k, 1, in, out)
}
TO_OFFICIAL = {
    "vector": lambda x: x,
    "linear": lambda x: x.T,
    "pointwise": lambda x: x.T[:, :, None, None],
    "conv": lambda x: x.transpose(3, 2, 0, 1),
    "conv_time": lambda x: x[:, 0].transpose(2, 1, 0),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the state dict: its key, our variable, the layout; or a constant."""

    key: str
    variable: Any
    layout: str
    constant: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the state dict."""
        if self.constant is not None:
            return self.constant.shape
        # A zero-stride view: only its shape is permuted, nothing is allocated.
        view = np.broadcast_to(np.float32(0), tuple(self.variable.shape))
        return TO_OFFICIAL[self.layout](view).shape


def rotary_frequencies() -> np.ndarray:
    """The 16 frequencies that the official state dict stores per rotary attention."""
    exponent = np.arange(0, HEAD_WIDTH, 2, dtype=np.float32) / HEAD_WIDTH
    return (1.0 / 10000.0**exponent).astype(np.float32)


def entries(unet: NestedUNet) -> list[Entry]:
    """List every tensor of the official state dict of `unet`, in the official order."""
    return list(_net(unet, len(unet.levels) - 1, ""))


def _affine(key: str, layer: Any, layout: str) -> Iterator[Entry]:
    """Weight and bias of a dense, convolution or normalisation layer."""
    if layout == "vector":
        yield Entry(f"{key}.weight", layer.gamma, "vector")
        yield Entry(f"{key}.bias", layer.beta, "vector")
        return
    yield Entry(f"{key}.weight", layer.kernel, layout)
    if layer.bias is not None:
        yield Entry(f"{key}.bias", layer.bias, "vector")


def _net(unet: NestedUNet, index: int, prefix: str) -> Iterator[Entry]:
    name = unet.levels[index]
    embedding = unet.parts[f"level_{name}_embedding"]
    down = unet.parts[f"level_{name}_down" if index else f"level_{name}"]
    up = unet.parts[f"level_{name}_up"] if index else down
    text = None if index else unet.parts.get("text_conditioning")
    time = embedding.time_embedding
    yield from _affine(f"{prefix}temb_layer1", time.dense1, "linear")
    yield from _affine(f"{prefix}temb_layer2", time.dense2, "linear")
    if text is not None:
        yield from _affine(f"{prefix}cond_emb", text.pooled, "linear")
    for micro, layer in embedding.micro_layers.items():
        yield from _affine(f"{prefix}cond_layers.{micro}.0", layer.dense1, "linear")
        yield from _affine(f"{prefix}cond_layers.{micro}.1", layer.dense2, "linear")
    yield from _affine(f"{prefix}conv_in", down.conv_in, "conv")
    yield from _affine(f"{prefix}norm_out", up.norm_out, "vector")
    yield from _affine(f"{prefix}conv_out", up.conv_out, "conv")
    resample_layout = "conv_time" if down.axis == "time" else "conv"
    last = len(down.down) - 1
    for number, stage in enumerate(down.down):
        resample = down.down_resample[number] if number < last else None
        yield from _stage(f"{prefix}down_blocks.{number}", stage, resample, resample_layout)
    if not index and down.use_mid_block:
        yield from _resblock(f"{prefix}mid_blocks.0.resnets.0", down.mid_block_0)
        yield from _spatial(f"{prefix}mid_blocks.0.attn.0", down.mid_attention)
        yield from _resblock(f"{prefix}mid_blocks.1.resnets.0", down.mid_block_1)
    for number in range(last + 1):  # up_blocks.0 is the lowest resolution
        stage = up.up[last - number]
        resample = up.up_resample[last - number - 1] if number < last else None
        yield from _stage(f"{prefix}up_blocks.{number}", stage, resample, resample_layout)
    if text is not None:
        if text.project is not None:
            yield from _affine(f"{prefix}lm_proj", text.project, "linear")
        for number, block in enumerate(text.attention):
            yield from _tokens(f"{prefix}lm_head.{number}", block)
    if index:
        yield from _net(unet, index - 1, f"{prefix}inner_unet.")
        yield from _affine(f"{prefix}in_adapter", down.in_adapter, "conv")
        yield from _affine(f"{prefix}out_adapter", up.out_adapter, "conv")


def _stage(key: str, stage: Any, resample: Any, resample_layout: str) -> Iterator[Entry]:
    for number, block in enumerate(stage.residual):
        yield from _resblock(f"{key}.resnets.{number}", block)
    for number, layer in enumerate(stage.spatial):
        yield from _spatial(f"{key}.attn.{number}", layer)
    for number, layer in enumerate(stage.temporal):
        yield from _tokens(f"{key}.t_attn.{number}", layer.attention)
        yield from _affine(f"{key}.t_attn.{number}.down_conv", layer.down_conv, "conv")
        yield from _affine(f"{key}.t_attn.{number}.up_conv", layer.up_conv, "conv")
    if resample is not None:
        yield from _affine(f"{key}.resample", resample.conv, resample_layout)


def _resblock(key: str, block: Any) -> Iterator[Entry]:
    yield from _affine(f"{key}.norm1", block.norm1, "vector")
    yield from _affine(f"{key}.conv1", block.conv1, "conv")
    yield from _affine(f"{key}.time_layer", block.time_layer, "linear")
    yield from _affine(f"{key}.norm2", block.norm2, "vector")
    yield from _affine(f"{key}.conv2", block.conv2, "conv")
    if block.skip is not None:
        yield from _affine(f"{key}.conv3", block.skip, "pointwise")


def _spatial(key: str, layer: Any) -> Iterator[Entry]:
    yield from _affine(f"{key}.norm", layer.norm, "vector")
    yield from _affine(f"{key}.qkv", layer.qkv, "pointwise")
    if hasattr(layer, "text_kv"):
        yield from _affine(f"{key}.norm_cond", layer.text_norm, "vector")
        yield from _affine(f"{key}.kv_cond", layer.text_kv, "linear")
    yield from _affine(f"{key}.proj_out", layer.proj_out, "pointwise")
    if layer.feed_forward:
        yield from _affine(f"{key}.ffn.0", layer.ffn_norm, "vector")
        yield from _affine(f"{key}.ffn.1", layer.ffn_in, "pointwise")
        yield from _affine(f"{key}.ffn.3", layer.ffn_out, "pointwise")


def _tokens(key: str, block: Any) -> Iterator[Entry]:
    yield from _affine(f"{key}.attn.norm", block.norm, "vector")
    yield from _affine(f"{key}.attn.qkv", block.qkv, "linear")
    yield from _affine(f"{key}.attn.proj_out", block.proj_out, "linear")
    if block.rotary:
        yield Entry(f"{key}.attn.pos_emb.freqs", None, "vector", rotary_frequencies())
    yield from _affine(f"{key}.mlp.main.0", block.ffn_norm, "vector")
    yield from _affine(f"{key}.mlp.main.1", block.ffn_in, "linear")
    yield from _affine(f"{key}.mlp.main.3", block.ffn_out, "linear")

"""The released networks in PyTorch: same arithmetic, same keys of the state dict as the authors'.

Written from the facts that `docs/checkpoints.md` and `tests/interop` check, for images and without
what the released networks lack (text blocks, masks in the attention, video). Uses PyTorch's fused
attention, so it is at least as fast as an implementation that spells the softmax out.

    network = build(configuration)              # fields as in the authors' YAML files
    network.load_state_dict(state)              # for example of keras_mdm.interop.to_ml_mdm
    high, *lower = network([x_256, x_64], t, text, mask, {"scale": scale})
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

HEADS = 8
ATTENTION_GROUPS = 32


def build(config: Mapping[str, Any]) -> "UNet":
    """Build the network of an official configuration, nested if it has an `inner_config`."""
    return UNet(config, text_width=_text_width(config))


def _text_width(config: Mapping[str, Any]) -> int:
    """Width of the tokens that all levels see: of the highest level that says so."""
    while config["conditioning_feature_dim"] < 0:
        config = config["inner_config"]
    return config["conditioning_feature_dim"]


def norm(groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-5)


def sinusoid(value: torch.Tensor, width: int) -> torch.Tensor:
    """Sines, then cosines, `(B, width)`; the exponent is divided by half, not by half - 1."""
    half = width // 2
    rates = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=value.device))
    angles = value.float()[:, None] * rates
    features = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
    return F.pad(features, (0, width % 2))


class ResNet(nn.Module):
    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int):
        super().__init__()
        self.norm1 = norm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_layer = nn.Linear(embedding, 2 * outputs)
        self.norm2 = norm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv3 = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        gain, shift = self.time_layer(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1.0 + gain) + shift))
        return h + (self.conv3(x) if hasattr(self, "conv3") else x)


class Attention(nn.Module):
    """Over pixels, and to the text with the same query; the two results are added."""

    def __init__(self, channels: int, text: int, *, feed_forward: bool):
        super().__init__()
        self.norm = norm(ATTENTION_GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.norm_cond = nn.LayerNorm(text)
        self.kv_cond = nn.Linear(text, 2 * channels)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.ffn = None
        if feed_forward:
            self.ffn = nn.Sequential(
                norm(ATTENTION_GROUPS, channels),
                nn.Conv2d(channels, 4 * channels, 1),
                nn.GELU(),
                nn.Conv2d(4 * channels, channels, 1),
            )

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        rows, channels, height, width = x.shape
        pixels = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, H*W, 3C)
        query, key, value = _heads(pixels, 3)
        h = F.scaled_dot_product_attention(query, key, value)
        text_key, text_value = _heads(self.kv_cond(self.norm_cond(text)), 2)
        h = h + F.scaled_dot_product_attention(query, text_key, text_value)
        h = h.transpose(1, 2).reshape(rows, height * width, channels).transpose(1, 2)
        x = x + self.proj_out(h.reshape(rows, channels, height, width))
        return x if self.ffn is None else x + self.ffn(x)


def _heads(x: torch.Tensor, parts: int) -> list[torch.Tensor]:
    """`(B, N, parts*C)` to `parts` tensors `(B, heads, N, d)`."""
    split = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in x.chunk(parts, dim=-1)]
    return split


class Stage(nn.Module):
    """The blocks of one resolution on one way, and the change of resolution after them."""

    def __init__(
        self,
        inputs: Sequence[int],
        channels: int,
        embedding: int,
        groups: int,
        *,
        attention: int,
        text: int,
        feed_forward: bool,
        resample: int,
    ):
        super().__init__()
        self.resnets = nn.ModuleList(ResNet(n, channels, embedding, groups) for n in inputs)
        self.attn = nn.ModuleList(
            Attention(channels, text, feed_forward=feed_forward)
            for _ in range(attention * len(inputs))
        )
        self.layers, self.direction = attention, resample
        if resample:
            stride = 2 if resample < 0 else 1
            self.resample = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def block(self, index: int, x, embedding, text) -> torch.Tensor:
        x = self.resnets[index](x, embedding)
        for layer in self.attn[index * self.layers : (index + 1) * self.layers]:
            x = layer(x, text)
        return x

    def resampled(self, x: torch.Tensor) -> torch.Tensor:
        if self.direction > 0:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.resample(x)


class UNet(nn.Module):
    """A level, with the levels inside it.

    Args:
        config: fields as in the authors' YAML files.
        text_width: width of the text before its projection.
    """

    def __init__(self, config: Mapping[str, Any], text_width: int):
        super().__init__()
        channels = list(config["resolution_channels"])
        blocks = list(config["num_resnets_per_resolution"])
        count = len(channels)
        inner = config.get("inner_config")
        embedding = config["temporal_dim"]
        options = config["resnet_config"]
        groups, feed_forward = options["num_groups_norm"], options["use_attention_ffn"]
        self.embedding = embedding
        self.normalize = bool(inner) and not config["skip_normalization"]
        self.temb_layer1 = nn.Linear(embedding // 4, embedding)
        self.temb_layer2 = nn.Linear(embedding, embedding)
        projection = config["conditioning_feature_proj_dim"]
        width = projection if projection > 0 else text_width
        if not config["skip_cond_emb"]:
            self.cond_emb = nn.Linear(width, embedding, bias=False)
        self.defaults = {
            name: float(value)
            for name, value in (
                pair.split(":") for pair in (config["micro_conditioning"] or "").split(",") if pair
            )
        }
        self.cond_layers = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    [nn.Linear(embedding // 4, embedding), nn.Linear(embedding, embedding)]
                )
                for name in self.defaults
            }
        )
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.norm_out = norm(groups, channels[0])
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)
        layers = [
            number if index in config["attention_levels"] else 0
            for index, number in enumerate(config["num_attention_layers"])
        ]
        skips, x, down = [channels[0]], channels[0], []
        shared = {"text": width, "feed_forward": feed_forward}
        for i in range(count):
            inputs = [x] + [channels[i]] * (blocks[i] - 1)
            last = i == count - 1
            stage = Stage(
                *(inputs, channels[i], embedding, groups),
                attention=layers[i],
                resample=0 if last else -1,
                **shared,
            )
            down.append(stage)
            x = channels[i]
            skips += [x] * (blocks[i] + (not last))
        up = []
        for i in reversed(range(count)):
            inputs = []
            for _ in range(blocks[i] + 1):
                inputs.append(x + skips.pop())
                x = channels[i]
            stage = Stage(
                *(inputs, x, embedding, groups), attention=layers[i], resample=int(i > 0), **shared
            )
            up.append(stage)
        self.down_blocks, self.up_blocks = nn.ModuleList(down), nn.ModuleList(up)
        if not config["skip_mid_blocks"]:
            middle = ([channels[-1]], channels[-1], embedding, groups)
            self.mid_blocks = nn.ModuleList(
                Stage(*middle, attention=number, resample=0, **shared) for number in (1, 0)
            )
        if projection > 0 and not config["skip_cond_emb"]:
            self.lm_proj = nn.Linear(text_width, projection)
        self.inner_unet = None
        if inner:
            self.inner_unet = UNet(inner, text_width)
            wide, narrow = channels[-1], inner["resolution_channels"][0]
            self.in_adapter = nn.Conv2d(wide, narrow, 3, padding=1)
            self.out_adapter = nn.Conv2d(narrow, wide, 3, padding=1)

    @property
    def innermost(self) -> "UNet":
        return self if self.inner_unet is None else self.inner_unet.innermost

    def forward(
        self,
        xs: Sequence[torch.Tensor],
        time: torch.Tensor,
        text: torch.Tensor,
        mask: torch.Tensor,
        micro: Mapping[str, torch.Tensor],
    ) -> list[torch.Tensor]:
        """Predictions `(B, 3, H, W)` float32, highest level first, like the inputs.

        Args:
            xs: noisy pictures `(B, 3, H, W)`, highest level first.
            time: `(B,)`, the step 0..N-1.
            text: `(B, L, D)`.
            mask: `(B, L)` of 0/1: tokens that are averaged; the attention sees all.
            micro: `(B,)` by name; a level's default if left out.
        """
        tokens, condition = self.innermost.encode(text, mask)
        return self.levels(list(xs), time, tokens, condition, micro, None)[0]

    def encode(self, text, mask) -> tuple[torch.Tensor, torch.Tensor]:
        """The text once for all levels: tokens, and what joins the embedding of the time."""
        tokens = self.lm_proj(text) if hasattr(self, "lm_proj") else text
        weights = mask.float()[:, :, None]
        pooled = (weights * tokens.float()).sum(1) / weights.sum(1)
        with torch.autocast(pooled.device.type, enabled=False):
            return tokens, self.cond_emb(pooled)

    def embed(self, time, condition, micro) -> torch.Tensor:
        """In float32 under any precision: bfloat16 cannot tell step 999 from 1000."""
        with torch.autocast(time.device.type, enabled=False):
            e = self.temb_layer2(F.silu(self.temb_layer1(sinusoid(time, self.embedding // 4))))
            e = e + condition
            for name, (first, second) in self.cond_layers.items():
                default = self.defaults[name]
                value = micro.get(name, torch.full_like(time, default))
                if name == "scale":
                    value = (value / default).clamp(max=1.0) * default
                else:
                    value = 1000.0 * value
                e = e + second(F.silu(first(sinusoid(value, self.embedding // 4))))
            return e

    def levels(self, xs, time, text, condition, micro, features):
        """(predictions of this level and those inside, features for the level outside)."""
        embedding = self.embed(time, condition, micro)
        x = xs[0]
        if self.normalize:
            x = x / x.std(dim=(1, 2, 3), keepdim=True)
        x = self.conv_in(x)
        x = x if features is None else x + features
        skips = [x]
        for stage in self.down_blocks:
            for index in range(len(stage.resnets)):
                x = stage.block(index, x, embedding, text)
                skips.append(x)
            if stage.direction:
                x = stage.resampled(x)
                skips.append(x)
        lower = []
        if self.inner_unet is not None:
            lower, y = self.inner_unet.levels(
                xs[1:], time, text, condition, micro, self.in_adapter(x)
            )
            x = x + self.out_adapter(y)
        for stage in getattr(self, "mid_blocks", ()):
            x = stage.block(0, x, embedding, text)
        for stage in self.up_blocks:
            for index in range(len(stage.resnets)):
                x = stage.block(index, torch.cat([x, skips.pop()], dim=1), embedding, text)
            if stage.direction:
                x = stage.resampled(x)
        with torch.autocast(x.device.type, enabled=False):
            out = self.conv_out(F.silu(self.norm_out(x.float())))
        return [out, *lower], x

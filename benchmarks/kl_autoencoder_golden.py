"""Write tests/golden/kl_autoencoder.npz: a tiny KL autoencoder of latent diffusion in PyTorch.

    pip install torch
    python benchmarks/kl_autoencoder_golden.py

Written from the published description (Rombach et al. 2022, appendix G) with the names of the
published files. The file holds keys and shapes, a picture, the moments of its posterior and what is
decoded from their mean; weights follow from the keys (`values_of`), as in the tests.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "kl_autoencoder.npz"
WIDTH, MULTIPLIERS, BLOCKS, CODES, ATTENTION = 32, (1, 2, 2), 2, 3, (1,)


def values_of(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values that depend on the key alone; the generator is frozen by NumPy."""
    drawn = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    inputs = np.prod(shape[1:]) if len(shape) > 1 else 25.0
    around = 1.0 if "norm" in key and key.endswith("weight") else 0.0
    return (around + drawn / np.sqrt(inputs)).astype("float32")


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Block(nn.Module):
    def __init__(self, arrive: int, leave: int):
        super().__init__()
        self.norm1, self.conv1 = norm(arrive), nn.Conv2d(arrive, leave, 3, padding=1)
        self.norm2, self.conv2 = norm(leave), nn.Conv2d(leave, leave, 3, padding=1)
        if arrive != leave:
            self.nin_shortcut = nn.Conv2d(arrive, leave, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.proj_out(found.transpose(1, 2).reshape(x.shape))


class Down(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Middle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1, self.attn_1 = Block(channels, channels), Attention(channels)
        self.block_2 = Block(channels, channels)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Resolution(nn.Module):
    def __init__(self, arrive: int, leave: int, blocks: int, attends: bool):
        super().__init__()
        self.block = nn.ModuleList(Block(leave if n else arrive, leave) for n in range(blocks))
        self.attn = nn.ModuleList(Attention(leave) for _ in range(blocks if attends else 0))

    def forward(self, x):
        for number, block in enumerate(self.block):
            x = block(x)
            x = self.attn[number](x) if len(self.attn) else x
        for name in ("downsample", "upsample"):
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [WIDTH * multiplier for multiplier in MULTIPLIERS]
        self.conv_in = nn.Conv2d(3, WIDTH, 3, padding=1)
        arrive = [WIDTH, *widths[:-1]]
        self.down = nn.ModuleList(
            Resolution(a, b, BLOCKS, n in ATTENTION)
            for n, (a, b) in enumerate(zip(arrive, widths, strict=True))
        )
        for resolution, width in zip(self.down[:-1], widths[:-1], strict=True):
            resolution.downsample = Down(width)
        self.mid = Middle(widths[-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * CODES, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for resolution in self.down:
            x = resolution(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [WIDTH * multiplier for multiplier in MULTIPLIERS]
        self.conv_in = nn.Conv2d(CODES, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        arrive = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Resolution(a, b, BLOCKS + 1, n in ATTENTION)
            for n, (a, b) in enumerate(zip(arrive, widths, strict=True))
        )
        for resolution, width in zip(self.up[1:], widths[1:], strict=True):
            resolution.upsample = Up(width)
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x):
        x = self.mid(self.conv_in(x))
        for resolution in reversed(self.up):
            x = resolution(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        self.quant_conv = nn.Conv2d(2 * CODES, 2 * CODES, 1)
        self.post_quant_conv = nn.Conv2d(CODES, CODES, 1)


def main() -> None:
    model = Autoencoder().eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(values_of(key, s)) for key, s in shapes.items()})
    picture = np.random.RandomState(0).uniform(-1.0, 1.0, (2, 3, 16, 24)).astype("float32")
    model.double()  # the reference: rounding is ours
    with torch.no_grad():
        moments = model.quant_conv(model.encoder(torch.tensor(picture).double()))
        decoded = model.decoder(model.post_quant_conv(moments[:, :CODES]))
    arrays = {"picture": picture, "moments": moments.numpy(), "decoded": decoded.numpy()}
    arrays["shapes"] = np.frombuffer(json.dumps(shapes).encode(), np.uint8)
    np.savez_compressed(TARGET, **arrays)
    print(TARGET, TARGET.stat().st_size, "bytes, torch", torch.__version__)


if __name__ == "__main__":
    main()

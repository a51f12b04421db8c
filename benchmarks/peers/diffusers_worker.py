"""A UNet of `diffusers` with nearly the arithmetic of released_64, timed like `torch_worker.py`.

It is another network: cross attention apart from self attention, three more residual blocks on the
way up, and feed-forward layers with gates. So its arithmetic is counted, and compared is the time
of a GFLOP. Needs PyTorch and `diffusers`, and never sees TensorFlow.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
import protocol

from peers import torch_worker

# Blocks with attention, and transformer layers in each, lowest to highest resolution last.
ATTENTION, TRANSFORMERS = (False, True, True), (1, 1, 2)


class Network(torch.nn.Module):
    """The UNet, called like that of `torch_network`: one level, no micro-conditions."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        if config["inner_config"] or len(config["resolution_channels"]) != len(ATTENTION):
            raise ValueError("`diffusers` is compared on released_64 alone; pass --models")
        down, up = (
            [f"{'CrossAttn' if attends else ''}{name}Block2D" for attends in ATTENTION]
            for name in ("Down", "Up")
        )
        self.unet = UNet2DConditionModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=tuple(config["resolution_channels"]),
            layers_per_block=config["num_resnets_per_resolution"][0],
            down_block_types=tuple(down),
            up_block_types=tuple(reversed(up)),
            transformer_layers_per_block=TRANSFORMERS,
            cross_attention_dim=config["conditioning_feature_dim"],
            attention_head_dim=8,  # the number of heads, by this name
            norm_num_groups=config["resnet_config"]["num_groups_norm"],
        )

    def forward(self, xs, time, text, mask, micro) -> list[torch.Tensor]:
        (x,) = xs
        return [self.unet(x, time, text, encoder_attention_mask=mask).sample]


def gflop(case: Mapping[str, Any]) -> float:
    """Arithmetic of one pass for one picture, counted on a network without memory."""
    with torch.device("meta"), FlopCounterMode(display=False) as counted, torch.no_grad():
        (size,) = case["sizes"]
        text = torch.zeros(1, case["text_tokens"], case["text_width"])
        mask = torch.ones(1, case["text_tokens"])
        Network(case["config"])([torch.zeros(1, 3, size, size)], torch.zeros(1), text, mask, {})
    return counted.get_total_flops() / 1e9


def prepare(case: dict[str, Any]) -> tuple[Callable[[], object], Callable[[], object]]:
    step, product = torch_worker.prepare(case, Network)
    step.gflop = gflop(case)
    return step, product


if __name__ == "__main__":
    protocol.serve(prepare)

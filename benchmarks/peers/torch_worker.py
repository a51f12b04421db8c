"""The peer in a process of its own, which needs PyTorch and NumPy and never sees TensorFlow.

Started by `contenders.py` to be timed. By hand, it computes the outputs of stored weights:

    python benchmarks/peers/torch_worker.py --outputs CASE.npz RESULT.npz
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import protocol

from peers import torch_network

DTYPES = {"float32": torch.float32, "mixed_bfloat16": torch.bfloat16}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Computed in float32 in any precision, as in ours.
FLOAT32 = ("temb_layer", "cond_emb", "cond_layers", "conv_out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--outputs", nargs=2, type=Path, metavar=("CASE", "RESULT"))
    args = parser.parse_args()
    if args.outputs:
        np.savez(args.outputs[1], **outputs(np.load(args.outputs[0])))
    else:
        protocol.serve(prepare)


def outputs(stored: Any) -> dict[str, np.ndarray]:
    """Predictions by index, highest level first.

    Args:
        stored: arrays `weight/<key>`, `x/<index>` (B, 3, H, W), `time`, `text`, `text_mask`,
            `micro/<name>`, and `config` as JSON text.
    """

    def group(prefix: str) -> dict[str, torch.Tensor]:
        keys = [key for key in stored if key.startswith(prefix)]
        return {key.removeprefix(prefix): torch.from_numpy(stored[key]) for key in keys}

    network = torch_network.build(json.loads(str(stored["config"])))
    network.load_state_dict(group("weight/"))
    pictures = group("x/")
    xs = [pictures[str(index)] for index in range(len(pictures))]
    given = [torch.from_numpy(stored[key]) for key in ("time", "text", "text_mask")]
    with torch.inference_mode():
        found = network(xs, *given, group("micro/"))
    return {str(index): value.numpy() for index, value in enumerate(found)}


def prepare(
    case: dict[str, Any], build: Callable[[Any], torch.nn.Module] = torch_network.build
) -> tuple[Callable[[], object], Callable[[], object]]:
    """(a step, a matrix product) of a case of `step.py`, with random weights.

    Args:
        case: what the contender was told.
        build: function (configuration) -> network, called like that of `torch_network`.
    """
    torch.manual_seed(0)
    torch.set_num_threads(protocol.cores())
    dtype = DTYPES[case["dtype"]]
    network = build(case["config"])
    with torch.no_grad():
        for weight in network.parameters():  # zeros would be no arithmetic for some kernels
            weight.add_(0.01 * torch.randn_like(weight))
    if case["layout"] == "channels_last":
        network = network.to(memory_format=torch.channels_last)
    network = network.to(DEVICE)
    if DEVICE == "cuda":  # as TensorFlow does
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    make = training_step if case["mode"] == "train" else sampling_step
    step = make(network, case, dtype)
    if DEVICE == "cuda":
        step.device, step.memory = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated
    square = torch.randn(case["matmul_size"], case["matmul_size"]).to(DEVICE, dtype)
    return step, lambda: float((square @ square).max())


def inputs_of(case: dict[str, Any]) -> tuple[list[torch.Tensor], tuple]:
    rows, layout = case["batch"], getattr(torch, case["layout"])
    pictures = [
        torch.randn(rows, 3, size, size, device=DEVICE).contiguous(memory_format=layout)
        for size in reversed(case["sizes"])
    ]
    text = torch.randn(rows, case["text_tokens"], case["text_width"], device=DEVICE)
    mask = torch.ones(rows, case["text_tokens"], device=DEVICE)
    time = torch.full((rows,), 500.0, device=DEVICE)
    scale = torch.full((rows,), float(case["sizes"][-1]), device=DEVICE)
    return pictures, (time, text, mask, {"scale": scale})


def sampling_step(network, case: dict[str, Any], dtype) -> Callable[[], object]:
    """One pass without gradients. In bfloat16 the weights are cast once, not in every pass."""
    network.eval()
    if dtype != torch.float32:
        for name, module in network.named_modules():
            wide = any(part.startswith(FLOAT32) for part in name.split("."))
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not wide:
                module.to(dtype)
    called = torch.compile(network) if case["compile"] else network
    pictures, given = inputs_of(case)

    def step() -> float:
        with torch.inference_mode(), precision(dtype):
            return sum(float(out.float().flatten()[0]) for out in called(pictures, *given))

    return step


def training_step(network, case: dict[str, Any], dtype) -> Callable[[], object]:
    """Gradients, clipping and Adam, without moving averages."""
    called = torch.compile(network) if case["compile"] else network
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, betas=(0.9, 0.99), fused=True)
    pictures, given = inputs_of(case)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with precision(dtype):
            found = called(pictures, *given)
        pairs = zip(found, pictures, strict=True)
        loss = sum((out.float() - x).square().mean() for out, x in pairs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        return float(loss.detach())

    return step


def precision(dtype):
    return torch.autocast(DEVICE, torch.bfloat16, enabled=dtype != torch.float32)


if __name__ == "__main__":
    main()

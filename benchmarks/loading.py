"""Time and memory of loading large files: the 1024 checkpoint, and a FLAN-T5-XL encoder.

    python benchmarks/loading.py                 # writes about 7 GB to a temporary directory
    python benchmarks/loading.py --only encoder

The files have the real sizes and hold random values. Every measurement runs in a separate process,
so that its peak memory is its own; the first row is a process that only imports. Needs Linux.
"""

import argparse
import gzip
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
XL = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 2048,
    "d_kv": 64,
    "num_heads": 32,
    "d_ff": 5120,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}
SENTENCES = ["a panda playing guitar in a garden", "the quick brown fox jumps over the lazy dog"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("checkpoint", "encoder"))
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        measure(*args.task)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tasks = [("import only", ["nothing", scratch])]
        if args.only != "encoder":
            write_checkpoint(folder)
            tasks += [(f"load_ml_mdm, 1024 network, {size(folder)}", ["checkpoint", scratch])]
            tasks += [("keras-mdm import of the same", ["command", scratch])]
        if args.only != "checkpoint":
            weights = folder / "flan-t5-xl"
            write_encoder(weights)
            for dtype in ("float32", "bfloat16"):
                label = f"FlanT5 of XL's size, {dtype}, load and encode 2 prompts, {size(weights)}"
                tasks.append((label, [dtype, str(weights)]))
        print("| what | seconds | peak GB |")
        print("|---|---|---|")
        for label, task in tasks:
            command = [sys.executable, __file__, "--task", *task]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(f"| {label} | {done.stdout.splitlines()[-1]} |", flush=True)


def size(folder: Path) -> str:
    """Size of the files in a folder."""
    total = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return f"{total / 1e9:.2f} GB"


def measure(task: str, folder: str) -> None:
    """Run a task and print its seconds without imports, and the peak memory of this process."""
    import keras_mdm  # noqa: F401

    work = prepare(task, Path(folder))
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    print(f"{seconds:.1f} | {peak():.2f}")


def peak() -> float:
    """Peak memory of this process in GB. (`ru_maxrss` would count the parent's memory.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError("the kernel does not say")


def prepare(task: str, folder: Path) -> Callable[[], object]:
    """Import what a task needs and return the part that is timed."""
    from keras_mdm import interop, text
    from keras_mdm.cli.main import main as command

    weights, config = str(folder / "x.pth"), str(folder / "x.yaml")
    if task == "nothing":
        return lambda: None
    if task == "checkpoint":
        return lambda: interop.load_ml_mdm(weights, config=config, size=1024)
    if task == "command":
        return lambda: command(["import", weights, config, str(folder / "x.keras")])

    def encode() -> None:
        encoder = text.FlanT5(folder, dtype=task, cache_dir=folder / "cache")
        encoder.encode(["a panda playing guitar", ""])

    return encode


def write_checkpoint(folder: Path) -> None:
    """A checkpoint with the tensors of the released 1024 model, and its configuration."""
    import yaml
    from golden_cases.released import released_config

    from keras_mdm.interop.torch_writer import write_state_dict

    keys = json.loads(gzip.decompress((GOLDEN / "state_dict_1024.json.gz").read_bytes()))["keys"]
    draw = np.random.default_rng(0).standard_normal
    state = {key: draw(shape, dtype="f4") * np.float32(0.02) for key, shape in keys}
    write_state_dict(state, folder / "x.pth")
    sampler = {
        "num_diffusion_steps": 1000,
        "schedule_type": "DEEPFLOYD",
        "prediction_type": "V_PREDICTION",
        "loss_target_type": "DDPM",
        "schedule_shifted": True,
        "schedule_shifted_power": 2,
    }
    flags = {"use_vdm_loss_weights": False, "use_double_loss": True, "no_use_residual": True}
    whole = {
        "model": "nested2_unet",
        "unet_config": released_config(1024),
        "reader_config": {"image_size": 1024},
        "diffusion_config": {"sampler_config": sampler, **flags},
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(whole))


def write_encoder(folder: Path) -> None:
    """A folder like that of flan-t5-xl: two float32 shards, tensors one after the other."""
    import io

    import sentencepiece

    from keras_mdm.text.t5_network import T5Config, tensor_shapes

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(XL))
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=written,
        vocab_size=35,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(written.getvalue())
    shapes = list(tensor_shapes(T5Config.from_json(XL)).items())
    half, places, draw = len(shapes) // 2, {}, np.random.default_rng(0).standard_normal
    for number, part in enumerate((shapes[:half], shapes[half:]), 1):
        name, header, end = f"model-{number:05}-of-00002.safetensors", {}, 0
        for key, shape in part:
            begin, end = end, end + 4 * int(np.prod(shape))
            header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
            places[key] = name
        encoded = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            for _, shape in part:
                (draw(shape, dtype="f4") * np.float32(0.02)).tofile(file)
    index = json.dumps({"weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index)


if __name__ == "__main__":
    main()

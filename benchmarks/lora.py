"""Memory of fine-tuning `released_64` with LoRA: the process after every stage, one picture a step.

    python benchmarks/lora.py
    python benchmarks/lora.py --recompute --rank 8

Resident memory in GB of 1e9, on Linux. Beyond `keras_mdm.costs.estimate` come TensorFlow itself,
the graph of the step and the kernels made for it.
"""

import argparse
import ctypes
import gc
import re
from pathlib import Path

import numpy as np
import tensorflow as tf

import keras_mdm as mdm
from keras_mdm.models import presets
from keras_mdm.tracing import free_what_is_gone

STEPS = 3


def resident(key: str) -> float:
    """A field of this process's status in GB."""
    kib = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    return int(kib) * 1024 / 1e9


def say(stage: str) -> None:
    """Print resident memory now and its peak so far."""
    print(f"{stage:24s} {resident('VmRSS'):5.2f} GB, peak {resident('VmHWM'):5.2f}", flush=True)


def main() -> None:
    """Build, adapt, train, and free."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recompute", action="store_true", help="recompute activations")
    parser.add_argument("--rank", type=int, default=8, help="rank of the additions")
    arguments = parser.parse_args()
    say("TensorFlow")
    unet = presets.build("released_64")
    say("network")
    model = mdm.MatryoshkaDiffusion(unet)
    say("averages")
    model.enable_lora(arguments.rank)
    model.compile(optimizer=mdm.optimizers.Adam(1e-4), recompute=arguments.recompute)
    say("LoRA and its moments")
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.uniform(-1, 1, (1, 64, 64, 3)).astype("float32"),
        "text": rng.normal(size=(1, 32, 2048)).astype("float32"),
        "text_mask": np.ones((1, 32), bool),
    }
    data = tf.data.Dataset.from_tensors(batch).repeat(STEPS)
    model.fit(data, epochs=1, verbose=0)
    say(f"{STEPS} steps")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    say("activations freed")
    model.train_function = None
    free_what_is_gone()
    ctypes.CDLL(None).malloc_trim(0)
    say("graph and kernels freed")


if __name__ == "__main__":
    main()

"""Compare settings of sampling on the model of the emoji recipe.

    python benchmarks/demo_sampling.py runs/demo

Draws random training prompts with several settings and prints two figures per level: the share
whose nearest training drawings include the requested one; and the grain, which is the mean absolute
difference of neighbouring pixels in grey levels, beside that of the drawings themselves.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np

import keras_mdm as mdm

BASE = {"sampler": "ddpm", "steps": 25, "guidance_scale": 3.0}
SETTINGS = {
    "recipe": {},
    "guidance 3 at 16 only": {"guidance_scale": {"16": 3.0, "64": 1.0}},
    "dynamic threshold": {"threshold": "dynamic"},
    "50 steps": {"steps": 50},
    "guidance 1": {"guidance_scale": 1.0},
    "guidance 5": {"guidance_scale": 5.0},
    "DDIM": {"sampler": "ddim"},
}


def grain(images: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels, in grey levels."""
    return float(np.abs(np.diff(images.astype("float32"), axis=2)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    args = parser.parse_args()
    model = keras.saving.load_model(args.run_dir / "model.keras")
    data = mdm.data.load_emoji((16, 64), concepts="simple", split="train")
    rows = np.random.default_rng(args.seed).permutation(len(data))[: args.prompts]
    prompts = [data.captions[row] for row in rows]
    real = {level: grain(data.images[int(level)][rows]) for level in model.unet.levels}
    print(f"{len(rows)} prompts of {len(data)}; grain of the drawings: {real}")
    print(f"{'setting':20} {'level':>5} {'top 1':>6} {'top 5':>6} {'grain':>6} {'seconds':>8}")
    for name in args.settings:
        began = time.perf_counter()
        images = model.generate(
            prompts, seed=args.seed, batch_size=64, progress=False, **{**BASE, **SETTINGS[name]}
        )
        seconds = time.perf_counter() - began
        for level in model.unet.levels:
            found = mdm.evaluation.retrieval.retrieval(
                images[level], rows, data.images[64], range(len(data))
            )
            print(
                f"{name:20} {level:>5} {found.share[1]:6.2f} {found.share[5]:6.2f} "
                f"{grain(images[level]):6.1f} {seconds:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

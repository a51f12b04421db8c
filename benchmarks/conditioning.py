"""How well frames follow from given ones: every second frame of held-out clips is filled in.

    python recipes/webvid_video.py                       # the model
    python benchmarks/conditioning.py runs/webvid_video/model.keras

Errors are root mean squares in grey levels, over the frames that were not given, against the true
ones. Holding repeats the previous given frame; blending averages the given frames on both sides.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np

import keras_mdm as mdm

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a model that webvid_video.py has trained")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 2.0, 8.0, 30.0])
    arguments = parser.parse_args()
    from step import machine

    model = keras.saving.load_model(arguments.model)
    top = mdm.diffusion.LevelShape.parse(model.unet.levels[-1])
    sizes = sorted({mdm.diffusion.LevelShape.parse(name).size for name in model.unet.levels})
    data = mdm.data.load_moving_emoji(sizes, frames=top.frames, split="validation")
    rows = np.random.default_rng(0).permutation(len(data))[: arguments.clips]
    clips, prompts = data.clips[top.size][rows], [data.captions[row] for row in rows]
    given, missing = clips[:, ::2], clips[:, 1::2].astype(float)
    after = np.concatenate([given[:, 1:], given[:, -1:]], axis=1)

    def error(frames: np.ndarray) -> float:
        return float(np.sqrt(np.mean((frames - missing) ** 2)))

    table = {"holding": error(given), "blending": error((given + after.astype(float)) / 2)}
    for name, value in table.items():
        print(f"{name:>16} {value:6.1f}")
    for weight in arguments.weights:
        begun = time.perf_counter()
        made = mdm.video.interpolate(
            model,
            given,
            prompts,
            sampler="dpmpp_2m",
            steps=12,
            guidance_scale=1.0,
            reconstruction=weight,
            progress=False,
        )
        found = error(made[top.name][:, 1::2])
        table[f"weight {weight:g}"] = found
        print(f"{f'weight {weight:g}':>16} {found:6.1f}  {time.perf_counter() - begun:5.0f} s")
    result = {"machine": machine(), "clips": len(rows), "errors": table}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "conditioning.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

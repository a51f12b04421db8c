"""One training step of the last phase of every paper-scale recipe, at full size and batch 1.

    python benchmarks/paper_steps.py --data FOLDER      # any folder of pictures

Networks, process, optimizer and data pipeline are those of the recipes. Each case runs in a
separate process, in bfloat16, so that its peak memory is its own.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
sys.path.append(str(Path(__file__).parents[1] / "recipes"))
CASES = {
    "imagenet_256": ("imagenet_256", None),
    "cc12m_256": ("cc12m_256", 2),
    "cc12m_256 --levels 3": ("cc12m_256", 3),
    "cc12m_1024": ("cc12m_1024", 3),
    "cc12m_1024 --levels 5": ("cc12m_1024", 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder of pictures")
    parser.add_argument("--case", choices=CASES, help="one of them, in this process")
    parser.add_argument("--recompute", nargs="*", default=[], help="levels to recompute")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(step(arguments.case, arguments.data, arguments.recompute)))
        return
    from step import machine

    rows = {}
    for name in CASES:
        words = [sys.executable, __file__, "--data", arguments.data, "--case", name]
        words += ["--recompute", *arguments.recompute]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            rows[name] = {"failed": done.returncode}  # -9: out of memory
        else:
            rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, rows[name], flush=True)
    RESULTS.mkdir(exist_ok=True)
    result = {"machine": machine(), "recompute": arguments.recompute, "steps": rows}
    (RESULTS / "paper_steps.json").write_text(json.dumps(result, indent=1) + "\n")


def step(name: str, data: str, recompute: list[str]) -> dict:
    """Train one step after one that traces; return seconds, loss and peak memory."""
    import importlib

    import keras
    import numpy as np

    import keras_mdm as mdm

    module, levels = CASES[name]
    recipe = importlib.import_module(module)
    scale = recipe.PAPER if levels is None else recipe.paper(levels)
    keras.config.set_dtype_policy("mixed_bfloat16")
    phase = dataclasses.replace(scale.phases[-1], batch_size=1, steps=2, mixed=False)
    condition = {"num_classes": 1000} if levels is None else {"text_width": 2048, **scale.network}
    unet = mdm.build_nested_unet(phase.levels, **condition)
    rng = np.random.default_rng(0)
    encoder = None
    if levels is not None:  # random states of FLAN-T5 XL's width
        encoder = mdm.text.FunctionEncoder(
            lambda texts: (
                rng.normal(size=(len(texts), 128, 2048)).astype("float32"),
                np.ones((len(texts), 128), "float32"),
            ),
            length=128,
            name="random states",
        )
    model = mdm.MatryoshkaDiffusion(unet, text_encoder=encoder, **scale.process)
    optimizer = mdm.optimizers.Adam(phase.learning_rate_schedule(), clip_norm=2.0)
    kept = [level for level in recompute if level in phase.level_names]
    model.compile(optimizer, recompute=kept)
    batches = mdm.data.image_dataset(
        mdm.data.open_images(data),
        mdm.data.ImageRule(int(phase.level_names[-1])),
        batch_size=1,
        seed=0,
        encoder=encoder,
        labels=levels is None,
    )
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        logs = model.fit(batches, steps_per_epoch=1, verbose=0).history
        seconds.append(round(time.perf_counter() - begun, 1))
    return {
        "levels": phase.level_names,
        "parameters": int(unet.count_params()),
        "loss": round(float(logs["loss"][0]), 3),
        "traced_step_s": seconds[0],
        "step_s": seconds[1],
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1),
    }


if __name__ == "__main__":
    main()

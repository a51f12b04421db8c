"""Previews and cuts: how good is the low level of a model without the levels above it?

    python benchmarks/previews.py --run-dir runs/previews

Trains the same two-level model of the emoji recipe with and without mixed resolutions, from a
common first phase, and draws the low level in three ways: with the whole model, with `stop_at`, and
with the smaller model from `cut`. Prints the kernel inception distance (EfficientNet-Lite0
features, times 1000, with its standard error) from the training drawings.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import json
import shutil
import sys
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_mdm as mdm
from keras_mdm.evaluation import EfficientNetLite0, kernel_distance, real_floor

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "recipes"))

from emoji_three_levels import SCALE  # noqa: E402
from shared.drawings import Drawings  # noqa: E402

LOW, HIGH = "16", "32"
GUIDANCE = 3.0
# Without that recipe's stratified times and further averages.
PROCESS = {name: SCALE.process[name] for name in ("residual", "shift_power", "threshold")}
PROCESS["ema_decay"] = SCALE.process["ema_decay"]


def phases(steps: int, scale: float, mixed: bool) -> list[mdm.Phase]:
    first, second, _ = SCALE.phases
    return [
        dataclasses.replace(first, steps=round(first.steps * scale)),
        dataclasses.replace(second, steps=steps, level_weights=None, mixed=mixed),
    ]


def train(
    run_dir: Path, plan: list[mdm.Phase], drawings: Drawings, encoder
) -> mdm.MatryoshkaDiffusion:
    def make_model(phase: mdm.Phase) -> mdm.MatryoshkaDiffusion:
        unet = mdm.build_nested_unet(phase.levels, text_width=encoder.width, text_blocks=0)
        shares = dict.fromkeys(phase.level_names[1:], 0.0)
        model = mdm.MatryoshkaDiffusion(
            unet, text_encoder=encoder, guidance_shares=shares, **PROCESS
        )
        model.compile(mdm.optimizers.Adam(phase.learning_rate_schedule(), clip_norm=2.0))
        return model

    return mdm.fit_progressively(
        plan,
        make_model,
        drawings.datasets(),
        run_dir=run_dir,
        data=drawings.identity,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/previews"))
    parser.add_argument("--steps", type=int, default=700, help="of the second phase")
    parser.add_argument("--first-scale", type=float, default=1.0, help="factor on the first phase")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/previews.json")
    args = parser.parse_args()
    keras.config.set_dtype_policy("mixed_bfloat16")
    encoder, features = mdm.text.MiniLM(length=16), EfficientNetLite0()
    given = argparse.Namespace(data=None, seed=0)
    drawings = Drawings(given, (LOW, HIGH), encoder, PROCESS)
    data = drawings.source
    real = features(data.images[16])
    rows = np.random.default_rng(0).permutation(np.arange(args.images) % len(data))
    text, mask = mdm.text.encode_cached(encoder, [data.captions[row] for row in rows])
    options = {"steps": 25, "guidance_scale": GUIDANCE, "batch_size": 64}
    found, floor = {}, real_floor(real)
    for name, mixed in (("with mixing", True), ("without mixing", False)):
        run_dir = args.run_dir / name.replace(" ", "-")
        other = args.run_dir / "with-mixing"
        if not mixed and not run_dir.exists():  # both continue from the same first phase
            shutil.copytree(other / "checkpoints/phase-1", run_dir / "checkpoints/phase-1")
        model = train(run_dir, phases(args.steps, args.first_scale, mixed), drawings, encoder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # their subject is measured here
            smaller = model.cut(LOW)
            conditions = {"text": text, "text_mask": mask}
            drawn = {
                "whole model": model.generate(conditions, **options)[LOW],
                "preview (stop_at)": model.generate(conditions, stop_at=LOW, **options)[LOW],
                "cut": smaller.generate(conditions, **options)[LOW],
            }
        found[name] = {way: kernel_distance(real, features(x)) for way, x in drawn.items()}
    ways = list(next(iter(found.values())))
    print(
        f"\nlevel {LOW} of {LOW} and {HIGH}, {args.images} pictures, 25 steps of DDIM, guidance "
        f"{GUIDANCE:g}; one half of the drawings against the other: {floor}\n"
    )
    print(f"| second phase | {' | '.join(ways)} |\n|{'---|' * (len(ways) + 1)}")
    for name, row in found.items():
        print(f"| {name} | {' | '.join(str(row[way]) for way in ways)} |")
    record = {
        name: {way: [kid.value, kid.standard_error] for way, kid in row.items()}
        for name, row in found.items()
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"floor": floor.value, **record}, indent=1) + "\n")


if __name__ == "__main__":
    main()

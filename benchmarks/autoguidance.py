"""Guide a model away from its own earlier phase: kernel distance at every level.

    python benchmarks/autoguidance.py runs/demo

The weaker model has the levels of phase 1 as that phase left them, and the other levels as growth
made them: with the residual output they return the Wiener estimate around the picture below. So
guidance at the innermost level leads away from an earlier training, and at the levels above from
the mere enlargement. Compared with no guidance, with classifier-free guidance as the run draws, and
with `--earlier`, a checkpoint of the last phase. All training prompts are drawn once per seed.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import keras_mdm as mdm
from keras_mdm.evaluation import EfficientNetLite0, kernel_distance
from keras_mdm.evaluation.picture_sets import grain_of
from keras_mdm.runs.loading import recorded_sampling

RESULTS = Path(__file__).parent / "results"


def grown(model: Any, phase_1: Any) -> Any:
    """The model as it was when its last levels were added to those of phase 1."""
    weak = type(model).from_config(model.get_config())
    weak.start_from(phase_1)
    for level, deviation in model.residual_std.items():
        weak.residual_std[level].assign(deviation)
    return weak


def settings(model: Any, weak: Any, earlier: Any, scales: list[float]) -> dict[str, dict]:
    """Options of `generate` by name."""
    inner, *others = model.unet.levels
    found: dict[str, dict] = {"as the run draws": {}, "no guidance": {"guidance_scale": 1.0}}
    for scale in scales:
        for name, levels in {
            f"phase 1, at {inner}": [inner],
            f"phase 1, at {' '.join(others)}": others,
            "phase 1, at all levels": model.unet.levels,
        }.items():
            found[f"{name}, {scale:g}"] = {
                "autoguidance": weak,
                "guidance_scale": dict.fromkeys(levels, scale),
            }
        if earlier is not None:
            found[f"earlier checkpoint, {scale:g}"] = {
                "autoguidance": earlier,
                "guidance_scale": scale,
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run_dir", type=Path, help="of a recipe on the embedded drawings")
    parser.add_argument("--earlier", type=Path, help="checkpoint of the same levels")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.25, 1.5, 2.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="default: as the run draws")
    parser.add_argument("--outer-steps", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "autoguidance.json")
    args = parser.parse_args()
    model = mdm.load(args.run_dir / "model.keras")
    levels = model.unet.levels
    weak = grown(model, mdm.load(args.run_dir / "phase-1.keras"))
    earlier = mdm.load(args.earlier) if args.earlier else None
    data = mdm.data.load_emoji(tuple(map(int, levels)), concepts="simple", split="train")
    text, mask = mdm.text.encode_cached(mdm.text.MiniLM(length=16), data.captions)
    features = EfficientNetLite0()
    real = {level: features(data.images[int(level)]) for level in levels}
    given = recorded_sampling(args.run_dir)
    given |= {"steps": args.steps} if args.steps else {}
    given |= {"outer_steps": args.outer_steps} if args.outer_steps else {}
    given |= {"batch_size": 64, "progress": False}
    print(f"{len(data)} prompts, drawn with {given}, seeds {args.seeds}")
    print("| setting |" + "".join(f" KID at {level} | grain |" for level in levels))
    print("|---|" + "---|---|" * len(levels), flush=True)
    rows = []
    for name, options in settings(model, weak, earlier, args.scales).items():
        row: dict[str, Any] = {"setting": name}
        for level in levels:
            row[level] = {"kid": [], "kid_error": [], "grain": []}
        for seed in args.seeds:
            images = model.generate(
                {"text": text, "text_mask": mask}, seed=seed, **{**given, **options}
            )
            for level in levels:
                kid = kernel_distance(real[level], features(images[level]))
                row[level]["kid"].append(1000.0 * kid.value)
                row[level]["kid_error"].append(1000.0 * kid.standard_error)
                row[level]["grain"].append(float(grain_of(images[level]).mean()))
        rows.append(row)
        means = {level: {key: np.mean(row[level][key]) for key in row[level]} for level in levels}
        cells = "".join(
            f" {mean['kid']:.1f} +- {mean['kid_error']:.1f} | {mean['grain']:.1f} |"
            for mean in means.values()
        )
        print(f"| {name} |{cells}", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"drawn": given, "seeds": args.seeds, "rows": rows}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()

"""How many of the steps do outer levels need? Cost and quality of `generate(outer_steps=...)`.

    python benchmarks/outer_steps.py runs/demo --settings 25 10 6 10/3 10/2 10/3-last

A setting is the number of steps, then the steps that compute the outer levels: one number for all
of them, or one for each, ascending (`10/5/3` for a model of three levels). They are spread evenly;
with "-last" they are the last ones, so outer levels join late. Everything else is drawn as the run
draws, unless options say otherwise.

Draws all training prompts once with every setting and seed, the settings in turn for each seed.
Prints the arithmetic of the network relative to the first setting; the processor seconds of a
picture; and for every level the kernel distance (times 1000) from the training drawings, as the
mean over the seeds with the standard error of one seed, with the difference from the first setting
and the grain. The error of a difference is that of its mean over the seeds: they share drawings and
prompts, which decide most of the distance's own error. Writes everything as JSON.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import inspect
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import keras_mdm as mdm
from keras_mdm.costs.describe import count_flop
from keras_mdm.evaluation import EfficientNetLite0, kernel_distance
from keras_mdm.evaluation.picture_sets import grain_of
from keras_mdm.runs.loading import recorded_sampling
from keras_mdm.sampling import generate as drawing
from keras_mdm.sampling.options import Options
from keras_mdm.sampling.request import resolve

RESULTS = Path(__file__).parent / "results"
TOKENS = 16
LAST = "-last"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way of sampling, such as "10/3"."""

    name: str
    steps: int
    outer: tuple[int, ...]
    last: bool

    @classmethod
    def parse(cls, name: str) -> "Setting":
        steps, *outer = map(int, name.removesuffix(LAST).split("/"))
        return cls(name, steps, tuple(outer), name.endswith(LAST))

    def options(self, levels: tuple[str, ...]) -> dict[str, Any]:
        """Options of `generate`."""
        if not self.outer:
            return {"steps": self.steps}
        if len(self.outer) == 1:
            return {"steps": self.steps, "outer_steps": self.outer[0]}
        return {"steps": self.steps, "outer_steps": dict(zip(levels[1:], self.outer, strict=True))}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run_dir", type=Path, help="of a recipe on the embedded drawings")
    parser.add_argument("--settings", nargs="+", type=Setting.parse, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, help="default: every training prompt once")
    parser.add_argument("--sampler")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / "outer_steps.json")
    return parser.parse_args()


def request_of(model: Any, setting: Setting, given: dict[str, Any]) -> Any:
    """The checked request; for "-last" with other steps than those of `generate`."""
    signature = inspect.signature(drawing.generate).parameters
    defaults = {name: each.default for name, each in signature.items() if name != "model"}
    asked = resolve(model, Options(**{**defaults, **given, **setting.options(model.unet.levels)}))
    if not setting.last:
        return asked
    due = {
        level: tf.range(setting.steps) >= setting.steps - tf.reduce_sum(tf.cast(each, tf.int32))
        for level, each in asked.amounts["outer_steps"].items()
    }
    return dataclasses.replace(asked, amounts={**asked.amounts, "outer_steps": due})


def cost_of(asked: Any, levels: tuple[str, ...], flop: dict[str, int]) -> float:
    """Arithmetic of the network in all steps."""
    due = {level: each.numpy() for level, each in asked.amounts["outer_steps"].items()}
    total = 0.0
    for step in range(asked.steps):
        computed = [level for level in levels[1:] if not due or due[level][step]]
        total += flop[computed[-1] if computed else levels[0]]
    return total


def main() -> None:
    args = parse()
    model = mdm.load(args.run_dir / "model.keras")
    levels = model.unet.levels
    flop = {
        level: sum(count_flop(mdm.cut(model.unet, level), TOKENS).values()) for level in levels[:-1]
    }
    flop[levels[-1]] = sum(count_flop(model.unet, TOKENS).values())
    data = mdm.data.load_emoji(tuple(map(int, levels)), concepts="simple", split="train")
    rows = np.random.default_rng(0).permutation(len(data))[: args.images]
    encoder = mdm.text.MiniLM(length=TOKENS)
    text, mask = mdm.text.encode_cached(encoder, [data.captions[row] for row in rows])
    features = EfficientNetLite0()
    real = {level: features(data.images[int(level)]) for level in levels}
    given = recorded_sampling(args.run_dir)
    given |= {"sampler": args.sampler} if args.sampler else {}
    given |= {"guidance_scale": args.guidance} if args.guidance is not None else {}
    given |= {"batch_size": args.batch_size, "progress": False}
    print(f"{len(rows)} of {len(data)} prompts, drawn with {given}; seeds {args.seeds}", flush=True)
    conditions = {"text": text, "text_mask": mask}
    found: dict[str, list[dict]] = {setting.name: [] for setting in args.settings}
    costs = {}
    for seed in args.seeds:
        for setting in args.settings:
            few = {name: value[:2] for name, value in conditions.items()}
            drawing._draw(model, request_of(model, setting, {**given, "prompts": few}))  # traces
            asked = request_of(model, setting, {**given, "prompts": conditions, "seed": seed})
            costs[setting.name] = cost_of(asked, levels, flop)
            began = time.process_time()
            images = drawing._draw(model, asked)
            seconds = (time.process_time() - began) / len(rows)
            record: dict[str, Any] = {"seed": seed, "seconds": seconds}
            for level in levels:
                kid = kernel_distance(real[level], features(images[level]))
                record[level] = {
                    "kid": 1000.0 * kid.value,
                    "kid_error": 1000.0 * kid.standard_error,
                    "grain": float(grain_of(images[level]).mean()),
                }
            found[setting.name].append(record)
            print(json.dumps({"setting": setting.name, **record}), flush=True)
    report(args, found, costs, levels)
    about = {"levels": levels, "flop": flop, "images": len(rows), "drawn": given}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**about, "costs": costs, "settings": found}, indent=1) + "\n")
    print(f"\nwritten to {args.out}")


def report(
    args: argparse.Namespace,
    found: dict[str, list[dict]],
    costs: dict[str, float],
    levels: tuple[str, ...],
) -> None:
    """Print the table."""
    first = args.settings[0].name
    head = "".join(f" KID at {level} | difference | grain |" for level in levels)
    print(f"\n| setting | cost | s |{head}")
    print("|---|---|---|" + "---|---|---|" * len(levels))
    for name, records in found.items():
        line = f"| {name} | {costs[name] / costs[first]:.2f} "
        line += f"| {np.mean([each['seconds'] for each in records]):.3f} |"
        for level in levels:
            kid, error, grain = (
                float(np.mean([each[level][key] for each in records]))
                for key in ("kid", "kid_error", "grain")
            )
            apart = [
                each[level]["kid"] - other[level]["kid"]
                for each, other in zip(records, found[first], strict=True)
            ]
            line += f" {kid:.1f} +- {error:.1f} | "
            if name == first:
                line += "- |"
            elif len(apart) > 1:
                spread = np.std(apart, ddof=1) / np.sqrt(len(apart))
                line += f"{np.mean(apart):+.1f} +- {spread:.1f} |"
            else:
                line += f"{apart[0]:+.1f} |"
            line += f" {grain:.2f} |"
        print(line)


if __name__ == "__main__":
    main()

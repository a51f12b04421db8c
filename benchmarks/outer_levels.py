"""What makes an outer level worth its pixels: variants of the quickstart's second phase, compared.

    python benchmarks/outer_levels.py --phase-1 runs/demo/phase-1.keras --name "no patches" \\
        --outer '{"patch": 1, "channels": [16, 32, 64], "blocks": [1, 1, 1]}'

trains the level of 64 pixels around a trained innermost level, draws, and appends a record with the
kernel distances of the level and of the enlarged level below, grain, retrieval and time to
`--results` (docs/outer-levels.md has the table). Everything not given is the recipe's.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

import keras  # noqa: E402

import emoji_text_to_image as recipe  # noqa: E402
import keras_mdm as mdm  # noqa: E402
from keras_mdm import evaluation  # noqa: E402
from shared import drawings, options, texts, training  # noqa: E402


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--phase-1", help="model of the innermost level, to train around")
    given.add_argument("--model", help="trained model of both levels, only to be measured")
    parser.add_argument("--name", required=True, help="name of the variant in the results")
    parser.add_argument("--outer", type=json.loads, default={}, help="fields of LevelSpec")
    parser.add_argument("--phase", type=json.loads, default={}, help="fields of Phase")
    parser.add_argument("--process", type=json.loads, default={}, help="options of the model")
    parser.add_argument("--sampling", type=json.loads, default={}, help="options of generate")
    parser.add_argument("--optimizer", help="name of another optimizer, such as Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-n", "--count", type=int, default=256, help="pictures to draw (256)")
    parser.add_argument("--keep", type=Path, help="write the trained model here")
    parser.add_argument("--pictures", type=Path, help="keep the pictures in this directory")
    parser.add_argument("--results", type=Path, default=Path("outer_levels.jsonl"))
    return parser.parse_args()


class Losses(keras.callbacks.Callback):
    """Losses and times of all steps."""

    def __init__(self):
        super().__init__()
        self.losses, self.times = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())
        self.losses.append({key: float(value) for key, value in (logs or {}).items()})


def train(args, phase, make_model, data, watched) -> mdm.MatryoshkaDiffusion:
    """Train the phase around the innermost level."""
    with tempfile.TemporaryDirectory() as run_dir:
        return mdm.fit_progressively(
            [phase],
            make_model,
            data.datasets(),
            run_dir=run_dir,
            start=mdm.load(args.phase_1),
            callbacks=lambda context: [watched],
            checkpoint_every=10**6,
            progress=True,
        )


def main() -> None:
    args = parse()
    keras.config.set_dtype_policy("mixed_bfloat16")
    outer = dataclasses.replace(recipe.OUTER, **args.outer)
    phase = dataclasses.replace(recipe.SCALE.phases[1], levels=[recipe.INNER, outer], **args.phase)
    scale = dataclasses.replace(recipe.SCALE, process={**recipe.SCALE.process, **args.process})
    if args.optimizer:
        scale = dataclasses.replace(scale, optimizer=getattr(mdm.optimizers, args.optimizer))
    words = ["--seed", str(args.seed)]
    arguments = options.parser(recipe.__doc__, run_dir="unused").parse_args(words)
    encoder = texts.encoder(arguments, scale.tokens)
    data = drawings.Drawings(arguments, phase.level_names, encoder, scale.process)
    watched = Losses()

    def make_model(phase):
        unet = mdm.build_nested_unet(
            phase.levels, seed=args.seed, **data.conditions, **scale.network
        )
        made = training.built(unet, phase, scale, encoder, args.seed)
        return training.compiled(made, phase, scale, micro_batches=1, recompute=())

    model = mdm.load(args.model) if args.model else train(args, phase, make_model, data, watched)
    if args.keep:
        model.save(args.keep)
    rng = np.random.default_rng(0)
    source = data.source
    rows = np.concatenate([rng.permutation(len(source)) for _ in range(-(-args.count // 251))])
    sampling = {**scale.sampling, **args.sampling}
    size = sampling.pop("batch_size")
    features = evaluation.EfficientNetLite0()
    prompts = [source.captions[row] for row in rows[: args.count]]
    real = {level: source.images[int(level)] for level in phase.level_names}
    request = evaluation.Request(args.count, prompts=prompts, batch_size=size, options=sampling)
    top = phase.level_names[-1]
    text = evaluation.fit_text_measure(features, encoder, real[top], source.captions, prompts)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        kept = args.pictures or directory
        report = evaluation.evaluate(
            model, real, request=request, directory=kept, features=features, texts={top: text}
        )
    times = watched.times or [0.0, 0.0]
    record = {
        "name": args.name,
        "seed": args.seed,
        "ms a step": round(1000 * float(np.median(np.diff(times))), 1),
        "seconds": round(float(times[-1] - times[0]), 1),
        "seconds of drawing": round(time.perf_counter() - began, 1),
        "parameters": int(sum(np.prod(w.shape) for w in model.unet.trainable_weights)),
        "loss": {
            key: round(float(np.mean([one[key] for one in watched.losses[-100:]])), 5)
            for key in (watched.losses or [{}])[-1]
            if "loss" in key
        },
        "rows": {
            f"{row.subject}: {row.measure}": [round(row.value, 4), round(row.error, 2), row.floor]
            for row in report.rows
            if row.measure not in ("precision", "recall")
        },
        "asked": {"outer": args.outer, "phase": args.phase, "process": args.process},
    }
    with args.results.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()

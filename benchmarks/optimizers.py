"""How much a network learns with an optimizer: the quickstart's first phase, with another one.

    python benchmarks/optimizers.py --optimizer Muon --steps 750
    python benchmarks/optimizers.py --optimizer Adam --steps 750

trains the level of 16 pixels, draws all 251 prompts, and appends a record to `--results`: the time
of a step, the loss of the last hundred, how far the pictures are from the drawings that were asked
for (root mean square, grey levels), and the kernel distance (docs/outer-levels.md).
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

import keras  # noqa: E402
from outer_levels import Losses  # noqa: E402

import emoji_text_to_image as recipe  # noqa: E402
import keras_mdm as mdm  # noqa: E402
from keras_mdm import evaluation  # noqa: E402
from shared import drawings, options, texts, training  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--optimizer", default="Muon", help="of keras_mdm.optimizers (%(default)s)")
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--learning-rate", type=float, help="the recipe's unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the trained model here")
    parser.add_argument("--results", type=Path, default=Path("optimizers.jsonl"))
    args = parser.parse_args()
    keras.config.set_dtype_policy("mixed_bfloat16")
    phase = dataclasses.replace(recipe.SCALE.phases[0], steps=args.steps)
    if args.learning_rate is not None:
        phase = dataclasses.replace(phase, learning_rate=args.learning_rate)
    optimizer = getattr(mdm.optimizers, args.optimizer)
    scale = dataclasses.replace(recipe.SCALE, optimizer=optimizer)
    words = ["--seed", str(args.seed)]
    arguments = options.parser(recipe.__doc__, run_dir="unused").parse_args(words)
    encoder = texts.encoder(arguments, scale.tokens)
    data = drawings.Drawings(arguments, phase.level_names, encoder, scale.process)
    watch = Losses()

    def make_model(phase):
        unet = mdm.build_nested_unet(
            phase.levels, seed=args.seed, **data.conditions, **scale.network
        )
        made = training.built(unet, phase, scale, encoder, args.seed)
        return training.compiled(made, phase, scale, micro_batches=1, recompute=())

    with tempfile.TemporaryDirectory() as run_dir:
        model = mdm.fit_progressively(
            [phase],
            make_model,
            data.datasets(),
            run_dir=run_dir,
            callbacks=lambda context: [watch],
            checkpoint_every=10**6,
        )
    if args.keep:
        model.save(args.keep)
    (level,) = phase.level_names
    real = np.asarray(data.source.images[int(level)])
    prompts = list(data.source.captions)
    drawn = model.generate(prompts, seed=list(range(len(real))), **scale.sampling)[level]
    features = evaluation.EfficientNetLite0()
    sets = [
        np.concatenate([features(part) for part in np.array_split(x, 8)]) for x in (drawn, real)
    ]
    error = drawn.astype("float32") - real.astype("float32")
    record = {
        "optimizer": args.optimizer,
        "learning rate": phase.learning_rate,
        "steps": args.steps,
        "seed": args.seed,
        "ms a step": round(1000 * float(np.median(np.diff(watch.times))), 1),
        "seconds": round(watch.times[-1] - watch.times[0], 1),
        "loss": round(float(np.mean([one["loss"] for one in watch.losses[-100:]])), 5),
        "error": round(float(np.sqrt(np.mean(error**2))), 2),
        "kernel distance x 1000": str(evaluation.kernel_distance(*sets)),
    }
    with args.results.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()

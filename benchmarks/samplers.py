"""Quality against steps, for every sampler, on a model that a recipe trained.

    python benchmarks/samplers.py runs/emoji_three_levels

Draws random training prompts with every sampler and number of steps. Prints the seconds per picture
and the kernel inception distance (EfficientNet-Lite0 features, times 1000, with its standard error)
from two sets: the training drawings, and pictures drawn by the paper's sampling (DDPM, 250 steps)
for other prompts and seeds. Writes the table as JSON, and a grid of pictures.

There are two figures for comparison. One half of the drawings against the other shows what another
sample of such drawings would reach; the drawings of the prompts show what a model that knows its
training data by heart would reach. The latter is below zero, because the estimate assumes that the
drawings are a sample, but here they are all there is.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageDraw

import keras_mdm as mdm
from keras_mdm.evaluation import EfficientNetLite0, kernel_distance, real_floor
from keras_mdm.pictures.grids import captioned_grid

SAMPLERS = ("ddim", "ddpm", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc")
STEPS = (5, 10, 25, 50)
GRIDS = ("uniform", "logsnr", "karras")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run_dir", type=Path, help="of a recipe on the embedded drawings")
    parser.add_argument("--level", default="32", help="level that is drawn and measured")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--grids", nargs="+", default=["uniform"], choices=GRIDS)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--reference-steps", type=int, default=250, help="of DDPM")
    parser.add_argument("--picture", type=Path, help="PNG file for a grid of pictures")
    parser.add_argument("--out", type=Path, default=RESULTS / "samplers.json")
    args = parser.parse_args()
    model = keras.saving.load_model(args.run_dir / "model.keras")
    features = EfficientNetLite0()
    size = int(args.level)
    data = mdm.data.load_emoji((size,), concepts="simple", split="train")
    real = features(data.images[size])
    # Independent prompts for the two, or the estimate would be biased.
    rows, other_rows = np.random.default_rng(0).integers(len(data), size=(2, args.images))
    prompts = [data.captions[row] for row in rows]
    encoder = mdm.text.MiniLM(length=16)
    text, mask = mdm.text.encode_cached(encoder, prompts)
    other_text, other_mask = mdm.text.encode_cached(
        encoder, [data.captions[row] for row in other_rows]
    )
    floor, by_heart = real_floor(real), kernel_distance(real, real[rows])
    print(
        f"level {args.level}, {args.images} pictures of {len(data)} prompts, guidance "
        f"{args.guidance:g}; one half of the drawings against the other: {floor}; the drawings "
        f"of the prompts: {by_heart}\n"
    )
    given, shown = {"text": text, "text_mask": mask}, {}

    def draw(
        sampler: str, steps: int, grid: str, conditions: dict = given, seed: int = 0
    ) -> tuple[np.ndarray, float]:
        began = time.perf_counter()
        images = model.generate(
            conditions,
            sampler=sampler,
            steps=steps,
            grid=grid,
            guidance_scale=args.guidance,
            stop_at=args.level,
            batch_size=64,
            seed=seed,
        )[args.level]
        if conditions is given:
            shown[f"{sampler} {steps} {grid}"] = images
        return features(images), (time.perf_counter() - began) / args.images

    other = {"text": other_text, "text_mask": other_mask}
    reference = args.reference_steps
    paper, seconds = draw("ddpm", reference, "uniform", other, seed=1)
    print(
        "| sampler | grid | steps | evaluations | KID from the drawings | "
        f"from DDPM-{reference} | s |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    rows_of_table = []

    def report(sampler: str, grid: str, steps: int, found: np.ndarray, seconds: float) -> None:
        evaluations = 2 * steps - 1 if sampler == "heun" else steps
        to_real, to_paper = kernel_distance(real, found), kernel_distance(paper, found)
        print(
            f"| {sampler} | {grid} | {steps} | {evaluations} | {to_real} | "
            f"{to_paper if found is not paper else '-'} | {seconds:.3f} |",
            flush=True,
        )
        rows_of_table.append(
            {
                "sampler": sampler,
                "grid": grid,
                "steps": steps,
                "evaluations": evaluations,
                "kid": to_real.value,
                "kid_error": to_real.standard_error,
                "kid_from_reference": None if found is paper else to_paper.value,
                "kid_from_reference_error": None if found is paper else to_paper.standard_error,
                "seconds_per_picture": seconds,
            }
        )

    report("ddpm", "uniform", reference, paper, seconds)
    for sampler in args.samplers:
        for grid in args.grids:
            for steps in args.steps:
                report(sampler, grid, steps, *draw(sampler, steps, grid))
    record = {
        "level": args.level,
        "images": args.images,
        "guidance": args.guidance,
        "reference": f"ddpm, {reference} steps",
        "floor": floor.value,
        "floor_error": floor.standard_error,
        "by_heart": by_heart.value,
        "by_heart_error": by_heart.standard_error,
        "rows": rows_of_table,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    if args.picture:
        write_grid(shown, prompts, args.picture)
    print(f"\nwritten to {args.out}")


def write_grid(shown: dict[str, np.ndarray], prompts: list[str], path: Path) -> None:
    """One row per way of sampling, its name in front; the first eight prompts as columns."""
    rows = {name: images[:8] for name, images in shown.items()}
    picture = Image.fromarray(captioned_grid(rows, prompts[:8], size=96, font_size=11))
    label = 190
    canvas = Image.new("RGB", (picture.width + label, picture.height), "white")
    canvas.paste(picture, (label, 0))
    for index, name in enumerate(rows):
        ImageDraw.Draw(canvas).text((8, index * 102 + 44), name, fill="black", font_size=14)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


if __name__ == "__main__":
    main()

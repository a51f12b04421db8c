"""What `generate` can do, as pictures, with a model that a recipe trained.

    python benchmarks/gallery.py runs/emoji_three_levels --picture docs/images/gallery.png

One row per feature: a picture changed more and more, half of a picture drawn again, a small picture
enlarged, a prompt guided away from another, guidance in part of the time, one seed turning into
another, estimates on the way.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageDraw

import keras_mdm as mdm

SIZE, COLUMNS = 96, 8
OPTIONS = {"steps": 25, "guidance_scale": 3.0, "progress": False}
SOURCES = ("red apple", "panda", "sunflower", "rocket")
TARGETS = ("green apple", "frog", "sun", "sailboat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run_dir", type=Path, help="of a recipe on the embedded drawings")
    parser.add_argument("--picture", type=Path, default=Path("gallery.png"))
    args = parser.parse_args()
    model = keras.saving.load_model(args.run_dir / "model.keras")
    sizes = tuple(int(level) for level in model.unet.levels)
    data = mdm.data.load_emoji(sizes, concepts="simple", split="train")
    top, low = model.unet.levels[-1], model.unet.levels[0]
    captions = [caption.lower() for caption in data.captions]

    def index(words: str) -> int:
        return next(i for i, caption in enumerate(captions) if words in caption)

    def prompt(words: str) -> str:
        return data.captions[index(words)]

    sources = [index(words) for words in SOURCES]
    real = {level: data.images[int(level)][sources] for level in model.unet.levels}
    targets = [prompt(words) for words in TARGETS if any(words in c for c in captions)]
    targets = (targets * len(sources))[: len(sources)]
    rows: list[tuple[str, Sequence[np.ndarray]]] = []

    def pairs(before: np.ndarray, after: np.ndarray) -> list[np.ndarray]:
        return [image for pair in zip(before, after, strict=True) for image in pair]

    for strength in (0.4, 0.6, 0.8):
        changed = model.generate(targets, init_image=real[top], strength=strength, **OPTIONS)
        rows.append((f"changed, strength {strength:g}", pairs(real[top], changed[top])))
    side = int(top)
    mask = np.zeros((side, side), bool)
    mask[:, side // 2 :] = True
    own = [data.captions[i] for i in sources]
    masked = real[top].copy()
    masked[:, mask] = 128
    filled = model.generate(own, init_image=real[top], mask=mask, **OPTIONS)
    rows.append(("right half drawn anew", pairs(masked, filled[top])))
    large = model.generate(own, hold={low: real[low]}, **OPTIONS)
    rows.append((f"{low} held, {top} drawn", pairs(real[low], large[top])))
    plain = model.generate(own, seed=3, **OPTIONS)
    away = model.generate(own, negative_prompts=prompt("red heart"), seed=3, **OPTIONS)
    rows.append(("away from a red heart", pairs(plain[top], away[top])))
    part = model.generate(own, guidance_interval=(0.2, 0.8), seed=3, **OPTIONS)
    rows.append(("guided from 0.8 to 0.2", pairs(plain[top], part[top])))
    noise = model.noise_between(3, 4, COLUMNS)
    between = model.generate([own[1]] * COLUMNS, noise=noise, **OPTIONS)
    rows.append(("seed 3 to seed 4", between[top]))
    _, way = model.generate(own[:1], seed=3, return_steps=COLUMNS, **OPTIONS)
    rows.append(("estimates on the way", way[top][:, 0]))
    draw(rows, args.picture)
    print(args.picture)


def draw(rows: list[tuple[str, Sequence[np.ndarray]]], path: Path) -> None:
    """Write rows of pictures with their names in front; small ones are enlarged by pixels."""
    label, gap = 190, 6
    canvas = Image.new("RGB", (label + COLUMNS * (SIZE + gap), len(rows) * (SIZE + gap)), "white")
    for row, (name, images) in enumerate(rows):
        ImageDraw.Draw(canvas).text(
            (8, row * (SIZE + gap) + SIZE // 2 - 8), name, fill="black", font_size=14
        )
        for column, image in enumerate(images):
            large = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.NEAREST)
            canvas.paste(large, (label + column * (SIZE + gap), row * (SIZE + gap)))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


if __name__ == "__main__":
    main()

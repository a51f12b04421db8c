"""The cost of reading a lower level's pictures as the highest level shows them.

    python benchmarks/level_files.py           # 300 JPEG files of about 500 pixels

Prints processor time per picture for decoding at 64 pixels, straight from the file and through the
square of a higher level, beside that level itself; and pictures per second of `image_dataset` in
batches of 64. Repetitions alternate; results are medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
BATCH = 64
FORMS = ((375, 500), (500, 375), (480, 640), (500, 500))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    from step import machine

    from keras_mdm.data import ImageRule, open_images

    rules = {
        "64": ImageRule(64),
        "64 of 256, area": ImageRule(64, of=256),
        "64 of 256, bilinear": ImageRule(64, of=256, downsample="bilinear"),
        "256": ImageRule(256),
        "64 of 1024, area": ImageRule(64, of=1024),
        "64 of 1024, bilinear": ImageRule(64, of=1024, downsample="bilinear"),
        "1024": ImageRule(1024),
    }
    with tempfile.TemporaryDirectory() as folder:
        source = open_images(write(Path(folder), arguments.pictures))
        table = measure(source, rules, arguments.repeats)
    for name, (milliseconds, rate) in table.items():
        ratio = milliseconds / table["64"][0]
        print(f"{name:<22}{milliseconds:7.2f} ms {ratio:6.2f}{rate:9.0f}/s")
    result = {"machine": machine(), "pictures": arguments.pictures, "ms_and_rate": table}
    (RESULTS / "level_files.json").write_text(json.dumps(result, indent=1) + "\n")


def write(folder: Path, count: int) -> Path:
    """Coarse colours with fine grain, about as large in bytes as photographs."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = FORMS[number % len(FORMS)]
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(pixels + rng.integers(-12, 13, (height, width, 1)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def measure(source, rules: dict, repeats: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of processor time of one picture, and pictures per second of a pipeline."""
    from keras_mdm.data import image_dataset
    from keras_mdm.data.pictures.rule import decode

    data = [source.read(row).data for row in range(len(source))]
    streams = {
        name: iter(image_dataset(source, rule, batch_size=BATCH, seed=0))
        for name, rule in rules.items()
    }
    times = {name: [] for name in rules}
    rates = {name: [] for name in rules}
    for _ in range(repeats):
        for name, rule in rules.items():
            begun = time.process_time()
            for one in data:
                decode(one, rule)
            times[name].append(1e3 * (time.process_time() - begun) / len(data))
    for name, stream in streams.items():  # one at a time: they read ahead
        for _ in range(repeats):
            for _ in range(8):  # batches read ahead do not count
                next(stream)
            begun = time.perf_counter()
            for _ in range(16):
                next(stream)
            rates[name].append(16 * BATCH / (time.perf_counter() - begun))
    return {
        name: (statistics.median(times[name]), statistics.median(rates[name])) for name in rules
    }


if __name__ == "__main__":
    main()

"""Pictures per second by source, against a bare loop that decodes and resizes the same bytes.

    python benchmarks/data.py                  # 4000 JPEG files of 256 x 256, to 64 and to 256
    python benchmarks/data.py --index          # also the memory for 12 million records, and the
                                               # time to index a hundredth of them

The bare loop reads the files of the folder in a fixed order, decodes and resizes them with Pillow
in as many threads as there are cores, and does nothing else. A pipeline shuffles all records,
reads them at random, checks, batches by 64, and gives tensors in order. Repetitions alternate.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
BATCH = 64
RECORDS = 12_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--index", action="store_true", help="measure the memory of indexes")
    arguments = parser.parse_args()
    from step import machine

    result = {"machine": machine(), "pictures": arguments.pictures, "speed": {}, "index": {}}
    with tempfile.TemporaryDirectory() as folder:
        sources = write_sources(Path(folder), arguments.pictures)
        for size in (64, 256):
            table = speed(sources, size, arguments.repeats)
            result["speed"][size] = table
            print(f"\n256 to {size}: bare loop {table['bare']:.0f} pictures/s")
            for name in sources:
                print(f"  {name:>12} {table[name]:7.0f}/s  {table[name] / table['bare']:.2f}")
    if arguments.index:
        counts = dict.fromkeys(("folder", "table", "tar", "tfrecord"), RECORDS)
        for name, count in {**counts, "new_tar": RECORDS // 100}.items():
            found = subprocess.run(
                [sys.executable, __file__.replace("data.py", "data_index.py"), name, str(count)],
                check=True,
                capture_output=True,
                text=True,
            )
            result["index"][name] = json.loads(found.stdout.splitlines()[-1])
            print(name, result["index"][name])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {peak / 2**20:.1f} GB")
    target = RESULTS / "data.json"
    if not arguments.index and target.is_file():  # keep that part from another run
        result["index"] = json.loads(target.read_text())["index"]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "data.json").write_text(json.dumps(result, indent=1) + "\n")


def write_sources(folder: Path, count: int) -> dict:
    """The same pictures as every kind of source."""
    import pyarrow
    import pyarrow.parquet
    import tensorflow as tf
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image

    from keras_mdm.data import TarImages, open_images
    from keras_mdm.data.pictures.shards import encode_example

    rng = np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir()
    files = []
    for number in range(count):
        # Coarse colours with fine grain: about the size of a photograph of 256 pixels, 25 KB.
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
        pixels = np.asarray(small.resize((256, 256), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(pixels + rng.integers(-12, 13, (256, 256, 1)), 0, 255).astype(np.uint8)
        file = pictures / f"{number:06d}.jpg"
        Image.fromarray(pixels).save(file, quality=90)
        file.with_suffix(".txt").write_text(f"picture number {number}")
        files.append(file)
    for shard in range(4):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for file in files[shard::4]:
                tar.add(file, file.name)
                tar.add(file.with_suffix(".txt"), file.with_suffix(".txt").name)
    source = open_images(pictures)
    rows = [source.read(row) for row in range(count)]
    # The same bytes everywhere, since those that `prepare` writes (quality 95) decode more slowly.
    examples = [
        encode_example(row.data, list(row.captions), -1, row.key, (256, 256)) for row in rows
    ]
    writer = ArrayRecordWriter(str(folder / "all.array_record"), "group_size:1,uncompressed")
    for example in examples:
        writer.write(example)
    writer.close()
    with tf.io.TFRecordWriter(str(folder / "all.tfrecord")) as writer:
        for example in examples:
            writer.write(example)
    table = pyarrow.table(
        {"image": [row.data for row in rows], "caption": [row.captions[0] for row in rows]}
    )
    pyarrow.parquet.write_table(table, folder / "all.parquet", row_group_size=100)
    tars = sorted(folder.glob("*.tar"))
    return {
        "folder": source,
        "tar": TarImages(tars, cache_dir=folder / "cache", progress=False),
        "ArrayRecord": open_images(folder / "all.array_record"),
        "TFRecord": open_images(
            folder / "all.tfrecord", cache_dir=folder / "cache", progress=False
        ),
        "Parquet": open_images(folder / "all.parquet"),
    }


def speed(sources: dict, size: int, repeats: int) -> dict[str, float]:
    """Median pictures per second of the bare loop and of every source."""
    from keras_mdm.data import ImageRule, image_dataset

    rule = ImageRule(size)
    folder = sources["folder"]
    paths = [Path(folder.root) / folder.name(row) for row in range(len(folder))]
    rates: dict[str, list[float]] = {name: [] for name in ("bare", *sources)}
    streams = {
        name: iter(image_dataset(source, rule, batch_size=BATCH, seed=0))
        for name, source in sources.items()
    }
    steps = max(4, len(folder) // BATCH)
    for stream in streams.values():
        for _ in range(8):
            next(stream)
    for _ in range(repeats):
        for name in rates:
            begun = time.perf_counter()
            if name == "bare":
                bare(paths[: steps * BATCH], size)
                rates[name].append(steps * BATCH / (time.perf_counter() - begun))
                continue
            # Batches read ahead while the others ran do not count: they are taken first.
            for _ in range(24):
                next(streams[name])
            begun = time.perf_counter()
            for _ in range(steps):
                next(streams[name])
            rates[name].append(steps * BATCH / (time.perf_counter() - begun))
            time.sleep(0.5)  # until it stops reading ahead
    return {name: statistics.median(values) for name, values in rates.items()}


def bare(paths: list[Path], size: int) -> None:
    from PIL import Image

    def work(path: Path) -> np.ndarray:
        with Image.open(BytesIO(path.read_bytes())) as picture:
            picture = picture.convert("RGB")
            if picture.size != (size, size):
                picture = picture.resize((size, size), Image.Resampling.BOX)
            return np.asarray(picture)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(work, paths):
            pass


if __name__ == "__main__":
    main()

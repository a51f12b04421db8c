"""Time and memory of the measures of pictures, on random features.

python benchmarks/distances.py
python benchmarks/distances.py --count 50000 --measures frechet
"""

import argparse
import resource
import time

import numpy as np

from keras_mdm.evaluation import moments, report

_BATCH = 32


class Given:
    """Returns features that were made before: only the statistics are measured."""

    name, width = "random", 2048

    def __init__(self, width: int, seed: int):
        self.width = width
        self.rng = np.random.default_rng(seed)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Random features, as many as there are pictures."""
        return self.rng.standard_normal((len(images), self.width), "float32")


def main() -> None:
    """Stream two sets and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="pictures of each set")
    parser.add_argument("--width", type=int, default=2048, help="features of a picture")
    parser.add_argument("--measures", nargs="+", default=list(report.MEASURES), help="(all)")
    arguments = parser.parse_args()
    sets = []
    for seed in range(2):
        start = time.perf_counter()
        features = Given(arguments.width, seed)
        rng = np.random.default_rng(seed + 2)
        whole = moments.nothing(features)
        for first in range(0, arguments.count, _BATCH):
            rows = min(_BATCH, arguments.count - first)
            images = rng.integers(0, 256, (rows, 4, 4, 3)).astype("uint8")
            whole = whole.merge(moments.of_pictures(features, images))
        sets.append(whole)
        say(f"statistics of set {seed + 1}", start)
    for measure in arguments.measures:
        start = time.perf_counter()
        (row,) = report.measure("x", *sets, features, measures=[measure], floors={}, few=True)
        say(f"{row.measure} {row.value:.4g}", start)


def say(what: str, start: float) -> None:
    """Print seconds since `start`, and the peak of the process's memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{what:32s} {time.perf_counter() - start:6.1f} s, peak {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()

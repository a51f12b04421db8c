"""What the first training step costs: tracing, TensorFlow's rewriting of the graph, and the step.

    python benchmarks/first_step.py
    python benchmarks/first_step.py --levels 64 256 --width 0.25

A network is traced in Python, operation by operation, whatever its width. Prints the number of
operations in the step, and processor seconds for tracing, for the first step after it, and for a
later one. To compare two versions of the code, run it on both.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

TOKENS, TEXT_WIDTH = 4, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--width", type=float, default=0.125, help="factor on the channels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    import tensorflow as tf

    import keras_mdm as mdm

    unet = mdm.build_nested_unet(args.levels, width=args.width, text_width=TEXT_WIDTH)
    model = mdm.MatryoshkaDiffusion(unet)
    model.compile(mdm.optimizers.Adam(1e-4, clip_norm=2.0))
    size = args.levels[-1]
    batch = {
        "image": tf.random.uniform((args.batch, size, size, 3), -1.0, 1.0),
        "text": tf.random.normal((args.batch, TOKENS, TEXT_WIDTH)),
        "text_mask": tf.ones((args.batch, TOKENS)),
    }
    step = tf.function(model.train_step, autograph=False)
    traced, tracing = timed(lambda: step.get_concrete_function(batch))
    _, first = timed(lambda: step(batch))
    later = min(timed(lambda: step(batch))[1] for _ in range(5))
    found = {
        "levels": args.levels,
        "variables": len(unet.trainable_variables),
        "operations": len(traced.graph.get_operations()),
        "tracing_cpu_s": round(tracing, 1),
        "first_step_cpu_s": round(first, 1),
        "later_step_cpu_s": round(later, 2),
    }
    print(json.dumps(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


def timed(function: Callable) -> tuple:
    """Result, and seconds of all threads, which depend less on other processes than the clock."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


if __name__ == "__main__":
    main()

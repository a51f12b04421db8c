"""How cost grows: with batch, resolution, levels, frames, sampling steps, guidance and replicas.

    python benchmarks/scaling.py                       # about 15 minutes on two cores
    python benchmarks/scaling.py --axes batch steps
    python benchmarks/scaling.py --axes presets        # trace and first step of the presets

Every point is a process of its own. Prints seconds of a training step (or of `generate`, for the
steps), its arithmetic per second, the time of the first step with tracing, and peak memory; and for
every axis the exponent p of seconds ~ x^p, and the line a + b x. An exponent below that of the
arithmetic means that larger is more efficient. Writes JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import protocol

TOKENS, TEXT_WIDTH = 8, 64
SMALL = {"levels": ["16", "64"], "width": 0.25, "batch": 4, "kind": "train", "devices": 1}
AXES: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "batch": [(rows, {"batch": rows}) for rows in (1, 2, 4, 8, 16)],
    "resolution": [(size, {"levels": [str(size)]}) for size in (32, 64, 128)],
    "levels": [
        (len(names), {"levels": names, "width": 0.125, "batch": 1})
        for names in (["64"], ["64", "256"], ["64", "256", "1024"])
    ],
    "frames": [(n, {"levels": [f"{n}x64"], "width": 0.125, "batch": 1}) for n in (4, 8, 16)],
    "steps": [(steps, {"kind": "generate", "steps": steps}) for steps in (5, 10, 20, 40)],
    # Share of the steps with guidance; the rest takes half the passes.
    "guidance": [
        (share, {"kind": "generate", "steps": 20, "guided": share}) for share in (0.0, 0.25, 0.5, 1)
    ],
    "replicas": [(count, {"devices": count, "batch": 8}) for count in (1, 2, 4)],
    "presets": [
        (name, {"preset": name, "width": 0.125, "batch": 1})
        for name in ("mdm_s64", "mdm_s64s256", "mdm_s64s256s1024", "mdm_s64t16", "mdm_s64t16s256")
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/scaling.json")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        measure(json.loads(args.point))
        return
    found: dict[str, Any] = {}
    print("| axis | x | GFLOP | s | GFLOP/s | first, s | peak GiB |\n|---|---|---|---|---|---|---|")
    for axis in args.axes:
        found[axis] = []
        for x, changes in AXES[axis]:
            point = {**SMALL, **changes, "repeats": args.repeats}
            command = [sys.executable, __file__, "--point", json.dumps(point)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            one = {"x": x, **json.loads(done.stdout)}
            found[axis].append(one)
            print(
                f"| {axis} | {x} | {one['gflop']:.4g} | {one['seconds']:.3g} "
                f"| {one['gflop'] / one['seconds']:.3g} | {one['first_seconds']:.1f} "
                f"| {one['peak_gib']:.2f} |",
                flush=True,
            )
    print()
    fits = {axis: fit(rows) for axis, rows in found.items() if axis != "presets" and len(rows) > 1}
    for axis, values in fits.items():
        print(
            f"{axis}: seconds ~ x^{values['exponent']:.2f}, arithmetic ~ x^{values['flop']:.2f}; "
            f"{values['a']:.3g} s + {values['b']:.3g} s x, {values['error']:.0%} off at most"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"points": found, "fits": fits}, indent=1) + "\n")
    print(f"written to {args.out}")


def fit(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents of seconds and of arithmetic, and a line with its largest relative error."""
    x, seconds, gflop = (
        np.array([row[key] for row in rows], float) for key in ("x", "seconds", "gflop")
    )
    b, a = np.polyfit(x, seconds, 1, w=1.0 / seconds)
    return {
        "exponent": exponent(x, seconds),
        "flop": exponent(x, gflop),
        "a": float(a),
        "b": float(b),
        "error": float(np.abs((a + b * x) / seconds - 1.0).max()),
    }


def exponent(x: np.ndarray, y: np.ndarray) -> float:
    """p of y ~ x^p."""
    known = x > 0.0
    return float(np.polyfit(np.log(x[known]), np.log(y[known]), 1)[0])


def measure(point: dict[str, Any]) -> None:
    """Measure a point and print what was found as JSON."""
    import keras_mdm as mdm  # before TensorFlow, whose start-up lines it keeps away

    # isort: split
    import tensorflow as tf

    if point["devices"] > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * point["devices"]
        )
    with mdm.distribute.strategy().scope():
        given = {"text_width": TEXT_WIDTH, "width": point["width"]}
        if "preset" in point:
            unet = mdm.presets.build(point["preset"], **given)
        else:
            unet = mdm.build_nested_unet(point["levels"], **given)
        model = mdm.MatryoshkaDiffusion(unet)
        model.compile(mdm.optimizers.Adam(1e-4, clip_norm=2.0))
    phase = mdm.Phase(unet.spec.levels, steps=1, batch_size=point["batch"], mixed=False)
    flop = mdm.costs.step_flop(phase, lambda _: unet, text_tokens=TOKENS)
    step = training_step(model, point)
    if point["kind"] == "generate":
        step = drawing(model, point)
        flop *= (1 + point.get("guided", 0)) * point["steps"] / 3  # forward passes alone
    first = protocol.seconds(step)
    step()
    print(
        json.dumps(
            {
                "gflop": flop / 1e9,
                "first_seconds": first,
                "seconds": statistics.median(
                    protocol.seconds(step) for _ in range(point["repeats"])
                ),
                "peak_gib": protocol.resident() / 2**30,
            }
        )
    )


def training_step(model: Any, point: dict[str, Any]) -> Any:
    """An optimizer step, as in `fit`."""
    import tensorflow as tf

    top, rows = model.unet.spec.levels[-1], point["batch"]
    data = tf.data.Dataset.from_tensors(
        {
            "video" if top.frames else "image": tf.zeros((rows, *top.input_shape(3)), tf.uint8),
            "text": tf.zeros((rows, TOKENS, TEXT_WIDTH)),
            "text_mask": tf.ones((rows, TOKENS)),
        }
    ).repeat()
    strategy = tf.distribute.get_strategy()
    if point["devices"] > 1:
        strategy = model.distribute_strategy
    batches = iter(strategy.experimental_distribute_dataset(data))
    function = model.make_train_function()
    return lambda: float(function(batches)["loss"])


def drawing(model: Any, point: dict[str, Any]) -> Any:
    """`generate`, with guidance in the noisiest share of the steps; none if the point has none."""
    rows = point["batch"]
    text = np.zeros((rows, TOKENS, TEXT_WIDTH), "float32")
    given = {"text": text, "text_mask": np.ones((rows, TOKENS), "float32")}
    options = {"steps": point["steps"], "guidance_scale": 1.0, "progress": False}
    if guided := point.get("guided", 0):
        options |= {"guidance_scale": 3.0, "guidance_interval": (1.0 - guided, 1.0)}
    return lambda: model.generate(given, seed=list(range(rows)), **options)


if __name__ == "__main__":
    main()

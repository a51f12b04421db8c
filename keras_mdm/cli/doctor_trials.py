"""What `keras-mdm doctor` tries, in a process of its own: a crash there still leaves a report.

`python -m keras_mdm.cli.doctor_trials TRIAL...` prints JSON, one object a line: the machine as
TensorFlow sees it, then for every trial its name when it begins and its result when it ends.
"""

import json
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE, ROWS, STEPS = 16, 4, 4
FLOAT32_LIMIT = 1e-4
# TF32 keeps 10 bits of each factor and bfloat16 7, through some ten layers.
LIMITS = {"float32": FLOAT32_LIMIT, "TF32": 2e-2, "bfloat16": 1e-1}


class NotRun(Exception):
    """This machine has nothing to try it on."""


def machine() -> dict[str, Any]:
    """TensorFlow's build and devices."""
    import keras
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    gpus = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        capability = details.get("compute_capability")
        gpus.append(
            {
                "name": details.get("device_name", device.name),
                "compute_capability": None if capability is None else list(capability),
            }
        )
    return {
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "built_with_cuda": bool(build.get("is_cuda_build")),
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
        "gpus": gpus,
        "tf32": bool(gpus) and tf.config.experimental.tensor_float_32_execution_enabled(),
        "memory_growth": os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH") == "true",
    }


def _gpus() -> list[str]:
    import tensorflow as tf

    return [device.name for device in tf.config.list_logical_devices("GPU")]


def _network(dtype: str = "float32", *, nested: bool = True) -> Any:
    from keras_mdm.models import LevelSpec, build_nested_unet

    inner = LevelSpec(8, channels=(32,), blocks=(1,), attention=(1,), heads=2, use_mid_block=False)
    outer = LevelSpec(SIZE, channels=(16, 16), blocks=(1, 1), attention=(0, 0), groups=4)
    levels = [inner, outer] if nested else [inner]  # XLA takes half a minute for two
    return build_nested_unet(levels, num_classes=4, time_width=32, dtype=dtype)


def _model(dtype: str = "float32", *, nested: bool = True, **options: Any) -> Any:
    from keras_mdm.optimizers import Adam
    from keras_mdm.training import MatryoshkaDiffusion

    model = MatryoshkaDiffusion(_network(dtype, nested=nested))
    scale = "dynamic" if dtype == "mixed_float16" else None
    model.compile(Adam(1e-3, loss_scale=scale), **options)
    return model


def _batches(size: int = SIZE) -> Any:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (ROWS, size, size, 3)).astype("uint8"),
        "label": np.arange(ROWS, dtype="int32") % 4,
    }
    return tf.data.Dataset.from_tensors(batch).repeat()


def _train(model: Any) -> tuple[dict[str, float], float]:
    """Logs of two steps, seconds of the second."""
    size = model.unet.spec.levels[-1].size
    step, batches = model.make_train_function(), iter(_batches(size))
    step(batches)
    began = time.perf_counter()
    logs = {name: float(value) for name, value in step(batches).items()}
    seconds = time.perf_counter() - began
    if not math.isfinite(logs["loss"]) or logs["skipped_in_a_row"]:
        raise RuntimeError(f"the loss is {logs['loss']}")
    return logs, seconds


def training(dtype: str, **options: Any) -> dict[str, Any]:
    logs, seconds = _train(_model(dtype, **options))
    return {"seconds": seconds, "loss": logs["loss"]}


def training_float16() -> dict[str, Any]:
    if not _gpus():
        raise NotRun("float16 is for GPUs, and TensorFlow sees none")
    return training("mixed_float16")


def training_compiled() -> dict[str, Any]:
    return training("float32", nested=False, jit_compile=True)


def two_replicas() -> dict[str, Any]:
    """The same steps on two GPUs and on one: losses agree."""
    import tensorflow as tf

    if len(_gpus()) < 2:
        raise NotRun(f"TensorFlow sees {len(_gpus())} GPUs, and this takes two")
    alone, _ = _train(_model())
    strategy = tf.distribute.MirroredStrategy(_gpus()[:2])
    with strategy.scope():
        model = _model()
    step = model.make_train_function()
    batches = iter(strategy.experimental_distribute_dataset(_batches()))
    step(batches)
    began = time.perf_counter()
    loss = float(step(batches)["loss"])
    difference = abs(loss - alone["loss"]) / abs(alone["loss"])
    if not difference < 1e-2:  # TF32 may be on
        raise RuntimeError(f"two replicas have the loss {loss}, one has {alone['loss']}")
    return {"seconds": time.perf_counter() - began, "difference": difference}


def _draw(model: Any, **options: Any) -> tuple[Any, float]:
    """Pictures, seconds of the second of two runs."""
    given = {"labels": [0, 1], "steps": STEPS, "guidance_scale": 2.0, "progress": False}
    model.generate(**given, **options)
    began = time.perf_counter()
    return model.generate(**given, **options), time.perf_counter() - began


def sampling() -> dict[str, Any]:
    pictures, seconds = _draw(_model(), output="float32")
    if not all(np.isfinite(value).all() for value in pictures.values()):
        raise RuntimeError("the pictures are not finite")
    return {"seconds": seconds}


def sampling_compiled() -> dict[str, Any]:
    """XLA draws the same pictures."""
    model = _model(nested=False)
    plain, _ = _draw(model, output="float32")
    pictures, seconds = _draw(model, output="float32", jit_compile=True)
    difference = max(float(np.abs(pictures[key] - plain[key]).max()) for key in plain)
    if not difference < LIMITS["TF32" if _gpus() else "float32"]:
        raise RuntimeError(f"compiled pictures differ by {difference}")
    return {"seconds": seconds, "difference": difference}


def exporting() -> dict[str, Any]:
    """An exported sampler, loaded again, draws pictures of the right sizes."""
    import tensorflow as tf

    from keras_mdm.export import export_saved_model

    with tempfile.TemporaryDirectory() as folder:
        path = export_saved_model(_model(), Path(folder) / "exported")
        draw = tf.saved_model.load(str(path)).signatures["serving_default"]
        given = {
            "label": tf.constant([0, 1]),
            "steps": tf.constant([STEPS, STEPS]),
            "guidance_scale": tf.constant([2.0, 2.0]),
            "seed": tf.constant([0, 1], tf.int64),
        }
        draw(**given)
        began = time.perf_counter()
        found = {name: value.numpy() for name, value in draw(**given).items()}
        seconds = time.perf_counter() - began
    sizes = {name: value.shape[1] for name, value in found.items()}
    if sizes != {"8": 8, str(SIZE): SIZE}:
        raise RuntimeError(f"the export draws sizes {sizes}")
    return {"seconds": seconds}


def gpu_equals_cpu() -> dict[str, Any]:
    """The network on the GPU in float32, TF32 and bfloat16 against the CPU in float32."""
    import tensorflow as tf

    if not _gpus():
        raise NotRun("TensorFlow sees no GPU")
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {
        f"z_{size}": rng.normal(size=(2, size, size, 3)).astype("float32") for size in (8, SIZE)
    }
    inputs |= {"time": np.array([10.0, 900.0], "float32"), "label": np.array([0, 3], "int32")}

    def outputs(dtype: str, device: str) -> dict[str, np.ndarray]:
        with tf.device(device):
            unet = _network(dtype)
            values = np.random.default_rng(1)
            for weight in unet.weights:  # the last layers start at zero
                weight.assign(0.1 * values.normal(size=weight.shape).astype("float32"))
            return {name: np.asarray(value) for name, value in unet(inputs).items()}

    expected = outputs("float32", "CPU:0")
    largest = max(float(np.abs(value).max()) for value in expected.values())
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    found = {}
    try:
        for numbers, limit in LIMITS.items():
            tf.config.experimental.enable_tensor_float_32_execution(numbers == "TF32")
            actual = outputs("mixed_bfloat16" if numbers == "bfloat16" else "float32", "GPU:0")
            errors = [float(np.abs(actual[key] - expected[key]).max()) for key in expected]
            found[numbers] = max(errors) / largest
            if not found[numbers] < limit:
                raise RuntimeError(f"{numbers} on the GPU differs by {found[numbers]:.1e}")
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
    return {"difference": found["float32"], "differences": found}


TRIALS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "train": ("training, float32", lambda: training("float32")),
    "train-bfloat16": ("training, mixed_bfloat16", lambda: training("mixed_bfloat16")),
    "train-float16": ("training, mixed_float16", training_float16),
    "train-xla": ("training, XLA", training_compiled),
    "replicas": ("training on two GPUs", two_replicas),
    "sample": ("sampling", sampling),
    "sample-xla": ("sampling, XLA", sampling_compiled),
    "export": ("export", exporting),
    "gpu": ("GPU computes what the CPU does", gpu_equals_cpu),
}


def tried(name: str) -> dict[str, Any]:
    """Run one trial; an error of any kind is its result.

    Args:
        name: a key of `TRIALS`.
    """
    from keras_mdm.tracing import free_what_is_gone

    title, trial = TRIALS[name]
    result: dict[str, Any] = {"trial": name, "title": title, "result": "works"}
    began = time.perf_counter()
    try:
        result |= trial()
    except NotRun as reason:
        return {**result, "result": "not run", "why": str(reason)}
    except Exception as problem:  # of any kind: the other trials still run
        message = " ".join(f"{type(problem).__name__}: {problem}".split())
        return {**result, "result": "failed", "why": message[:1000]}
    result["total_seconds"] = time.perf_counter() - began
    result["memory_mib"] = round(_memory() / 2**20)
    free_what_is_gone()
    return result


def _memory() -> float:
    """Peak bytes: of the first GPU's allocator, or else of this process."""
    import tensorflow as tf

    if _gpus():
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        tf.config.experimental.reset_memory_stats("GPU:0")
        return float(peak)
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def main(names: list[str]) -> None:
    # TensorFlow's own lines must not mix with ours.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    reply({"machine": machine()})
    for name in names:
        reply({"begins": name})
        reply(tried(name))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Our part of `step.py`: a sampling or training step of a preset, in a process of its own."""

from collections.abc import Callable
from typing import Any

import protocol

MATMUL_DTYPES = {"float32": "float32", "mixed_bfloat16": "bfloat16"}


def prepare(case: dict[str, Any]) -> tuple[Callable[[], object], Callable[[], object]]:
    """(a step, a matrix product) of a case of `step.py`, with random weights."""
    import tensorflow as tf

    from keras_mdm.models import presets

    unet = presets.build(case["model"], width=case["width"], dtype=case["dtype"])
    step = (training_step if case["mode"] == "train" else sampling_step)(unet, case)
    for gpu in tf.config.list_physical_devices("GPU")[:1]:
        step.device = tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        step.memory = lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]
    size = case["matmul_size"]
    square = tf.cast(tf.random.normal((size, size)), MATMUL_DTYPES[case["dtype"]])
    product = tf.function(lambda: tf.reduce_max(tf.matmul(square, square)))
    return step, lambda: product().numpy()


def sampling_step(unet: Any, case: dict[str, Any]) -> Callable[[], None]:
    """One call of the network as in `generate`, conditional and without guidance."""
    import keras
    import tensorflow as tf

    from keras_mdm.tracing import compiled_whole

    try:
        from keras_mdm.sampling.narrow import by_kernel, cast_kernels

        kernels = cast_kernels(unet)
    except ImportError:  # an earlier version, see --before
        kernels = {}

    def infer(inputs: dict[str, Any], kernels: dict[str, Any]) -> dict[str, Any]:
        scope = keras.StatelessScope(initialize_variables=False)
        if kernels:
            scope.state_mapping.update(by_kernel(unet, kernels))
        with scope:
            return unet(inputs, training=False)

    jit = case["jit_compile"]
    network = tf.function(compiled_whole(infer) if jit else infer, jit_compile=jit)
    rows, tokens = case["batch"], case["text_tokens"]
    inputs = {
        f"z_{level.name}": tf.random.normal((rows, *level.input_shape(3)))
        for level in unet.spec.levels
    }
    inputs |= {"time": tf.fill((rows,), 500.0), "text_mask": tf.ones((rows, tokens))}
    inputs["text"] = tf.random.normal((rows, tokens, case["text_width"]))
    inputs |= {
        name: tf.fill((rows,), float(level.size))
        for level in unet.spec.levels
        for name in level.micro_conditions
    }

    def step() -> None:
        for value in network(inputs, kernels).values():
            value.numpy()

    step.graph = lambda: network.get_concrete_function(inputs, kernels).graph  # for profile_step.py
    return step


def training_step(unet: Any, case: dict[str, Any]) -> Callable[[], object]:
    """One optimizer step of `fit`: gradients, clipping, Adam, moving average, metrics."""
    import tensorflow as tf

    from keras_mdm.models import presets
    from keras_mdm.optimizers import Adam
    from keras_mdm.training import MatryoshkaDiffusion

    diffusion = MatryoshkaDiffusion(unet, **presets.diffusion(case["model"]))
    diffusion.compile(
        optimizer=Adam(1e-4, clip_norm=2.0),
        recompute=case["recompute"],
        jit_compile=case["jit_compile"],
    )
    top = unet.spec.levels[-1]
    key = "image" if top.frames is None else "video"
    data = {
        key: tf.random.uniform((case["batch"], *top.input_shape(3)), -1.0, 1.0),
        "text": tf.random.normal((case["batch"], case["text_tokens"], case["text_width"])),
        "text_mask": tf.ones((case["batch"], case["text_tokens"])),
    }
    batches = iter(tf.data.Dataset.from_tensors(data).repeat())
    function = diffusion.make_train_function()

    def step() -> float:
        return float(function(batches)["loss"])

    return step


if __name__ == "__main__":
    protocol.serve(prepare)

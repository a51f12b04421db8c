"""What any backend of Keras must compute like TensorFlow: small networks and the mathematics.

NumPy draws each weight from its name, so that a file of results need not hold the weights.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_mdm as mdm
from keras_mdm.diffusion import (
    guidance,
    losses,
    parameterization,
    process,
    samplers,
    schedules,
    thresholding,
)

INNER = mdm.LevelSpec(8, channels=(32, 64), blocks=(1, 1), attention=(0, 1), heads=4)
CLIP = mdm.LevelSpec(8, 4, blocks=(1, 1, 1), rotary=True, tiled_adapters=True)
LARGER_CLIP = mdm.LevelSpec(
    16, 4, channels=(32, 32), blocks=(1, 1), attention=(0, 0), temporal_attention=(0, 1)
)
TEXT = {"text_width": 16, "time_width": 64}
SIZED = {"micro_conditions": {"scale": 16.0, "crop": 0.0}}


def _preset(name: str) -> Callable[..., mdm.NestedUNet]:
    """A preset's layers with the fewest possible channels."""
    return lambda dtype: mdm.presets.build(name, text_width=16, width=1 / 16, dtype=dtype)


def _levels(*levels: Any, **options: Any) -> Callable[..., mdm.NestedUNet]:
    return lambda dtype: mdm.build_nested_unet(list(levels), dtype=dtype, **options)


NETWORKS: dict[str, Callable[..., mdm.NestedUNet]] = {
    "text": _levels(INNER, mdm.LevelSpec(16, blocks=(1, 1), **SIZED), **TEXT),
    "classes": _levels(
        INNER, mdm.LevelSpec(16, normalize_input=True), num_classes=5, pooled_width=12
    ),
    "video": _levels(INNER, CLIP, LARGER_CLIP, **TEXT),
}
PRESETS = {name: _preset(name) for name in ("mdm_s64s256", "mdm_s64t16", "released_256")}


def results_of(name: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Results of a case: "math", or a network by its name with a dtype policy."""
    if name == "math":
        return mathematics()
    return outputs_of(fill((NETWORKS | PRESETS)[name](dtype)))


def fill(unet: mdm.NestedUNet) -> mdm.NestedUNet:
    """Give every weight random values, since the zeros of a new network would hide errors."""
    for variable in unet.weights:
        rng = np.random.default_rng(zlib.crc32(variable.path.encode()))
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 100.0
        value = rng.standard_normal(variable.shape, "float32") / np.sqrt(fan_in, dtype="float32")
        variable.assign(value + 1.0 if variable.name == "gamma" else value)
    return unet


def inputs_of(unet: mdm.NestedUNet, batch: int = 2, tokens: int = 5) -> dict[str, np.ndarray]:
    """Random inputs for every key: text with padding, a sample without a class, a missing size."""
    rng = np.random.default_rng(1)
    shapes = {f"z_{e.name}": e.input_shape(unet.spec.in_channels) for e in unet.spec.levels}
    inputs = {key: rng.standard_normal((batch, *shape)) for key, shape in shapes.items()}
    inputs["time"] = np.linspace(1.0, 999.0, batch)
    if unet.spec.text_width:
        inputs["text"] = rng.standard_normal((batch, tokens, unet.spec.text_width))
        inputs["text_mask"] = np.arange(tokens)[None] < 2 + np.arange(batch)[:, None]
    if unet.spec.pooled_width:
        inputs["pooled"] = rng.standard_normal((batch, unet.spec.pooled_width))
    for name in unet.spec.micro_conditions:
        inputs[name] = np.where(np.arange(batch) % 2, np.nan, 12.0)
    inputs = {key: np.asarray(value, "float32") for key, value in inputs.items()}
    if unet.spec.num_classes:
        inputs["label"] = np.arange(batch, dtype="int32") - 1
    return inputs


def forward(unet: mdm.NestedUNet) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The network as a function of a dict of tensors, without gradients. It is compiled for JAX,
    which would otherwise compile operation by operation."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return lambda inputs: unet(inputs, training=False)
    if backend == "torch":
        import torch

        return torch.inference_mode()(lambda inputs: unet(inputs, training=False))
    import jax

    function, state = stateless(unet)
    compiled = jax.jit(function)
    return lambda inputs: compiled(inputs, *state)


def stateless(unet: mdm.NestedUNet) -> tuple[Callable[..., dict[str, Any]], list[list[Any]]]:
    """The network as a pure function of the inputs and its weights, and the weights."""

    def function(inputs: Mapping[str, Any], *state: Any) -> dict[str, Any]:
        return unet.stateless_call(*state, inputs, training=False)[0]

    kinds = (unet.trainable_variables, unet.non_trainable_variables)
    return function, [[variable.value for variable in kind] for kind in kinds]


def outputs_of(unet: mdm.NestedUNet) -> dict[str, np.ndarray]:
    """Predictions by level, for fewer samples at the highest level than at those inside it.

    Args:
        unet: a filled network.

    Returns:
        The predictions, and a sum as "weights", which tells different weights from different
        arithmetic.
    """
    inputs = inputs_of(unet)
    if len(unet.levels) > 1:
        inputs[f"z_{unet.levels[-1]}"] = inputs[f"z_{unet.levels[-1]}"][:1]
    results = {level: to_numpy(value) for level, value in forward(unet)(inputs).items()}
    total = sum(float(np.sum(to_numpy(v.value), dtype="float64")) for v in unet.weights)
    return results | {"weights": np.float64(total)}


def mathematics() -> dict[str, np.ndarray]:
    """Schedules, targets, weights, the posterior, resampling, thresholds and samplers."""
    rng = np.random.default_rng(2)
    drawn = rng.standard_normal((3, 3, 16, 16, 3)).astype("float32")
    x, eps, v = (ops.convert_to_tensor(each) for each in drawn)
    t = ops.convert_to_tensor([0.02, 0.5, 1.0], "float32")
    results: dict[str, Any] = {}
    for name in ("cosine", "logsnr_cosine", "linear", "sigmoid"):
        schedule = schedules.get(name).shifted(2)
        alpha, sigma = schedule.alpha_sigma(t)
        results |= {f"{name}/alpha": alpha, f"{name}/sigma": sigma}
        results[f"{name}/inverse"] = schedule.inverse(schedule.logsnr(t))
        results |= {
            f"{name}/{kind}": losses.weighting(kind, schedule, t, target="v")
            for kind in ("vdm", "min_snr", "p2", "sigmoid")
        }
    alpha, sigma = schedules.cosine().alpha_sigma(t)
    x_t = process.add_noise(x, eps, alpha, sigma)
    for kind in parameterization.KINDS:
        results[f"x0 of {kind}"] = parameterization.to_x0(kind, v, x_t, 0.6, 0.8)
        results[f"v of {kind}"] = parameterization.to_v(kind, v, x_t, 0.6, 0.8)
    results["posterior"] = samplers.ddpm_step(x_t, x, 0.6, 0.8, 0.8, 0.6, eps)
    results["loss"] = losses.level_loss(v, eps)
    results["guided"] = guidance.rescale(guidance.classifier_free(x, eps, 4.0), eps, 0.7)
    results["threshold"] = thresholding.dynamic(3.0 * x)
    shapes = [mdm.diffusion.LevelShape(None, 4), mdm.diffusion.LevelShape(None, 16)]
    for kind in ("area", "bilinear"):
        low = results[f"pyramid/{kind}"] = mdm.diffusion.build_pyramid(x, shapes, kind)["4"]
    for kind in ("nearest", "bilinear"):
        results[f"upsample/{kind}"] = mdm.diffusion.upsample(low, *shapes, kind)
    grid = mdm.diffusion.time_grid("uniform", 5)
    for name in samplers.NAMES:
        sample, _ = samplers.run(
            samplers.get(name),
            lambda levels, time: {"16": 0.9 * levels["16"] / (1.0 + time)},
            {"16": schedules.cosine()},
            grid,
            {"16": x},
            noise=lambda index, level, x_t: eps,
        )
        results[f"sampler/{name}"] = sample["16"]
    return {name: to_numpy(value) for name, value in results.items()}


def to_numpy(value: Any) -> np.ndarray:
    """A tensor of any backend as an array, bfloat16 as float32."""
    if keras.backend.standardize_dtype(value.dtype) == "bfloat16":
        value = ops.cast(value, "float32")
    return ops.convert_to_numpy(ops.convert_to_tensor(value))


def difference(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Largest difference of any two arrays, as a share of the largest expected value of each."""
    if set(actual) != set(expected):
        raise ValueError(f"other results: {sorted(set(actual) ^ set(expected))}")
    shares = [
        np.max(np.abs(np.asarray(actual[name], "float64") - expected[name]))
        / max(1.0, np.max(np.abs(expected[name])))
        for name in expected
    ]
    return float(np.max(shares))

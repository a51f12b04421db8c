"""The Inception network of 2015: its layers in the names of the public PyTorch port."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks

WIDTH, CLASSES, SIDE = 2048, 1008, 299
_EPSILON = 1e-3
_SHOWN = 4  # names that an error lists of each kind

# Steps of a branch. Windows of 3 x 3: "average" and "max" keep the size, "halve" takes a maximum.
_AVERAGE, _MAX, _HALVE = "average", "max", "halve"


@dataclasses.dataclass(frozen=True)
class _Convolution:
    """A convolution without bias, then a batch normalisation and a ReLU.

    A stride of 2 goes with "valid" padding; all others are "same" unless they say otherwise.
    """

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


def _conv(name: str, channels: int, height: int = 1, width: int | None = None) -> _Convolution:
    return _Convolution(name, channels, (height, width or height))


def _down(name: str, channels: int) -> _Convolution:
    return _Convolution(name, channels, (3, 3), 2, "VALID")


def _block_35(pooled: int) -> tuple:
    return (
        (_conv("branch1x1", 64),),
        (_conv("branch5x5_1", 48), _conv("branch5x5_2", 64, 5)),
        tuple(_conv(f"branch3x3dbl_{i + 1}", c, k) for i, (c, k) in enumerate(_DOUBLE)),
        (_AVERAGE, _conv("branch_pool", pooled)),
    )


def _block_17(inner: int) -> tuple:
    return (
        (_conv("branch1x1", 192),),
        (
            _conv("branch7x7_1", inner),
            _conv("branch7x7_2", inner, 1, 7),
            _conv("branch7x7_3", 192, 7, 1),
        ),
        (
            _conv("branch7x7dbl_1", inner),
            _conv("branch7x7dbl_2", inner, 7, 1),
            _conv("branch7x7dbl_3", inner, 1, 7),
            _conv("branch7x7dbl_4", inner, 7, 1),
            _conv("branch7x7dbl_5", 192, 1, 7),
        ),
        (_AVERAGE, _conv("branch_pool", 192)),
    )


def _block_8(pool: str) -> tuple:
    def fork(name: str) -> tuple[_Convolution, _Convolution]:
        return _conv(f"{name}a", 384, 1, 3), _conv(f"{name}b", 384, 3, 1)

    return (
        (_conv("branch1x1", 320),),
        (_conv("branch3x3_1", 384), fork("branch3x3_2")),
        (_conv("branch3x3dbl_1", 448), _conv("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")),
        (pool, _conv("branch_pool", 192)),
    )


_DOUBLE = ((64, 1), (96, 3), (96, 3))
# (name, branches). The outputs of the branches are joined along the channels.
_BLOCKS: tuple[tuple[str, tuple], ...] = (
    (
        "",
        (
            (
                _down("Conv2d_1a_3x3", 32),
                _Convolution("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
                _conv("Conv2d_2b_3x3", 64, 3),
                _HALVE,
                _conv("Conv2d_3b_1x1", 80),
                _Convolution("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),
                _HALVE,
            ),
        ),
    ),
    ("Mixed_5b.", _block_35(32)),
    ("Mixed_5c.", _block_35(64)),
    ("Mixed_5d.", _block_35(64)),
    (
        "Mixed_6a.",
        (
            (_down("branch3x3", 384),),
            (
                _conv("branch3x3dbl_1", 64),
                _conv("branch3x3dbl_2", 96, 3),
                _down("branch3x3dbl_3", 96),
            ),
            (_HALVE,),
        ),
    ),
    ("Mixed_6b.", _block_17(128)),
    ("Mixed_6c.", _block_17(160)),
    ("Mixed_6d.", _block_17(160)),
    ("Mixed_6e.", _block_17(192)),
    (
        "Mixed_7a.",
        (
            (_conv("branch3x3_1", 192), _down("branch3x3_2", 320)),
            (
                _conv("branch7x7x3_1", 192),
                _conv("branch7x7x3_2", 192, 1, 7),
                _conv("branch7x7x3_3", 192, 7, 1),
                _down("branch7x7x3_4", 192),
            ),
            (_HALVE,),
        ),
    ),
    ("Mixed_7b.", _block_8(_AVERAGE)),
    # A maximum here, unlike the published description: so the network of 2015 was trained.
    ("Mixed_7c.", _block_8(_MAX)),
)


def kernel_shapes() -> dict[str, tuple[int, int, int, int]]:
    """{name of a convolution: (outputs, inputs, height, width)} in order."""
    found: dict[str, tuple[int, int, int, int]] = {}

    def walk(prefix: str, steps: tuple, channels: int) -> int:
        for step in steps:
            if isinstance(step, tuple):
                channels = sum(walk(prefix, (part,), channels) for part in step)
            elif isinstance(step, _Convolution):
                found[prefix + step.name] = (step.channels, channels, *step.kernel)
                channels = step.channels
        return channels

    channels = 3
    for prefix, branches in _BLOCKS:
        channels = sum(walk(prefix, branch, channels) for branch in branches)
    return found


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """{name: shape} of all tensors of the port's file."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in kernel_shapes().items():
        found[f"{name}.conv.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{part}"] = shape[:1]
    return found | {"fc.weight": (CLASSES, WIDTH), "fc.bias": (CLASSES,)}


def require_port(state: Mapping[str, Any], path: Any) -> None:
    """Raise unless `state` has the port's tensors, and no others."""
    expected = tensor_shapes()
    # Counts of training steps, which older files lack.
    given = {name for name in state if not name.endswith(".num_batches_tracked")}
    missing, strangers = sorted(set(expected) - given), sorted(given - set(expected))
    wrong = [
        f"{name}: {np.shape(state[name])} instead of {shape}"
        for name, shape in expected.items()
        if name in given and np.shape(state[name]) != shape
    ]
    bad = [
        name
        for name in expected
        if name in given
        and not wrong
        and (state[name].dtype.kind != "f" or not np.isfinite(state[name]).all())
    ]
    if missing or strangers or wrong or bad:
        raise checks.error(
            "the weights must be those of the Inception network of 2015 in the names of its "
            "PyTorch port, which torchvision's own Inception, with 1000 classes, is not",
            fix="pass pt_inception-2015-12-05-6726825d.pth",
            weights=str(path),
            missing=_first(missing),
            unexpected=_first(strangers),
            shapes=_first(wrong),
            not_finite_numbers=_first(bad),
        )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def folded(state: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (kernel (h, w, in, out), bias)} with the normalisations folded in."""
    found = {}
    for name in kernel_shapes():
        kernel, gamma, beta, mean, variance = (
            np.asarray(state[f"{name}.{part}"], "float64")
            for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        )
        scale = gamma / np.sqrt(variance + _EPSILON)
        kernel = (kernel * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        found[name] = kernel.astype("float32"), (beta - mean * scale).astype("float32")
    return found


def forward(layers: Mapping[str, tuple[np.ndarray, np.ndarray]], x: tf.Tensor) -> tf.Tensor:
    """Return features (B, 2048) of pictures (B, 299, 299, 3) in [-1, 1]."""
    for prefix, branches in _BLOCKS:
        x = tf.concat([y for branch in branches for y in _run(layers, prefix, branch, x)], -1)
    return tf.reduce_mean(x, axis=(1, 2))


def _run(layers: Mapping, prefix: str, steps: tuple, x: tf.Tensor) -> Iterator[tf.Tensor]:
    """Yield the outputs of a branch: two if it ends in a fork."""
    for step in steps:
        if isinstance(step, tuple):
            yield from (y for part in step for y in _run(layers, prefix, (part,), x))
            return
        x = _step(layers, prefix, step, x)
    yield x


def _step(layers: Mapping, prefix: str, step: Any, x: tf.Tensor) -> tf.Tensor:
    if step == _AVERAGE:
        # With "SAME", what lies outside the picture does not count.
        return tf.nn.avg_pool2d(x, 3, 1, "SAME")
    if step == _MAX:
        return tf.nn.max_pool2d(x, 3, 1, "SAME")
    if step == _HALVE:
        return tf.nn.max_pool2d(x, 3, 2, "VALID")
    kernel, bias = layers[prefix + step.name]
    return tf.nn.relu(tf.nn.conv2d(x, kernel, step.stride, step.padding) + bias)

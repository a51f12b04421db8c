"""Files with the Inception network of 2015: as weights, as a frozen graph, as a SavedModel."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.evaluation import inception_layers, saved_models
from keras_mdm.evaluation.inception_layers import CLASSES, SIDE, WIDTH
from keras_mdm.evaluation.saved_models import shape_of
from keras_mdm.interop.torch_legacy import read_legacy
from keras_mdm.interop.torch_reader import TorchFile
from keras_mdm.text.safetensors_header import read_header

# The port's file, which two projects publish under two names.
PUBLISHED = frozenset({"6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"})
_INPUT, _POOL, _LOGITS = "ExpandDims", "pool_3", "softmax/logits/MatMul"
_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A network that was read from a file.

    Attributes:
        pooled: features (B, 2048) of pictures (B, 299, 299, 3) on the scale 0..255.
        matrix: (2048, 1008) of the classifier, or `None` if the file has none.
        known: whether the shapes of all layers are those of the network of 2015.
        resizes: whether `pooled` takes any size, and resizes as the original does.
        stem: kernel (3, 3, 3, 32) of the first layer, if the file names it.
    """

    pooled: Callable[[Any], np.ndarray]
    matrix: np.ndarray | None
    known: bool
    resizes: bool = False
    stem: np.ndarray | None = None


def read(path: str | os.PathLike) -> Source:
    """Read a network, of the kind that the first bytes of the file tell."""
    if Path(path).is_dir():
        return _saved_model(path)
    if not Path(path).is_file():
        raise checks.error(
            "the weights must be a file, or the folder of a SavedModel",
            fix="check the path",
            weights=str(path),
        )
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04"):
        return _port(TorchFile(path).items(), path)
    if head.startswith(b"\x80"):
        return _port(read_legacy(path), path)
    if head[8:9] == b"{":
        return _port(_safetensors(Path(path)), path)
    if head.startswith(b"\n"):
        return _frozen_graph(path)
    raise checks.error(
        "the weights must be a PyTorch file, a safetensors file or a frozen TensorFlow graph",
        fix="unpack archives first, and fetch again what is only a page or a pointer",
        weights=str(path),
        first_bytes=head,
    )


def digest(path: str | os.PathLike) -> str:
    """Return the sha256 of a file; of a folder, that of the names and contents of its files."""
    whole, root = hashlib.sha256(), Path(path)
    inside = sorted(part for part in root.rglob("*") if part.is_file())
    for part in inside if root.is_dir() else [root]:
        if root.is_dir():
            whole.update(f"{part.relative_to(root).as_posix()}\0{part.stat().st_size}\0".encode())
        with open(part, "rb") as file:
            while piece := file.read(2**22):
                whole.update(piece)
    return whole.hexdigest()


def fingerprint(source: Source, sha256: str) -> str:
    """Eight digits that tell weights apart, the same for the port and the graph that it came from.

    Args:
        source: the network.
        sha256: of its file, used if the file does not name the layers.
    """
    if source.matrix is None or source.stem is None:
        return sha256[:8]
    whole = hashlib.sha256()
    for values in (source.stem, source.matrix):
        whole.update(np.ascontiguousarray(values, "<f4").tobytes())
    return whole.hexdigest()[:8]


def _port(items: Any, path: str | os.PathLike) -> Source:
    state = items.get("state_dict", items) if isinstance(items, Mapping) else {}
    arrays = {str(k): v for k, v in state.items() if isinstance(v, np.ndarray)}
    inception_layers.require_port(arrays, path)
    layers = {
        name: (tf.constant(kernel), tf.constant(bias))
        for name, (kernel, bias) in inception_layers.folded(arrays).items()
    }
    stem = arrays["Conv2d_1a_3x3.conv.weight"].transpose(2, 3, 1, 0)

    @tf.function(
        input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32)], autograph=False
    )
    def pooled(x: tf.Tensor) -> tf.Tensor:
        return inception_layers.forward(layers, (x - 128.0) / 128.0)

    # Copied: the arrays are views of the file.
    matrix = np.array(arrays["fc.weight"].T, "float32", order="C")
    return Source(lambda x: pooled(x).numpy(), matrix, known=True, stem=np.array(stem))


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    places, wrong = read_header(path)
    wrong += [f"{n} is of type {p.kind}" for n, p in places.items() if p.kind not in _KINDS]
    if wrong:
        raise checks.error(
            "the weights must be a whole safetensors file of floats",
            fix="fetch or write the file again",
            weights=str(path),
            problems=wrong[:4],
        )
    found = {}
    for name, place in places.items():
        count = int(np.prod(place.shape))
        values = np.fromfile(path, _KINDS[place.kind], count, offset=place.offset)
        if place.kind == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        found[name] = values.reshape(place.shape)
    return found


def _frozen_graph(path: str | os.PathLike) -> Source:
    definition = tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(Path(path).read_bytes())
        problem = ""
    except Exception as found:  # protobuf's own, of a module that differs between its versions
        problem = str(found)
    names = {node.name for node in definition.node}
    missing = sorted({_INPUT, _POOL} - names)
    if problem or missing:
        raise checks.error(
            "the graph must be the frozen one of 2015, with its names",
            fix="pass classify_image_graph_def.pb of inception-2015-12-05.tgz",
            weights=str(path),
            missing=missing,
            problem=problem,
        )
    # A session: functions do not run the graph's normalisation, an operation removed long ago.
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        given = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
        wanted = [f"{_POOL}:0", *([_LOGITS] if _LOGITS in names else [])]
        pool, *logits = tf.import_graph_def(definition, {f"{_INPUT}:0": given}, wanted, name="")
        matrix = session.run(logits[0].inputs[1]) if logits else None
    constants = [node for node in definition.node if node.op == "Const"]
    stem = [node for node in constants if node.name == "conv/conv2d_params"]
    return Source(
        lambda x: _features(session.run(pool, {given: np.asarray(x)}), len(x), path),
        matrix,
        known=_is_known(map(shape_of, constants), matrix),
        resizes=True,
        stem=tf.make_ndarray(stem[0].attr["value"].tensor) if stem else None,
    )


def _saved_model(path: str | os.PathLike) -> Source:
    found = saved_models.load(path)
    entry, output = _entries(found, path)
    weights = found.weights()
    matrices = [value for shape, value in weights if shape == (WIDTH, CLASSES)]
    matrix = matrices[0]() if matrices else None
    shapes = [shape for shape, _ in weights]

    def pooled(x: tf.Tensor) -> np.ndarray:
        return _features(found(entry, (x - 128.0) / 128.0)[output].numpy(), len(x), path)

    return Source(pooled, matrix, known=_is_known(shapes, matrix))


def _entries(found: saved_models.Signature, path: str | os.PathLike) -> tuple[str, str]:
    """Return the name of the only input, and that of the output with the features."""
    outputs = found.outputs
    wide = [n for n, spec in outputs.items() if spec.shape.rank and spec.shape[-1] == WIDTH]
    output = _POOL if _POOL in outputs else wide[0] if len(wide) == 1 else None
    if len(found.inputs) != 1 or output is None:
        raise checks.error(
            "the SavedModel must have a signature of one input, pictures (B, 299, 299, 3) in "
            "[-1, 1], and an output `pool_3` of 2048 features",
            fix="export the network with such a signature",
            weights=str(path),
            signatures=found.names,
            inputs=sorted(found.inputs),
            outputs=sorted(outputs),
        )
    return next(iter(found.inputs)), output


def _is_known(shapes: Iterable[tuple[int, ...]], matrix: np.ndarray | None) -> bool:
    kernels = collections.Counter(shape for shape in shapes if len(shape) == 4)
    expected = inception_layers.kernel_shapes().values()
    same = kernels == collections.Counter((h, w, i, o) for o, i, h, w in expected)
    return same and matrix is not None and matrix.shape == (WIDTH, CLASSES)


def _features(found: np.ndarray, count: int, path: str | os.PathLike) -> np.ndarray:
    if found.shape not in {(count, WIDTH), (count, 1, 1, WIDTH)}:
        raise checks.error(
            f"the network must give {WIDTH} features per picture",
            fix="pass the Inception network of 2015",
            weights=str(path),
            shape=found.shape,
        )
    return found.reshape(count, WIDTH)

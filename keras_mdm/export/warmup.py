"""Requests that TensorFlow Serving makes of itself, so that the first caller does not wait.

Serving reads them as TFRecords of `PredictionLog`. Its messages are not part of TensorFlow, and
the three that are needed nest a handful of fields, so they are written field by field.

Reference: tensorflow_serving/apis: prediction_log.proto, predict.proto, model.proto.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_mdm.conditioning.low_res import LOW_RES

PLACE = Path("assets.extra") / "tf_serving_warmup_requests"
# Numbers of fields.
_PREDICT_LOG, _REQUEST = 6, 1  # PredictionLog.predict_log, PredictLog.request
_MODEL, _INPUTS = 1, 2  # PredictRequest.model_spec, PredictRequest.inputs
_NAME, _SIGNATURE = 1, 3  # ModelSpec.name, ModelSpec.signature_name
_KEY, _VALUE = 1, 2  # an entry of a map


def write(directory: Path, signatures: Mapping[str, Mapping[str, Any]], name: str) -> Path:
    """Write the requests.

    Args:
        directory: the exported model.
        signatures: inputs of every request, values by name.
        name: of the model, in Serving.

    Returns:
        The file.
    """
    file = directory / PLACE
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, inputs in signatures.items():
            writer.write(request(name, signature, inputs))
    return file


def request(name: str, signature: str, inputs: Mapping[str, Any]) -> bytes:
    """The bytes of a `PredictionLog` with one request.

    Args:
        name: of the model.
        signature: of the model.
        inputs: values by name.
    """
    found = _field(_MODEL, _field(_NAME, name.encode()) + _field(_SIGNATURE, signature.encode()))
    for key, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        found += _field(_INPUTS, _field(_KEY, key.encode()) + _field(_VALUE, tensor))
    return _field(_PREDICT_LOG, _field(_REQUEST, found))


def example(graph: Any, steps: int) -> dict[str, Any]:
    """One row of inputs for a signature.

    Args:
        graph: its concrete function.
        steps: number of steps to take.
    """
    found = {}
    for name, spec in graph.structured_input_signature[1].items():
        shape = [1 if size is None else size for size in spec.shape]
        if name == LOW_RES:
            shape = [1, 8, 8, *shape[3:]] if len(shape) == 4 else shape
        if spec.dtype == tf.string:
            found[name] = tf.fill(shape, "")
        else:
            one = {"steps": steps, "t": 1, "text_mask": 1, "low_res_noise": 1}.get(name, 0)
            found[name] = tf.cast(tf.fill(shape, one), spec.dtype)
    return found


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes: its number and kind, its length, its content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; all but the last have the eighth bit."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])

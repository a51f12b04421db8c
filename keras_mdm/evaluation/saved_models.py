"""Feature networks that users have as SavedModels, those of TF-Hub's first format included."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks

# Marks a module of TF-Hub's first format, whose graph for use has no tag.
_HUB_MODULE = "tfhub_module.pb"


class Signature:
    """A signature of a SavedModel. A SavedModel is a program: load it only from who you trust.

    Attributes:
        names: of all signatures of the file.
        inputs: specification of every input by name.
        outputs: of every output.

    Args:
        folder: of the file.
        model: what `tf.saved_model.load` returned. It is kept: a function of a SavedModel does not
            keep its variables alive.
    """

    def __init__(self, folder: Path, model: Any):
        found = dict(model.signatures)
        chosen = (found.get(name) for name in ("serving_default", "default", *found))
        self._folder, self._model = folder, model
        self._call = next(filter(None, chosen), None)
        self.names = sorted(found)
        self.inputs: Mapping[str, Any] = {}
        self.outputs: Mapping[str, Any] = {}
        if self._call is not None:
            self.inputs = self._call.structured_input_signature[1]
            self.outputs = self._call.structured_outputs

    def __call__(self, entry: str, value: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """Run it.

        Args:
            entry: name of the input.
            value: for it.
        """
        return self._call(**{entry: value})  # type: ignore[misc]

    def weights(self) -> list[tuple[tuple[int, ...], Callable[[], np.ndarray]]]:
        """Shape of every weight, and a function that returns its values.

        Weights are variables, tensors that the function captured, or constants inside.
        """
        call: Any = self._call
        captured = [value for value in call.captured_inputs if value.dtype.is_floating]
        found = [(tuple(value.shape), value.numpy) for value in [*call.variables, *captured]]
        variables = self._folder / "variables" / "variables"
        if not call.variables and variables.with_suffix(".index").is_file():
            # The variables of TensorFlow 1 show only in their file.
            reader = tf.train.load_checkpoint(os.fspath(variables))
            for name, shape in reader.get_variable_to_shape_map().items():
                found.append((tuple(shape), partial(reader.get_tensor, name)))
        definition = call.graph.as_graph_def()
        inner = [node for function in definition.library.function for node in function.node_def]
        for node in [*definition.node, *inner]:
            if node.op == "Const":
                tensor = node.attr["value"].tensor
                found.append((shape_of(node), partial(tf.make_ndarray, tensor)))
        return found


def load(path: str | os.PathLike) -> Signature:
    """Load the signature "serving_default", "default", or the first one of a SavedModel.

    Args:
        path: its folder.

    Raises:
        ValueError: if it is not the folder of a SavedModel.
    """
    folder = Path(path)
    if not (folder / "saved_model.pb").is_file():
        raise checks.error(
            "the folder must be a SavedModel", fix="pass the folder with saved_model.pb", path=path
        )
    tags: Any = [] if (folder / _HUB_MODULE).is_file() else None
    return Signature(folder, tf.saved_model.load(os.fspath(path), tags=tags))


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of the value of a constant of a graph."""
    return tuple(side.size for side in node.attr["value"].tensor.tensor_shape.dim)

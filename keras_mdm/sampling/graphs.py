"""Traced functions by what they were traced for; the most recently used are kept."""

import collections
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm.tracing import compiled_whole, forgotten_gradients

# The graph of a large network takes hundreds of megabytes and tens of seconds of tracing. The limit
# suffices for programs that alternate between options, and bounds those that try many.
LIMIT = 16


class Graphs:
    """At most `limit` traced functions; the least recently used is dropped first.

    Args:
        limit: number of functions to keep.

    Example:

    >>> graphs = Graphs()
    >>> twice = lambda plan, x: {"y": 2.0 * x}
    >>> float(graphs.call("twice", None, twice, tf.ones(3))["y"][0])
    2.0
    """

    def __init__(self, limit: int = LIMIT):
        self._limit = limit
        self._known: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def tracings(self) -> list[int]:
        """How often each function was traced; the most recently used comes last."""
        return [function.experimental_get_tracing_count() for function in self._known.values()]

    def call(
        self,
        name: str,
        plan: Hashable,
        function: Callable[..., Any],
        *args: Any,
        fixed: Any = (),
        jit_compile: bool = False,
    ) -> Any:
        """Return `function(plan, *args)`, traced once for any number of rows and text tokens.

        Args:
            name: tells functions apart.
            plan: static choices of the function.
            function: takes the plan and nested tensors, and returns nested tensors.
            *args: nested tensors.
            fixed: one more argument, if any: nested tensors without rows, whose shapes stay.
            jit_compile: compile the function with XLA.
        """
        specs = _relaxed(args)
        if tf.nest.flatten(fixed):
            args += (fixed,)
            specs += (tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), fixed),)
        key = (name, plan, jit_compile, str(specs))
        traced = self._known.pop(key, None)
        if traced is None:
            planned = functools.partial(function, plan)
            traced = tf.function(
                compiled_whole(planned) if jit_compile else planned,
                reduce_retracing=True,
                autograph=False,
                jit_compile=jit_compile,
            )
            with forgotten_gradients():
                traced.get_concrete_function(*specs)
        self._known[key] = traced  # moved to the end
        while len(self._known) > self._limit:
            self._known.popitem(last=False)
        return traced(*args)


def _relaxed(args: Any) -> Any:
    """Tensor specs with unknown numbers of rows and of text tokens."""

    def spec(path: tuple, value: tf.Tensor) -> tf.TensorSpec:
        shape = value.shape.as_list()
        if shape:
            shape[0] = None
        if path and path[-1] in ("text", "text_mask"):
            shape[1] = None
        return tf.TensorSpec(shape, value.dtype)

    def walk(value: Any, path: tuple) -> Any:
        if isinstance(value, Mapping):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(walk(item, path) for item in value)
        return spec(path, value)

    return walk(args, ())

"""Parts of the training step that all replicas share: traced once, not once per replica.

`strategy.run` calls the step once per replica, and each call adds the whole network and its
gradients to the graph: a minute of tracing on one device becomes eight minutes on eight, with eight
times the memory. Here, what differs only in the variables is traced for the first replica only, as
a function of its own; the other replicas call that function with their copies of the variables.

XLA compiles these same parts. Sums over replicas, metrics and the drawing of times stay outside:
XLA has no kernels for some of them.
"""

import contextlib
import ctypes
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager import context  # neither has a public name: the kernels it keeps
from tensorflow.python.framework import ops  # nor what it registers

from keras_mdm import checks

# Marks on a graph: compile its parts, or it is compiled as a whole.
_PARTS, _WHOLE = "_keras_mdm_compiles_parts", "_keras_mdm_is_compiled"
# And: trace once what it holds many times.
_REPEATS = "_keras_mdm_shares_repeats"


def compile_parts() -> None:
    """Have XLA compile every `SharedTrace` of the function that is being traced."""
    setattr(tf.compat.v1.get_default_graph(), _PARTS, True)


def compiled_whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `function` for `tf.function(..., jit_compile=True)`, so that `is_compiled` knows."""

    def marked(*args: Any) -> Any:
        setattr(tf.compat.v1.get_default_graph(), _WHOLE, True)
        return function(*args)

    return marked


def is_compiled() -> bool:
    """Whether XLA will compile the function being traced."""
    return _marked(_WHOLE)


def _marked(name: str) -> bool:
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and not hasattr(graph, name):
        graph = getattr(graph, "outer_graph", None)  # loops have graphs of their own
    return graph is not None


class SharedTrace:
    """A function of tensors and a model's variables, for use inside a traced step.

    It is the plain function if this machine has a single replica or nothing is being traced. If
    `compile_parts` was called, XLA compiles it.

    Args:
        function: takes nested tensors and returns nested tensors. It must not depend on the
            replica: no collective operations, no replica number, and tensors of the step only as
            arguments.
        variables: function that returns the variables that `function` may read.

    Example:

    ```python
    losses = SharedTrace(model.losses_of, lambda: model.variables)
    values = strategy.run(lambda batch: losses(batch), args=(batch,))
    ```
    """

    def __init__(
        self,
        function: Callable[..., Any],
        variables: Callable[[], Sequence[keras.Variable]],
    ):
        self._function, self._variables = function, variables

    def __call__(self, *args: Any) -> Any:
        if tf.executing_eagerly():
            return self._function(*args)
        compiled = _marked(_PARTS)
        if not compiled and _replicas_here(tf.distribute.get_strategy()) < 2:
            return self._function(*args)
        # Kept in the graph of the step: another graph needs another trace.
        graph = tf.compat.v1.get_default_graph()
        if not hasattr(graph, "_shared_traces"):
            graph._shared_traces, graph._shared_calls = {}, []
        known = graph._shared_traces.setdefault(self, {})
        specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), args)
        key = str(specs)
        if key not in known:
            known[key] = self._trace(specs, compiled)
        concrete, owners = known[key]
        captured = [
            owners[number]._get().handle if number in owners else tensor
            for number, tensor in enumerate(concrete.captured_inputs)
        ]
        with tf.control_dependencies(graph._shared_calls if _one_processor() else ()):
            # A private method of TensorFlow 2.21, to which the package is pinned.
            outputs = concrete._call_flat(tf.nest.flatten(args), captured)
        graph._shared_calls = [tf.nest.flatten(outputs)[0].op]
        return outputs

    def _trace(self, specs: Any, compiled: bool) -> tuple[Any, dict[int, Any]]:
        """The traced function, and which variable each of its captures belongs to."""
        # No device of the first replica: operations run where the function is called. Not inlined,
        # or the graph would be as large as without sharing.
        with tf.device(None):
            concrete = tf.function(
                compiled_whole(self._function) if compiled else self._function,
                autograph=False,
                jit_compile=compiled,
                experimental_attributes={"_noinline": True},
            ).get_concrete_function(*specs)
        distributed = [variable.value for variable in self._variables()]
        by_handle = {v._primary.handle._id: v for v in distributed if hasattr(v, "_primary")}
        owners = {}
        for number, tensor in enumerate(concrete.captured_inputs):
            if tf.is_symbolic_tensor(tensor):
                raise checks.error(
                    "what replicas share must not use tensors of the step that traces it",
                    fix="pass them as arguments",
                    tensor=tensor,
                )
            if tensor._id in by_handle:
                owners[number] = by_handle[tensor._id]
        return concrete, owners


def share_repeats() -> None:
    """Have the function that is being traced hold what `traced_once` returns once for each shape.

    For training steps: their graphs are large. Pictures are drawn from the whole graph, which
    TensorFlow rewrites with other rounding.
    """
    if tf.inside_function():
        setattr(tf.compat.v1.get_default_graph(), _REPEATS, True)


def traced_once(function: Callable[..., Any], **constants: Any) -> Callable[..., Any]:
    """Return `function` with some arguments fixed, traced once for each shape in a graph for which
    `share_repeats` was called.

    For what a network does many times over: each further use is a single operation of the graph.

    Args:
        function: of tensors that are passed as arguments, to tensors.
        **constants: arguments that are not tensors.

    Returns:
        A function of the remaining arguments; the plain one in any other graph, and without one.

    Example:

    >>> @tf.function
    ... def step(x):
    ...     share_repeats()
    ...     double = traced_once(lambda x, times: x * times, times=2.0)
    ...     return double(x)
    >>> float(step(tf.constant(3.0)))
    6.0
    """
    plain = functools.partial(function, **constants)
    if not tf.inside_function() or not _marked(_REPEATS):
        return plain
    # Kept in the outermost graph: its custom gradients are forgotten with it (see below). Outside
    # of that is the default graph, which lives as long as the process.
    graph = tf.compat.v1.get_default_graph()
    while hasattr(getattr(graph, "outer_graph", None), "outer_graph"):
        graph = graph.outer_graph
    if not hasattr(graph, "_traced_once"):
        graph._traced_once = {}
    key = (function, *sorted(constants.items()))
    if key not in graph._traced_once:
        # Not inlined: TensorFlow would rewrite and set up every use again.
        graph._traced_once[key] = tf.function(
            plain, autograph=False, experimental_attributes={"_noinline": True}
        )
    return graph._traced_once[key]


@contextlib.contextmanager
def forgotten_gradients() -> Iterator[None]:
    """Forget, at the end, the custom gradients of what was traced inside.

    TensorFlow keeps each custom gradient (`GroupNorm` has one) by name for as long as the process
    runs, and with it the graph that it was traced in. They are needed only where a gradient is
    taken: in a training or sampling step, while the step itself is traced.
    """
    known = ops.gradient_registry._registry
    before = set(known)
    try:
        yield
    finally:
        for name in set(known) - before:
            if name.startswith("CustomGradient-"):
                known.pop(name, None)


def free_what_is_gone() -> None:
    """Free models that nothing uses any more, together with their traces.

    A model and its traced functions refer to each other, so only the garbage collector frees them,
    and that may take long. TensorFlow also keeps the kernels of their graphs, for every replica.
    """
    gc.collect()
    context.context().clear_kernel_cache()
    with contextlib.suppress(AttributeError, OSError):
        # The allocator of glibc keeps what is freed in small pieces, and graphs are small pieces.
        ctypes.CDLL(None).malloc_trim(0)


def local(variable: keras.Variable | tf.Variable) -> tf.Variable:
    """Return this replica's copy of a variable, which it may update by itself.

    If all replicas make the same update from the same values, their copies stay equal, and nothing
    has to be sent or merged.

    Args:
        variable: of a model or an optimizer.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return value._get() if hasattr(value, "_primary") else value


def _one_processor() -> bool:
    """Whether all replicas of this machine run on its CPU: running at once would need the memory of
    all and be no faster, so they take turns."""
    strategy = tf.distribute.get_strategy()
    if _replicas_here(strategy) < 2:
        return False
    devices = strategy.extended.worker_devices
    return all(tf.DeviceSpec.from_string(device).device_type == "CPU" for device in devices)


def _replicas_here(strategy: tf.distribute.Strategy) -> int:
    kinds = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    return len(strategy.extended.worker_devices) if isinstance(strategy, kinds) else 1

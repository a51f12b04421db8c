"""One forward pass under JAX or PyTorch: how to run it, its memory, its precision."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import backend_cases as cases
import keras

import keras_mdm as mdm

BACKEND = keras.backend.backend()
Pass = tuple[Callable[[], Any], Callable[[], float | None], Callable[[Any], Any]]


def jax_pass(unet: mdm.NestedUNet, inputs: dict[str, Any], how: str) -> Pass:
    """The compiled pass, its memory, and how to wait for it."""
    import jax

    function, state = cases.stateless(unet)
    compiled: list[Any] = []  # on the first call, whose time is spent compiling

    def run() -> Any:
        if not compiled:
            compiled.append(jax.jit(function).lower(inputs, *state).compile())
        return compiled[0](inputs, *state)

    def peak() -> float:
        memory = compiled[0].memory_analysis()
        return sum(getattr(memory, f"{e}_size_in_bytes") for e in ("argument", "output", "temp"))

    return run, peak, jax.block_until_ready


def torch_pass(unet: mdm.NestedUNet, inputs: dict[str, Any], how: str) -> Pass:
    """The pass in PyTorch, its memory, and how to wait for it."""
    import torch

    function = cases.forward(unet)
    if how == "compile":
        from torch.fx.experimental.proxy_tensor import make_fx

        torch.compiler.reset()
        with torch.no_grad():
            # PyTorch's compiler would spend minutes on Keras' own Python, so it gets only the
            # operations.
            graph = make_fx(lambda inputs: dict(unet(inputs, training=False)))(inputs)
        function = torch.no_grad()(torch.compile(graph))
    if not on_gpu():
        return lambda: function(inputs), lambda: None, lambda outputs: outputs
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    wait = torch.cuda.synchronize
    return lambda: function(inputs), torch.cuda.max_memory_allocated, lambda outputs: wait()


@contextlib.contextmanager
def precision(numbers: str) -> Iterator[None]:
    """Set whether products of float32 numbers may be rounded to the 10 bits of TF32."""
    exact = numbers == "float32"
    if BACKEND == "jax":
        import jax

        with jax.default_matmul_precision("float32" if exact else "tensorfloat32"):
            yield
        return
    if BACKEND == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = not exact
        torch.backends.cudnn.allow_tf32 = not exact
    yield


def on_gpu() -> bool:
    return not device_name().startswith("cpu")


def device_name() -> str:
    """The first accelerator, or "cpu"."""
    if BACKEND == "jax":
        import jax

        device = jax.devices()[0]
        return "cpu" if device.platform == "cpu" else f"{device.device_kind}, jax {jax.__version__}"
    if BACKEND == "torch":
        import torch

        gpu = torch.cuda.is_available()
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}" if gpu else "cpu"
    return "cpu"

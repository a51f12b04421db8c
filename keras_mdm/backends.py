"""Which parts of the package need TensorFlow, and the one error that says so.

The network (`layers`, `models`) and the mathematics (`diffusion`) are written in `keras.ops` and
run wherever Keras does. Training, sampling, data and files need TensorFlow.
"""

import importlib.util

import keras

from keras_mdm import checks


def runs_on_tensorflow() -> bool:
    """Whether Keras computes with TensorFlow in this process."""
    return keras.backend.backend() == "tensorflow"


def require_tensorflow(what: str) -> None:
    """Raise unless Keras computes with TensorFlow.

    Args:
        what: the requested name.

    Raises:
        ImportError: if Keras uses another backend, whether or not TensorFlow is installed.

    Example, with the environment variable KERAS_BACKEND=jax:

    >>> require_tensorflow("keras_mdm.data")  # doctest: +SKIP
    Traceback (most recent call last):
    ImportError: `keras_mdm.data` needs TensorFlow. Received: backend='jax'. To fix it: ...
    """
    if runs_on_tensorflow():
        return
    fix = "set KERAS_BACKEND=tensorflow before Keras is imported"
    if importlib.util.find_spec("tensorflow") is None:
        fix = f'install it with `pip install "tensorflow>=2.21,<2.22"`, and {fix}'
    error = checks.error(
        f"`{what}` needs TensorFlow",
        fix=f"{fix}; networks (build_nested_unet, layers, presets) and diffusion run without it",
        backend=keras.backend.backend(),
    )
    raise ImportError(str(error))

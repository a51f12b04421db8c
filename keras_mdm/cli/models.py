"""Loading of a saved model, for the commands that need one."""

from pathlib import Path
from typing import TYPE_CHECKING

from keras_mdm import checks
from keras_mdm.cli.quiet import quiet_start

if TYPE_CHECKING:
    from keras_mdm.training import MatryoshkaDiffusion


def load(path: str) -> "MatryoshkaDiffusion":
    """Load a `MatryoshkaDiffusion` from a `.keras` file, without its optimizer.

    Args:
        path: the file.

    Returns:
        The model.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise checks.error(
            "the model must be a file that `model.save` wrote",
            fix="check the path; it ends in .keras",
            model=path,
        )
    with quiet_start():
        import keras

        from keras_mdm.training import MatryoshkaDiffusion
    model = keras.saving.load_model(path, compile=False)
    if not isinstance(model, MatryoshkaDiffusion):
        raise checks.error(
            "the file must hold a MatryoshkaDiffusion",
            fix="save the diffusion model, not only its network",
            model=path,
            type=type(model).__name__,
        )
    return model

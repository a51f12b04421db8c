"""Matryoshka Diffusion Models in TensorFlow and Keras 3.

Reference: Gu et al. 2023, "Matryoshka Diffusion Models" (arXiv 2310.15111).
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm.moved import MOVED, follow_moved

if TYPE_CHECKING:
    from keras_mdm import (
        assets,
        callbacks,
        costs,
        data,
        diffusion,
        distribute,
        estimate,
        evaluation,
        interop,
        latents,
        layers,
        optimizers,
        text,
    )
    from keras_mdm.cascade import Cascade
    from keras_mdm.costs.describe import describe
    from keras_mdm.export import export_saved_model
    from keras_mdm.models import LevelSpec, NestedUNet, build_nested_unet, cut, grow, presets
    from keras_mdm.runs.autoencoding import fit_autoencoder
    from keras_mdm.runs.loading import load
    from keras_mdm.runs.progressive import PhaseContext, fit_progressively
    from keras_mdm.training import MatryoshkaDiffusion
    from keras_mdm.training.phases import Phase, WeightRamp

__version__ = "0.1.0"

__all__ = [
    "Cascade",
    "LevelSpec",
    "MatryoshkaDiffusion",
    "NestedUNet",
    "Phase",
    "PhaseContext",
    "WeightRamp",
    "assets",
    "build_nested_unet",
    "callbacks",
    "costs",
    "cut",
    "data",
    "describe",
    "diffusion",
    "distribute",
    "estimate",
    "evaluation",
    "export_saved_model",
    "fit_autoencoder",
    "fit_progressively",
    "grow",
    "interop",
    "latents",
    "layers",
    "load",
    "optimizers",
    "presets",
    "text",
    "video",
]

follow_moved()

# These run on every Keras backend; "assets" needs none. Everything else needs TensorFlow.
_NETWORK = {"LevelSpec", "NestedUNet", "build_nested_unet", "cut", "grow", "layers", "presets"}
_NETWORK |= {"diffusion"}
_ANYWHERE = _NETWORK | {"assets"}

# Imported when they are first used: no class of theirs is registered with Keras.
_LATER = {"describe", "evaluation", "export_saved_model", "interop", "video"}

# Modules of the public names; a name that is missing here is itself a module.
_HOMES = {
    "Cascade": "keras_mdm.cascade",
    "LevelSpec": "keras_mdm.models",
    "MatryoshkaDiffusion": "keras_mdm.training",
    "NestedUNet": "keras_mdm.models",
    "Phase": "keras_mdm.training.phases",
    "PhaseContext": "keras_mdm.runs.progressive",
    "WeightRamp": "keras_mdm.training.phases",
    "build_nested_unet": "keras_mdm.models",
    "cut": "keras_mdm.models",
    "describe": "keras_mdm.costs.describe",
    "export_saved_model": "keras_mdm.export",
    "fit_autoencoder": "keras_mdm.runs.autoencoding",
    "fit_progressively": "keras_mdm.runs.progressive",
    "grow": "keras_mdm.models",
    "load": "keras_mdm.runs.loading",
    "presets": "keras_mdm.models",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'keras_mdm' has no attribute {name!r}")
    if name not in _ANYWHERE:
        from keras_mdm.backends import require_tensorflow

        require_tensorflow(f"keras_mdm.{name}")
    if name not in _HOMES:
        return importlib.import_module(f"keras_mdm.{name}")
    home = importlib.import_module(_HOMES[name])
    if name in MOVED:  # a module of that name must not replace the function
        sys.modules.setdefault(f"keras_mdm.{name}", home)
    value = getattr(home, name)
    globals()[name] = value  # replaces the module of that name, and skips this function next time
    return value


def _is_command_line() -> bool:
    """Whether this import belongs to `keras-mdm` or to `python -m keras_mdm`."""
    # While Python looks up the module for `-m`, sys.argv[0] is "-m".
    return Path(sys.argv[0] if sys.argv else "").name in ("-m", "keras-mdm")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Importing the package registers its classes with Keras, which `keras.saving.load_model` relies on.
# The command line answers `--help` without starting TensorFlow, and imports what it needs later.
if not _is_command_line():
    from keras_mdm.quiet import quiet_start

    with quiet_start("2"):
        from keras_mdm.backends import runs_on_tensorflow

        for _name in __all__ if runs_on_tensorflow() else sorted(_NETWORK):
            if _name not in _LATER:
                __getattr__(_name)

"""Exchange of networks with the authors' implementation."""

from keras_mdm.interop.mdm_diffusion import load_ml_mdm_diffusion
from keras_mdm.interop.mdm_weights import load_ml_mdm, save_ml_mdm, to_ml_mdm

__all__ = ["load_ml_mdm", "load_ml_mdm_diffusion", "save_ml_mdm", "to_ml_mdm"]

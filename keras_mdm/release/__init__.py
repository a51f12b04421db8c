"""Presets: directories that hold a model with all that is needed to use it, and their cards."""

from keras_mdm.release.fetching import fetched, is_address
from keras_mdm.release.preset import PRESET_FILE, model_of, save_preset

__all__ = ["PRESET_FILE", "fetched", "is_address", "model_of", "save_preset"]

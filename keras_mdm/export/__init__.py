"""Export of trained models."""

from keras_mdm.export.saved_model import export_saved_model

__all__ = ["export_saved_model"]

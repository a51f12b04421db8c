"""Optimizers that clip after the all-reduce; Adam in PyTorch's bias-corrected form."""

from keras_mdm.optimizers.adam import Adam, AdamW
from keras_mdm.optimizers.base import Optimizer
from keras_mdm.optimizers.muon import Muon
from keras_mdm.optimizers.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Muon", "Optimizer"]

"""Measures of what a model generates; they take arrays and functions, not models."""

from keras_mdm.evaluation import retrieval

__all__ = ["retrieval"]

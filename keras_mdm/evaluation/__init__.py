"""Measures of what a model generates; they take arrays and functions, not models."""

from keras_mdm.evaluation import moments, motion, retrieval
from keras_mdm.evaluation.efficientnet import EfficientNetLite0
from keras_mdm.evaluation.evaluate import Report, evaluate
from keras_mdm.evaluation.frechet import frechet_distance
from keras_mdm.evaluation.kid import KID, kernel_distance, real_floor
from keras_mdm.evaluation.samples import Request

__all__ = [
    "KID",
    "EfficientNetLite0",
    "Report",
    "Request",
    "evaluate",
    "frechet_distance",
    "kernel_distance",
    "moments",
    "motion",
    "real_floor",
    "retrieval",
]

"""Measures of what a model generates; they take arrays and functions, not models."""

from keras_mdm.evaluation import moments, motion, retrieval
from keras_mdm.evaluation.efficientnet import EfficientNetLite0
from keras_mdm.evaluation.evaluate import Report, evaluate
from keras_mdm.evaluation.frechet import frechet_distance
from keras_mdm.evaluation.kid import KID, kernel_distance, real_floor
from keras_mdm.evaluation.neighbours import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from keras_mdm.evaluation.samples import Request

__all__ = [
    "KID",
    "DensityCoverage",
    "EfficientNetLite0",
    "PrecisionRecall",
    "Report",
    "Request",
    "density_coverage",
    "evaluate",
    "frechet_distance",
    "kernel_distance",
    "moments",
    "motion",
    "precision_recall",
    "real_floor",
    "retrieval",
]

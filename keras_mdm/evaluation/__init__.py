"""Measures of what a model generates; they take arrays, functions, and what has `generate`."""

from keras_mdm.evaluation import chart, moments, motion, report, retrieval, sweep
from keras_mdm.evaluation.efficientnet import EfficientNetLite0
from keras_mdm.evaluation.evaluate import Report, check, evaluate
from keras_mdm.evaluation.frames import FrameFeatures, network_of
from keras_mdm.evaluation.frechet import frechet_distance
from keras_mdm.evaluation.hub_networks import ClipFeatures, DinoFeatures
from keras_mdm.evaluation.i3d import I3D
from keras_mdm.evaluation.inception import FIDInception
from keras_mdm.evaluation.keras_inception import KerasInceptionV3
from keras_mdm.evaluation.kid import (
    KID,
    kernel_distance,
    paired_kernel_distance,
    real_floor,
)
from keras_mdm.evaluation.memorised import Memorisation, nearest_training
from keras_mdm.evaluation.neighbours import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from keras_mdm.evaluation.other_style import OtherStyle, other_style
from keras_mdm.evaluation.picture_sets import measured
from keras_mdm.evaluation.prompted import TextMeasure, fit_text_measure
from keras_mdm.evaluation.reconstruction import Reconstruction, reconstruction
from keras_mdm.evaluation.samples import Request
from keras_mdm.evaluation.scorer import TextScorer
from keras_mdm.evaluation.scores import (
    CosineScore,
    InceptionScore,
    RPrecision,
    clip_score,
    inception_score,
    r_precision,
)
from keras_mdm.evaluation.worth import Worth

__all__ = [
    "I3D",
    "KID",
    "ClipFeatures",
    "CosineScore",
    "DensityCoverage",
    "DinoFeatures",
    "EfficientNetLite0",
    "FIDInception",
    "FrameFeatures",
    "InceptionScore",
    "KerasInceptionV3",
    "Memorisation",
    "OtherStyle",
    "PrecisionRecall",
    "RPrecision",
    "Reconstruction",
    "Report",
    "Request",
    "TextMeasure",
    "TextScorer",
    "Worth",
    "chart",
    "check",
    "clip_score",
    "density_coverage",
    "evaluate",
    "fit_text_measure",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "measured",
    "moments",
    "motion",
    "nearest_training",
    "network_of",
    "other_style",
    "paired_kernel_distance",
    "precision_recall",
    "r_precision",
    "real_floor",
    "reconstruction",
    "report",
    "retrieval",
    "sweep",
]

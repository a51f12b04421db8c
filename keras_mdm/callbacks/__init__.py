"""Callbacks for `fit`: speed, progress, TensorBoard curves and pictures."""

from keras_mdm.callbacks.diagnostics import Diagnostics
from keras_mdm.callbacks.distances import Distances
from keras_mdm.callbacks.guards import NonFiniteGuard, StopOnSignal
from keras_mdm.callbacks.progress import ProgressBar
from keras_mdm.callbacks.sample_grid import SampleGrid
from keras_mdm.callbacks.signals import OrderlyStop
from keras_mdm.callbacks.steps import StepCallback
from keras_mdm.callbacks.tensorboard import EventWriter, TensorBoardLogger
from keras_mdm.callbacks.throughput import Throughput
from keras_mdm.pictures.grids import captioned_grid, contact_sheet, image_grid, on_white
from keras_mdm.pictures.playing import animated_grid, encode_gif, encode_mp4, write_clip

__all__ = [
    "Diagnostics",
    "Distances",
    "EventWriter",
    "NonFiniteGuard",
    "OrderlyStop",
    "ProgressBar",
    "SampleGrid",
    "StepCallback",
    "StopOnSignal",
    "TensorBoardLogger",
    "Throughput",
    "animated_grid",
    "captioned_grid",
    "contact_sheet",
    "encode_gif",
    "encode_mp4",
    "image_grid",
    "on_white",
    "write_clip",
]

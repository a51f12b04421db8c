"""Diffusion mathematics: pure functions and frozen records, with neither weights nor randomness.

Vocabulary: `t` in [0, 1] from clean to noise; x_t = alpha * x0 + sigma * eps; log-SNR is
log(alpha^2 / sigma^2); v = alpha * eps - sigma * x0. Levels ascend and are identified by name
("64", "16x64").
"""

from keras_mdm.diffusion import (
    guidance,
    losses,
    parameterization,
    process,
    pyramid,
    residual,
    samplers,
    schedules,
    thresholding,
    time_grids,
)
from keras_mdm.diffusion.pyramid import build_pyramid, downsample, upsample
from keras_mdm.diffusion.samplers import Sampler
from keras_mdm.diffusion.schedule import Schedule
from keras_mdm.diffusion.schedules import level_shift
from keras_mdm.diffusion.time_grids import time_grid
from keras_mdm.levels import LevelShape

__all__ = [
    "LevelShape",
    "Sampler",
    "Schedule",
    "build_pyramid",
    "downsample",
    "guidance",
    "level_shift",
    "losses",
    "parameterization",
    "process",
    "pyramid",
    "residual",
    "samplers",
    "schedules",
    "thresholding",
    "time_grid",
    "time_grids",
    "upsample",
]

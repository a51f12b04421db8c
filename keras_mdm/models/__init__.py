"""Networks: specifications, presets and the functional builder."""

from keras_mdm.models import presets
from keras_mdm.models.frames import with_frames
from keras_mdm.models.nested_unet import NestedUNet, build_nested_unet, cut, grow
from keras_mdm.models.own_network import OwnNetwork
from keras_mdm.models.sizes import with_size
from keras_mdm.models.specs import LevelSpec, NestedUNetSpec

__all__ = [
    "LevelSpec",
    "NestedUNet",
    "NestedUNetSpec",
    "OwnNetwork",
    "build_nested_unet",
    "cut",
    "grow",
    "presets",
    "with_frames",
    "with_size",
]

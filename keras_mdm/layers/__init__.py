"""Keras layers of the NestedUNet; `keras_mdm.models` connects them."""

from keras_mdm.layers.attention import SpatialAttention, TokenAttention
from keras_mdm.layers.embeddings import (
    ClassEmbedding,
    LevelEmbedding,
    MicroConditioning,
    PooledTextEmbedding,
    TimeEmbedding,
)
from keras_mdm.layers.innermost_level import InnermostLevel
from keras_mdm.layers.nested_level import NestedDown, NestedUp
from keras_mdm.layers.normalization import GroupNorm
from keras_mdm.layers.resampling import Downsample, Upsample
from keras_mdm.layers.resblock import ResBlock
from keras_mdm.layers.resolution_block import ResolutionBlock
from keras_mdm.layers.temporal_attention import TemporalAttention
from keras_mdm.layers.text_conditioning import TextConditioning

__all__ = [
    "ClassEmbedding",
    "Downsample",
    "GroupNorm",
    "InnermostLevel",
    "LevelEmbedding",
    "MicroConditioning",
    "NestedDown",
    "NestedUp",
    "PooledTextEmbedding",
    "ResBlock",
    "ResolutionBlock",
    "SpatialAttention",
    "TemporalAttention",
    "TextConditioning",
    "TimeEmbedding",
    "TokenAttention",
    "Upsample",
]

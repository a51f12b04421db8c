"""Clips: which frames of a video are read, shards of clips and batches."""

from keras_mdm.data.clips.dataset import ClipSource, clip_dataset, is_clip_source

__all__ = ["ClipSource", "clip_dataset", "is_clip_source"]

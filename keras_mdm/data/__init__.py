"""Captioned pictures and clips, and the batches made of them."""

from keras_mdm.data.animated_emoji import load_animated_emoji
from keras_mdm.data.base import CaptionedImages, Skipped, area_average
from keras_mdm.data.catalogue import plain_caption, styled_caption
from keras_mdm.data.clip_reader import ClipRule, UnusableVideo, count_frames, read_clip
from keras_mdm.data.clip_shards import ClipShards, open_clips, prepare_clips, skipped_clips
from keras_mdm.data.clips import ClipSource, clip_dataset
from keras_mdm.data.emoji import EmojiData, load_emoji
from keras_mdm.data.folder import FolderData, load_folder
from keras_mdm.data.mixing import mixed_dataset
from keras_mdm.data.motions import MOTIONS, track_of
from keras_mdm.data.moving_emoji import MovingEmoji, load_moving_emoji
from keras_mdm.data.pipeline import image_text_dataset, ordered_dataset, positions, record_index
from keras_mdm.data.simple_concepts import SIMPLE_CONCEPTS
from keras_mdm.data.videos import VideoFiles, find_videos

__all__ = [
    "MOTIONS",
    "SIMPLE_CONCEPTS",
    "CaptionedImages",
    "ClipRule",
    "ClipShards",
    "ClipSource",
    "EmojiData",
    "FolderData",
    "MovingEmoji",
    "Skipped",
    "UnusableVideo",
    "VideoFiles",
    "area_average",
    "clip_dataset",
    "count_frames",
    "find_videos",
    "image_text_dataset",
    "load_animated_emoji",
    "load_emoji",
    "load_folder",
    "load_moving_emoji",
    "mixed_dataset",
    "open_clips",
    "ordered_dataset",
    "plain_caption",
    "positions",
    "prepare_clips",
    "read_clip",
    "record_index",
    "skipped_clips",
    "styled_caption",
    "track_of",
]

"""Captioned pictures and clips, and the batches made of them."""

from keras_mdm.data.base import CaptionedImages, Skipped, area_average
from keras_mdm.data.caption_tables import captions_of_table, is_caption_table
from keras_mdm.data.clips.dataset import ClipSource, clip_dataset
from keras_mdm.data.clips.files import VideoFiles, find_videos, holds_videos
from keras_mdm.data.clips.opening import holds_clips, open_clips
from keras_mdm.data.clips.reader import count_frames, read_clip
from keras_mdm.data.clips.rule import ClipRule, UnusableVideo
from keras_mdm.data.clips.shards import ClipShards, prepare_clips, skipped_clips
from keras_mdm.data.emoji.animated import load_animated_emoji
from keras_mdm.data.emoji.catalogue import plain_caption, styled_caption
from keras_mdm.data.emoji.drawings import EmojiData, load_emoji
from keras_mdm.data.emoji.motions import MOTIONS, track_of
from keras_mdm.data.emoji.moving import MovingEmoji, load_moving_emoji
from keras_mdm.data.emoji.simple_concepts import SIMPLE_CONCEPTS
from keras_mdm.data.emoji.styles import StyledEmoji, load_styles
from keras_mdm.data.order.mixing import mixed_dataset
from keras_mdm.data.order.pipeline import (
    image_text_dataset,
    ordered_dataset,
    positions,
    record_index,
)
from keras_mdm.data.overview import captions_of
from keras_mdm.data.pictures.beam import prepare_with_beam
from keras_mdm.data.pictures.dataset import image_dataset
from keras_mdm.data.pictures.folder import FolderData, load_folder
from keras_mdm.data.pictures.rule import ImageRule, read_picture
from keras_mdm.data.pictures.shards import ImagePreparation, prepare_images
from keras_mdm.data.sharding import read_skipped
from keras_mdm.data.skipping import Unusable
from keras_mdm.data.sources.arrow import ArrowImages
from keras_mdm.data.sources.base import ImageSource, Record, Rows, split
from keras_mdm.data.sources.examples import ExampleImages
from keras_mdm.data.sources.folder import FolderImages
from keras_mdm.data.sources.opening import open_images
from keras_mdm.data.sources.parquet import ParquetImages
from keras_mdm.data.sources.table import TableImages
from keras_mdm.data.sources.tar import TarImages
from keras_mdm.data.sources.tfds import TfdsImages

__all__ = [
    "ArrowImages",
    "MOTIONS",
    "SIMPLE_CONCEPTS",
    "CaptionedImages",
    "ClipRule",
    "ClipShards",
    "ClipSource",
    "EmojiData",
    "ExampleImages",
    "FolderData",
    "FolderImages",
    "ImagePreparation",
    "ImageRule",
    "ImageSource",
    "MovingEmoji",
    "ParquetImages",
    "Record",
    "Rows",
    "Skipped",
    "StyledEmoji",
    "TableImages",
    "TarImages",
    "TfdsImages",
    "Unusable",
    "UnusableVideo",
    "VideoFiles",
    "area_average",
    "captions_of",
    "captions_of_table",
    "clip_dataset",
    "count_frames",
    "find_videos",
    "holds_clips",
    "holds_videos",
    "image_dataset",
    "image_text_dataset",
    "is_caption_table",
    "load_animated_emoji",
    "load_emoji",
    "load_folder",
    "load_moving_emoji",
    "load_styles",
    "mixed_dataset",
    "open_clips",
    "open_images",
    "ordered_dataset",
    "plain_caption",
    "positions",
    "prepare_clips",
    "prepare_images",
    "prepare_with_beam",
    "read_clip",
    "read_picture",
    "read_skipped",
    "record_index",
    "skipped_clips",
    "split",
    "styled_caption",
    "track_of",
]

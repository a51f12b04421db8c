"""Captioned pictures in memory and the batches made of them."""

from keras_mdm.data.base import CaptionedImages, Skipped, area_average
from keras_mdm.data.catalogue import plain_caption, styled_caption
from keras_mdm.data.emoji import EmojiData, load_emoji
from keras_mdm.data.folder import FolderData, load_folder
from keras_mdm.data.mixing import mixed_dataset
from keras_mdm.data.moving_emoji import MovingEmoji, load_moving_emoji
from keras_mdm.data.pipeline import image_text_dataset, ordered_dataset, positions, record_index
from keras_mdm.data.simple_concepts import SIMPLE_CONCEPTS

__all__ = [
    "SIMPLE_CONCEPTS",
    "CaptionedImages",
    "EmojiData",
    "FolderData",
    "MovingEmoji",
    "Skipped",
    "area_average",
    "image_text_dataset",
    "load_emoji",
    "load_folder",
    "load_moving_emoji",
    "mixed_dataset",
    "ordered_dataset",
    "plain_caption",
    "positions",
    "record_index",
    "styled_caption",
]

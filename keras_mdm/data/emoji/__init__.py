"""Emoji: drawings, their concepts and names, and clips of moving drawings."""

from keras_mdm.data.emoji.drawings import EmojiData, load_emoji

__all__ = ["EmojiData", "load_emoji"]

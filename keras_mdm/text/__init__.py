"""Frozen text encoders and the cache of what they computed."""

from keras_mdm.text.embedding_cache import encode_cached
from keras_mdm.text.encoders import TextEncoder, from_identity
from keras_mdm.text.flan_t5 import FlanT5
from keras_mdm.text.minilm import MiniLM

__all__ = ["FlanT5", "MiniLM", "TextEncoder", "encode_cached", "from_identity"]

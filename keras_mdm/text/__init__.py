"""Frozen text encoders and the cache of their states."""

from keras_mdm.text.clip import ClipText
from keras_mdm.text.custom import FunctionEncoder
from keras_mdm.text.embedding_cache import encode_cached
from keras_mdm.text.encoders import PooledTextEncoder, TextEncoder
from keras_mdm.text.flan_t5 import FlanT5
from keras_mdm.text.minilm import MiniLM
from keras_mdm.text.restoring import from_identity
from keras_mdm.text.stored import StoredStates, embed

__all__ = [
    "ClipText",
    "FlanT5",
    "FunctionEncoder",
    "MiniLM",
    "PooledTextEncoder",
    "StoredStates",
    "TextEncoder",
    "embed",
    "encode_cached",
    "from_identity",
]

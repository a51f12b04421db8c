"""Text encoders as graphs, tokenizer included: strings in, states and mask out."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.text.flan_t5 import FlanT5
from keras_mdm.text.minilm import CLS, LONGEST_WORD, PAD, SCALE, SEP, MiniLM
from keras_mdm.text.normalised import table_of

# Names of encoders that can live in a graph.
KINDS = (MiniLM.name, FlanT5.name)


def in_graph(encoder: Any) -> tf.Module | None:
    """Return the graph of an encoder, or `None` for one of a kind that has none.

    The result is called with strings `(B,)` and returns states float32 `(B, L, D)` and mask float32
    `(B, L)`, as `encode` does, up to rounding; the token ids are the same. It holds the weights, so
    that a SavedModel which refers to it holds them too. Loading that needs `import
    tensorflow_text`.

    Args:
        encoder: a `MiniLM` or a `FlanT5`.

    Raises:
        ValueError: if the encoder's files are missing.

    Example:

    >>> states, mask = in_graph(MiniLM(length=16))(tf.constant(["a red apple"]))  # doctest: +SKIP
    """
    if isinstance(encoder, MiniLM):
        return MiniLMGraph(encoder)
    return T5Graph(encoder) if isinstance(encoder, FlanT5) else None


class MiniLMGraph(tf.Module):
    """`MiniLM` as a graph.

    The tokenizer's normalisation is looked up character by character in a table that was made by
    the tokenizer itself. It differs only where Unicode exchanges two combining marks that both
    stay, which it does in no script that the vocabulary has.

    Args:
        encoder: the encoder.
    """

    def __init__(self, encoder: MiniLM):
        super().__init__()
        import tensorflow_text

        self.length, self.width = encoder.length, encoder.width
        tokenizer, network = encoder.parts()
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[word] for word in words] != list(range(len(words))):
            raise checks.error(
                "the ids of the vocabulary must have no gaps",
                fix="fetch the encoder again by `keras-mdm assets fetch minilm`",
                words=len(words),
            )
        characters, splits = table_of(tokenizer)
        with tf.init_scope():
            self.characters = tf.Variable(characters, trainable=False, name="characters")
            self.splits = tf.Variable(splits, trainable=False, name="splits")
            self.pieces = tensorflow_text.FastWordpieceTokenizer(
                words,
                max_bytes_per_word=4 * LONGEST_WORD,
                token_out_type=tf.int32,
                no_pretokenization=True,
            )
        # Not the network itself, which would be written as a Keras model as well.
        self._states = lambda inputs: network(inputs, training=False)["sequence_output"]
        self.weights = [variable.value for variable in network.variables]

    def tokenize(self, texts: tf.Tensor) -> tf.Tensor:
        """Token ids int32 `(B, L)` of strings `(B,)`, padded with zeros."""
        points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        flat = points.flat_values
        begin, end = tf.gather(self.splits, flat), tf.gather(self.splits, flat + 1)
        places = tf.ragged.range(begin, end)
        changed = tf.gather(self.characters, places.flat_values)
        spread = points.with_flat_values(places.with_flat_values(changed)).merge_dims(1, 2)
        words = tf.strings.split(tf.strings.unicode_encode(spread, "UTF-8"))
        long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > LONGEST_WORD
        words = words.with_flat_values(tf.where(long, "[UNK]", words.flat_values))
        ids = self.pieces.tokenize(words).merge_dims(1, 2)[:, : self.length - 2]
        ends = tf.ones([ids.nrows(), 1], tf.int32)
        ids = tf.concat([CLS * ends, ids, SEP * ends], axis=1)
        return ids.to_tensor(PAD, shape=[None, self.length])

    def __call__(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """States and mask of strings `(B,)`."""
        ids = self.tokenize(texts)
        known = tf.cast(ids != PAD, tf.int32)
        inputs = {"token_ids": ids, "padding_mask": known, "segment_ids": tf.zeros_like(ids)}
        states = self._states(inputs)
        mask = tf.cast(known, tf.float32)
        return states * (SCALE * mask[..., None]), mask


class T5Graph(tf.Module):
    """`FlanT5` as a graph.

    Args:
        encoder: the encoder.
    """

    def __init__(self, encoder: FlanT5):
        super().__init__()
        from keras_mdm.text.t5_network import relative_buckets

        self.length, self.width = encoder.length, encoder.width
        self.tokenizer, self._config, weights = encoder.parts()
        with tf.init_scope():
            # As variables: a graph with them as constants may have two gigabytes at most.
            self.weights = {
                name: tf.Variable(value, trainable=False, name=name.replace(".", "_"))
                for name, value in weights.items()
            }
        self._buckets = np.asarray(relative_buckets(self.length, self._config))
        self.pieces = self.tokenizer.pieces

    def tokenize(self, texts: tf.Tensor) -> tf.Tensor:
        """Token ids int32 `(B, L)` of strings `(B,)`, L the longest of them."""
        rules = self.tokenizer
        cut = tf.strings.substr(texts, 0, rules.max_characters, unit="UTF8_CHAR")
        found = self.pieces.tokenize(tf.strings.join([" ", cut]))
        found = tf.ragged.boolean_mask(found, found != rules.unknown)
        ends = tf.fill([found.nrows(), 1], tf.constant(rules.end, tf.int32))
        found = tf.concat([found, ends], axis=1)[:, : self.length]
        return found.to_tensor(rules.pad)

    def __call__(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """States and mask of strings `(B,)`."""
        from keras_mdm.text.t5_network import states_of

        ids = self.tokenize(texts)
        mask = tf.cast(ids != self.tokenizer.pad, tf.float32)
        count = tf.shape(ids)[1]
        buckets = tf.constant(self._buckets)[:count, :count]
        states = states_of(self._config, self.weights, ids, mask, buckets)
        states = tf.ensure_shape(states, (None, None, self.width))
        return states * mask[..., None], mask

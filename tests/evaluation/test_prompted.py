"""Pictures that show what was asked score high, in the order of their prompts, at every level."""

import numpy as np
import pytest
from evaluation.test_evaluate import Model

from keras_mdm.evaluation import Request, evaluate, fit_text_measure

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (160, 3))
CAPTIONS = [f"colour {red} {green} {blue}" for red, green, blue in COLOURS]


class Colours:
    """Polynomials of the mean colour."""

    name, width = "colours", 9

    def __call__(self, images):
        mean = images.mean((1, 2)) / 255 - 0.5
        products = mean[:, :, None] * mean[:, None, :]
        upper = products[:, *np.triu_indices(3)]
        return np.concatenate([mean, upper], axis=1).astype("float32")


class Encoder:
    """Reads the colour in a text; padded to as many tokens as the longest has."""

    identity = {"name": "colours"}

    def encode(self, texts):
        values = [[int(word) / 255 - 0.5 for word in text.split()[1:]] for text in texts]
        states = np.array(values, "float32")[:, None]
        states = np.concatenate([states, states**2], axis=2).repeat(len(texts) % 3 + 1, axis=1)
        return states, np.ones(states.shape[:2], bool)


class Painter(Model):
    """Paints the colour of the prompt at level 16, and something else at level 8."""

    def generate(self, prompts, *, seed, **options):
        asked = np.array([[int(word) for word in text.split()[1:]] for text in prompts], "uint8")
        right = np.broadcast_to(asked[:, None, None], (len(asked), 16, 16, 3))
        wrong = np.broadcast_to(asked[::-1][:, None, None], (len(asked), 8, 8, 3))
        return {"8": wrong.copy(), "16": right.copy()}


def painted(size):
    return np.broadcast_to(COLOURS.astype("uint8")[:, None, None], (160, size, size, 3)).copy()


def test_the_right_colour_is_told_from_another(tmp_path):
    prompts = CAPTIONS[20:140]
    texts = {
        str(size): fit_text_measure(Colours(), Encoder(), painted(size), CAPTIONS, prompts)
        for size in (8, 16)
    }
    report = evaluate(
        Painter(),
        {"8": painted(8), "16": painted(16)},
        request=Request(120, prompts=prompts, batch_size=50),
        directory=tmp_path / "a",
        features=Colours(),
        texts=texts,
        progress=False,
    )
    name = "R-precision of 100, retrieval scorer"
    assert report.value("16", name) > 0.9
    assert report.value("8", name) < 0.1
    assert report.value("8 enlarged to 16", name) < 0.1
    (row,) = (r for r in report.rows if (r.subject, r.measure) == ("16", name))
    assert row.floor > 0.9 and row.drawn == 120


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"one caption for each.*Received: .*To fix it: "):
        fit_text_measure(Colours(), Encoder(), painted(8), CAPTIONS[:-1], CAPTIONS)
    with pytest.raises(ValueError, match=r"if the texts differ.*Received: .*To fix it: "):
        fit_text_measure(Colours(), Encoder(), painted(8), CAPTIONS, CAPTIONS[:1] * 5)

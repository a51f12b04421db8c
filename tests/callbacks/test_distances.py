"""Measures during training: the same pictures each time, curves and records of every evaluation."""

import numpy as np
from tiny_models import PLAIN_INNER, MeanColour, as_dataset, make_batch, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.callbacks import Distances
from keras_mdm.evaluation import Request, evaluate
from keras_mdm.optimizers import Adam


class Writer:
    def __init__(self):
        self.written = []

    def scalars(self, step, values):
        self.written.append((step, values))


def test_every_few_steps(tmp_path):
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], num_classes=2))
    model.compile(Adam(1e-2))
    rng = np.random.default_rng(0)
    batches = [make_batch(rng, 2, size=8, classes=2) for _ in range(5)]
    real = rng.integers(0, 256, (12, 8, 8, 3)).astype("uint8")
    writer, notes = Writer(), []
    callback = Distances(
        {"8": iter([real[:5], real[5:]])},
        Request(6, labels=[0, 1] * 3, options={"steps": 2}),
        every=2,
        features=MeanColour(),
        measures=("kernel", "frechet"),
        few=True,
        writer=writer,
        note=notes.append,
        first_step=100,
    )
    model.fit(as_dataset(batches), verbose=0, callbacks=[callback])
    assert [step for step, _ in writer.written] == [102, 104]
    first, second = (values for _, values in writer.written)
    name = "evaluation/8/kernel distance x 1000"
    assert first[name] != second[name]  # the weights differ
    assert [record["step"] for record in notes] == [102, 104]
    assert notes[1]["8/kernel distance x 1000"] == second[name]
    assert notes[0]["features"] == "mean colour"
    again = callback.measure()
    alone = evaluate(
        model,
        {"8": real},
        request=callback.request,
        directory=tmp_path / "x",
        features=MeanColour(),
        measures=("kernel", "frechet"),
        few=True,
        progress=False,
    )
    for row, other in zip(again.rows, alone.rows, strict=True):
        assert row.measure == other.measure
        np.testing.assert_allclose(row.value, other.value, rtol=1e-9)

"""Golden cases: tiny networks of the authors' code with their weights, inputs and results."""

import functools
import json
import math
import pathlib

import numpy as np
import pytest

from keras_mdm.interop import load_ml_mdm

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


class Case:
    """One case, turned into this package's conventions.

    Stored pictures are channels first, a clip is one picture with its frames in a square grid, and
    level 0 is the highest resolution.
    """

    def __init__(self, name):
        self.settings = json.loads((GOLDEN / f"{name}.json").read_text())
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            self._arrays = dict(arrays)
        self.model = self.settings["model"]
        self.order = self.model["state_dict_order"]
        self.state = {key: self._arrays[f"state/{key}"] for key in self.order}
        self._aliases = self.settings.get("aliases", {})

    def __contains__(self, key):
        return self._aliases.get(key, key) in self._arrays

    def __getitem__(self, key):
        return self._arrays[self._aliases.get(key, key)]

    def keys(self, prefix):
        return [key for key in self._arrays if key.startswith(prefix)]

    @property
    def size(self):
        """Height of one frame at the highest level."""
        grid = self.model["nest_ratio"][0] if any(self.model.get("is_temporal", [])) else 1
        return self["in/x_0"].shape[2] // grid

    def load(self, state=None, config=None):
        return load_ml_mdm(
            self.state if state is None else state,
            config=config or self.model["config"],
            size=self.size,
        )

    @functools.cached_property
    def unet(self):
        return self.load()

    def level(self, index):
        """Our name of the level with an official index."""
        return self.unet.levels[-1 - index]

    def picture(self, key, index):
        """The stored array of a level as `(B, [T,] H, W, C)`."""
        x = np.moveaxis(self[key], 1, -1)
        name = self.level(index)
        if "x" not in name:
            return x
        side = math.isqrt(int(name.split("x")[0]))
        batch, height, width, channels = x.shape
        h, w = height // side, width // side
        x = x.reshape(batch, side, h, side, w, channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, side * side, h, w, channels)

    def pictures(self, stem):
        """`picture` of every level, ascending: the keys are `stem` and the level's index."""
        count = len(self.unet.levels)
        return {
            self.level(index): self.picture(f"{stem}_{index}", index)
            for index in reversed(range(count))
        }

    @property
    def inputs(self):
        """The inputs of the stored forward pass."""
        inputs = {f"z_{level}": z for level, z in self.pictures("in/x").items()}
        inputs["time"] = self["in/times"].astype("float32")
        if "text" in self.unet.input_names:
            inputs |= {"text": self["in/cond"], "text_mask": self["in/cond_mask"]}
        micros = self.keys("in/micro/")
        return inputs | {key.removeprefix("in/micro/"): self[key] for key in micros}

    def errors(self, outputs):
        """Largest absolute difference to the stored outputs, by level."""
        return {
            self.level(index): float(
                np.max(np.abs(outputs[self.level(index)] - self.picture(f"out/{index}", index)))
            )
            for index in range(len(self.unet.levels))
        }


@pytest.fixture(scope="session")
def golden_case():
    """Return a loader: name -> `Case`; each is built once."""
    return functools.cache(Case)

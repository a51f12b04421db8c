"""One stored case, turned into this package's conventions."""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm.interop import load_ml_mdm, load_ml_mdm_diffusion
from keras_mdm.interop.torch_reader import TorchFile


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison, with its error and the limit.

    Args:
        kind: what was compared, such as "outputs".
        name: which of these.
        error: largest difference; NaN and infinity fail.
        limit: the largest error that passes.
    """

    kind: str
    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit

    @property
    def share(self) -> float:
        """The error as a share of the limit."""
        if self.limit:
            return self.error / self.limit
        return math.inf if self.error else 0.0


def difference(actual: Any, expected: Any, *, relative: bool = False) -> float:
    """Largest absolute difference; infinite if the shapes differ.

    Args:
        actual: array.
        expected: array.
        relative: divide by the expected values where they are larger than 1.
    """
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    if actual.shape != expected.shape:
        return math.inf
    error = np.abs(actual - expected)
    if relative:
        error = error / np.maximum(1.0, np.abs(expected))
    return float(np.max(error, initial=0.0))


class Case:
    """A stored case.

    Args:
        folder: where it is stored.
        name: its name.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = Path(folder), name
        self.settings = json.loads((self.folder / f"{name}.json").read_text())
        self.arrays: dict[str, np.ndarray] = {}
        path = self.folder / f"{name}.npz"
        if path.is_file():
            with np.load(path) as arrays:
                self.arrays = dict(arrays)
        self.kind = self.settings["kind"]
        self.model = self.settings.get("model", {})
        self._aliases = self.settings.get("aliases", {})

    def __contains__(self, key: str) -> bool:
        return self._aliases.get(key, key) in self.arrays

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[self._aliases.get(key, key)]

    def keys(self, prefix: str) -> list[str]:
        """Stored keys with this beginning, without aliases."""
        return [key for key in self.arrays if key.startswith(prefix)]

    def group(self, name: str) -> dict[str, np.ndarray]:
        """All arrays below `name/`, by the rest of their key."""
        prefix = f"{name}/"
        return {key[len(prefix) :]: self.arrays[key] for key in self.keys(prefix)}

    def entries(self, kind: str) -> Iterator[dict]:
        """The settings of the stored losses or trajectories."""
        yield from self.settings.get(kind, ())

    @functools.cached_property
    def state(self) -> Mapping[str, np.ndarray]:
        """The weights; those that are also in a checkpoint may be stored only there."""
        state = self.group("state")
        if not state and "state_in" in self.settings:
            return TorchFile(self.folder / self.settings["state_in"]).items()["state_dict"]
        return {key: state[key] for key in self.model.get("state_dict_order", state)}

    @property
    def config(self) -> dict:
        """The official configuration of the network."""
        return self.model["config"]

    @functools.cached_property
    def size(self) -> int:
        """Height of one frame at the highest level."""
        frames, config = 1, self.config
        while config is not None:
            if config.get("temporal_mode") and not config.get("temporal_spatial_ds"):
                frames *= 2 ** (len(config["resolution_channels"]) - 1)
            config = config.get("inner_config")
        side = math.isqrt(frames) if self.config.get("temporal_mode") else 1
        key = next(k for k in ("in/x_0", "loss/images", "step_0/images") if k in self)
        return self[key].shape[2] // side

    @property
    def _channels(self) -> dict[str, int]:
        names = {"in_channels": "input_channels", "out_channels": "output_channels"}
        return {ours: self.model.get(theirs, 3) for ours, theirs in names.items()}

    def load(self, state: Mapping[str, Any] | None = None, config: dict | None = None):
        """The network, optionally with other weights or another configuration."""
        return load_ml_mdm(
            self.state if state is None else state,
            config=config or self.config,
            size=self.size,
            **self._channels,
        )

    def diffusion(self, config: dict):
        """A `MatryoshkaDiffusion` of the network and a stored `diffusion_config`."""
        return load_ml_mdm_diffusion(
            self.state,
            config={"unet_config": self.config, "diffusion_config": config},
            size=self.size,
            **self._channels,
        )

    @functools.cached_property
    def unet(self):
        """The network."""
        return self.load()

    @property
    def levels(self) -> tuple[str, ...]:
        """Our names of the levels, in the official order."""
        return self.unet.levels[::-1]

    def picture(self, key: str, index: int) -> np.ndarray:
        """A level's stored array as `(B, [T,] H, W, C)`."""
        return to_frames(self[key], self.levels[index])

    def pictures(self, stem: str) -> dict[str, np.ndarray]:
        """`picture` of every level by its name, ascending; a key is `stem` and the index."""
        indices = reversed(range(len(self.levels)))
        return {self.levels[i]: self.picture(f"{stem}_{i}", i) for i in indices}

    def text(self, prefix: str) -> dict[str, np.ndarray]:
        """Text states and mask below `prefix/`, for networks with text."""
        if "text" not in self.unet.input_names:
            return {}
        text = self[f"{prefix}/cond"]
        mask = f"{prefix}/cond_mask"
        present = self[mask] if mask in self else np.ones(text.shape[:2])
        return {"text": text, "text_mask": present.astype("float32")}

    def micros(self, prefix: str = "in/micro", levels: slice = slice(None)) -> dict:
        """Micro-conditions below `prefix/` that a level takes, by ascending level."""
        known = {name for spec in self.unet.spec.levels[levels] for name in spec.micro_conditions}
        found = {key: value.astype("float32") for key, value in self.group(prefix).items()}
        return {key: value for key, value in found.items() if key in known}

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """Inputs of the stored forward pass."""
        inputs = {f"z_{level}": z for level, z in self.pictures("in/x").items()}
        inputs["time"] = self["in/times"].astype("float32")
        return {**inputs, **self.text("in"), **self.micros()}


def to_frames(x: np.ndarray, level: str) -> np.ndarray:
    """`(B, C, H, W)` -> `(B, [T,] H, W, C)`, taking a clip's frames from their square grid."""
    x = np.moveaxis(x, 1, -1)
    if "x" not in level:
        return x
    side = math.isqrt(int(level.split("x")[0]))
    batch, height, width, channels = x.shape
    h, w = height // side, width // side
    x = x.reshape(batch, side, h, side, w, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, side * side, h, w, channels)

"""Golden vectors: what the released PyTorch code computed, in tests/golden."""

import json
import pathlib

import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture
def golden():
    """Return a loader: case name -> (settings, arrays)."""

    def load(case):
        settings = json.loads((GOLDEN / f"{case}.json").read_text())
        with np.load(GOLDEN / f"{case}.npz") as arrays:
            return settings, dict(arrays)

    return load


@pytest.fixture
def rng():
    return np.random.default_rng(0)

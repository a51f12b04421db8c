"""Golden cases: tiny networks of the authors' code with their weights, inputs and results."""

import functools
import pathlib

import pytest
from golden_cases.case import Case

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden_case():
    """Return a loader: name -> `Case`; each is built once."""
    return functools.cache(functools.partial(Case, GOLDEN))

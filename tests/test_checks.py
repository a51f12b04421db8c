"""Errors have three parts, and the checks let the right values through."""

import numpy as np
import pytest

from keras_mdm import checks


def test_an_error_says_what_must_hold_what_arrived_and_what_to_do():
    problem = checks.error("`x` must be even", fix="pass 2", x=3, y="a")
    assert str(problem) == "`x` must be even. Received: x=3, y='a'. To fix it: pass 2."


@pytest.mark.parametrize("value", [1, np.int32(7), 10**9])
def test_integers(value):
    assert checks.integer("n", value, minimum=1) == int(value)


@pytest.mark.parametrize("value", [0, 1.0, True, "1", None, np.float32(2)])
def test_what_is_no_integer_of_at_least_one(value):
    with pytest.raises(ValueError, match="n="):
        checks.integer("n", value, minimum=1)


@pytest.mark.parametrize("value", [-1, 1.5, True, 2**63, "0"])
def test_seeds(value):
    with pytest.raises(ValueError, match="seed="):
        checks.seed(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1, "x", None])
def test_reals(value):
    with pytest.raises(ValueError, match="r="):
        checks.real("r", value, minimum=0.0, maximum=1.0)


def test_choices_and_keys():
    assert checks.one_of("kind", "a", ("a", "b")) == "a"
    for value in ("c", ["a"], 1):
        with pytest.raises(ValueError, match="kind="):
            checks.one_of("kind", value, ("a", "b"))
    with pytest.raises(ValueError, match=r"unknown_keys=\['x', 'y'\]"):
        checks.known_keys("batch", ["y", "a", "x"], ["a"])
    with pytest.raises(ValueError, match=r"add \['b'\]"):
        checks.required_keys("batch", ["a"], ["a", "b"])

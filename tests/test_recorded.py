"""Pictures of all options stay what they were when they were recorded.

Within rounding here; `python tests/golden/recorded.py --bits` compares bit for bit, on the kind of
processor that they were recorded on.
"""

import numpy as np
import pytest
from golden import recorded

SOME = ("default", "interval_unipc", "hold_reconstruction")


def compare(found):
    with np.load(recorded.FILE) as arrays:
        assert found.keys() <= set(arrays.files)
        for name, value in found.items():
            # Dynamic thresholds and steps of Adam pass rounding on.
            tolerance = {"rtol": 2e-3, "atol": 2e-3} if name.startswith("training") else {}
            tolerance = tolerance or {"atol": 2e-4}
            np.testing.assert_allclose(value, arrays[name], err_msg=name, **tolerance)


def test_pictures_of_some_options():
    compare(recorded.pictures(SOME))


@pytest.mark.slow
def test_pictures_of_all_options():
    compare(recorded.pictures())


@pytest.mark.slow
def test_training_steps():
    compare(recorded.training())

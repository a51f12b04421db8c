"""Training from every kind of source: devices and workers see what one device sees, and so does a
run that resumes."""

import subprocess

import numpy as np
import pytest
from data import sources

from training import source_program
from training.test_workers import command, environment


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    sources.open_all(folder)
    return folder


@pytest.fixture(scope="module")
def alone(root):
    return source_program.train(None, root)


def assert_close(found, expected, steps=slice(None)):
    assert set(found) == set(expected) == set(sources.KINDS)
    for kind in expected:
        np.testing.assert_allclose(found[kind], expected[kind][steps], rtol=1e-4, err_msg=kind)


def test_losses_tell_orders_apart(alone):
    assert all(len(set(losses)) == 3 for losses in alone.values())
    shuffled = {tuple(np.round(losses, 5)) for losses in alone.values()}
    assert len(shuffled) > 3  # folder, tar, Parquet and TFDS hold the records in other orders


def test_two_devices(root, alone, two_replicas):
    assert_close(source_program.train(two_replicas, root), alone)


@pytest.mark.slow
def test_resuming_on_two_devices(root, alone, two_replicas):
    found = source_program.train(two_replicas, root, first_step=2)
    assert_close(found, alone, slice(2, None))


def test_resuming(root, alone):
    assert_close(source_program.train(None, root, first_step=2), alone, slice(2, None))


@pytest.mark.parametrize(
    ("reads", "first_step"),
    [
        pytest.param("own", 0, marks=pytest.mark.slow),
        pytest.param("own", 2, marks=pytest.mark.slow),
        pytest.param("whole", 2, marks=pytest.mark.slow),
    ],
)
def test_two_workers(root, alone, reads, first_step):
    """Each worker reads its own part of a batch, or all of it and TensorFlow shares it out; from
    the start, or where a run resumes."""
    done = subprocess.run(
        command(source_program.__file__, root, reads, first_step),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    for index in (0, 1):
        with np.load(root / f"worker-{index}.npz") as found:
            losses = {kind: found[kind] for kind in found.files}
            if "mixed" in losses:
                mixed = source_program.train_mixed(None, root)
                np.testing.assert_allclose(losses.pop("mixed"), mixed, rtol=1e-4)
                assert len(set(mixed)) == 3
            assert_close(losses, alone, slice(first_step, None))

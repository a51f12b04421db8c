"""The smallest number of micro-batches that fits is found, and found without trying all."""

import pytest

from keras_mdm import LevelSpec, Phase, build_nested_unet, costs, estimate
from keras_mdm.costs import fitting

INNER = LevelSpec(4, channels=(32,), blocks=(1,), attention=(0,), heads=2, groups=8)
OUTER = LevelSpec(8, channels=(8, 16), blocks=(1, 1), groups=8)
PHASE = Phase([INNER, OUTER], steps=1, batch_size=1024)


def make_unet(phase):
    return build_nested_unet(phase.levels, num_classes=3, time_width=32)


def total(parts, phase=PHASE, devices=2):
    rows = estimate.estimate_training(
        [phase], make_unet, devices=devices, micro_batches=parts, flop_per_second=1.0
    )
    return rows[0]["memory"]["total"]


@pytest.mark.parametrize(
    "parts", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)]
)
def test_the_smallest_number_that_fits(parts):
    memory = total(parts)
    found = costs.smallest_micro_batches(PHASE, make_unet, devices=2, memory=memory)
    assert found == parts
    if parts > 1:
        assert total(parts // 2) > memory


def test_few_are_tried(monkeypatch):
    tried = []

    def noted(*args, **options):
        tried.append(options["micro_batches"])
        return estimate.estimate_training(*args, **options)

    monkeypatch.setattr(fitting, "estimate_training", noted)
    assert costs.smallest_micro_batches(PHASE, make_unet, devices=2, memory=total(16)) == 16
    assert tried[0] == 1 and len(tried) <= 3


def test_where_nothing_fits_the_closest_is_named():
    with pytest.raises(ValueError, match=r"must fit .*GB with micro_batches=.*To fix it: take"):
        costs.smallest_micro_batches(PHASE, make_unet, devices=2, memory=1000)
    single = Phase([INNER], steps=1, batch_size=2)
    memory = total(1, single) - 1
    with pytest.raises(ValueError, match="micro_batches=1"):
        costs.smallest_micro_batches(single, make_unet, devices=2, memory=memory)


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="divisible by replicas"):
        costs.smallest_micro_batches(PHASE, make_unet, devices=7, memory=10**12)


def test_memory_of_this_machine(monkeypatch, tmp_path):
    assert 0 < costs.device_memory() <= fitting.host_memory()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(fitting, "_LIMITS", (limit, tmp_path / "none"))
    whole = fitting.host_memory()
    limit.write_text("max\n")
    assert fitting.host_memory() == whole
    limit.write_text(f"{10**8}\n")
    assert fitting.host_memory() == 10**8

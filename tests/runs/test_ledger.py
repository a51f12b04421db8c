"""A run knows its whole state: what is missing, damaged, moved or changed."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import TEXT_WIDTH, THREE_PARTS

from keras_mdm import MatryoshkaDiffusion, Phase, fit_progressively
from keras_mdm.callbacks import StepCallback
from keras_mdm.optimizers import SGD
from keras_mdm.runs import checkpoints, ledger
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.runs.loading import recorded_sampling
from keras_mdm.training.phases import number_phases
from runs.test_progressive import (
    LEVELS,
    Stop,
    StopAt,
    assert_same,
    make_dataset,
    make_model,
    phases,
)

pytestmark = pytest.mark.usefixtures("eagerly")


def sgd(phase):
    return make_model(phase, lambda rate: SGD(rate, clip_norm=None))


def train(run_dir, *, table=None, stop=None, dataset=make_dataset, model=sgd, **options):
    def callbacks(context):
        at = stop is not None and context.number == stop[0]
        return [StopAt(stop[1], context.initial_step)] if at else []

    options = {"checkpoint_every": 1, "progress": False, "callbacks": callbacks, **options}
    return fit_progressively(table or phases(), model, dataset, run_dir=run_dir, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole")
    return train(run_dir), run_dir


@pytest.fixture(scope="module")
def stopped_at(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stop):
        train(run_dir, stop=(2, 3))
    return run_dir


@pytest.fixture
def stopped(stopped_at, tmp_path):
    """A run that was killed after step 3 of 4 of its second phase."""
    return shutil.copytree(stopped_at, tmp_path / "run")


def steps_of(run_dir, phase):
    found = checkpoints.list_checkpoints(run_dir / "checkpoints" / f"phase-{phase}")
    return [checkpoints.step_of(path) for path in found]


def test_what_is_missing_and_not_needed_is_fine(whole, stopped):
    shutil.rmtree(stopped / "checkpoints" / "phase-1")
    assert_same(train(stopped), whole[0])
    assert steps_of(stopped, 1) == []  # it was not trained again


def test_what_is_missing_and_needed_is_one_error(stopped):
    for path in (stopped / "checkpoints" / "phase-2").iterdir():
        (path / "model.npz").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"made 3 steps.*restart_phase=2.*") as failure:
        with pytest.warns(UserWarning, match="damaged"):
            train(stopped)
    assert "model.npz has 4 bytes" in str(failure.value) or "sha256" in str(failure.value)
    shutil.rmtree(stopped / "checkpoints" / "phase-2")
    with pytest.raises(ValueError, match=r"made 3 steps"):
        train(stopped)


def test_a_phase_is_begun_again_if_asked_for(whole, stopped):
    shutil.rmtree(stopped / "checkpoints" / "phase-2")
    assert_same(train(stopped, restart_phase=2), whole[0])
    shutil.rmtree(stopped / "checkpoints" / "phase-1")
    with pytest.raises(ValueError, match=r"phase 1 has made 4 steps.*restart_phase=1"):
        train(stopped, restart_phase=2)


def test_a_renamed_checkpoint_is_passed_over(whole, stopped):
    newest = checkpoints.newest_valid(stopped / "checkpoints" / "phase-2")
    newest.rename(newest.with_name("step-0000009"))
    with pytest.warns(UserWarning, match=r"holds step 3, its name says 9|continues from step 2"):
        assert_same(train(stopped), whole[0])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"phases": 3}'])
def test_a_damaged_record_is_one_error(stopped, content):
    (stopped / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json.*To fix it"):
        train(stopped)


def test_fresh_moves_whatever_is_there(stopped, capsys):
    (stopped / "run.json").unlink()
    model = train(stopped, table=phases()[:1], fresh=True)
    assert int(model.optimizer.iterations.numpy()) == 4
    assert (stopped.with_name("run.1") / "checkpoints" / "phase-2").is_dir()
    assert not (stopped / "checkpoints" / "phase-2").exists()


def test_fresh_moves_what_a_link_points_to(stopped, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(stopped)
    train(link, table=phases()[:1], fresh=True)
    assert link.is_symlink() and (stopped / "run.json").is_file()
    assert (stopped.with_name("run.1") / "checkpoints" / "phase-2").is_dir()


@pytest.mark.parametrize("damage", ["short", "changed"])
def test_a_damaged_model_is_written_again(whole, tmp_path, damage):
    run_dir = shutil.copytree(whole[1], tmp_path / "run")
    content = bytearray((run_dir / "model.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (run_dir / "model.keras").write_bytes(b"12345678" if damage == "short" else content)
    train(run_dir)
    assert RunDirectory(run_dir).model_is_whole()
    import keras

    keras.saving.load_model(run_dir / "model.keras")


def test_a_finished_run_needs_its_model_only(whole, tmp_path):
    run_dir = shutil.copytree(whole[1], tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints")
    model = train(run_dir)
    for one, other in zip(model.unet.variables, whole[0].unet.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_that_is_moved_while_it_trains_says_where_it_is(tmp_path):
    class Move(StepCallback):
        def on_step_end(self, previous_step, logs):
            if self.step == 2:
                (tmp_path / "run").rename(tmp_path / "moved")

    with pytest.raises(ValueError, match=r"moved_to='.*moved'"):
        train(tmp_path / "run", table=phases()[:1], callbacks=lambda context: [Move()])
    assert not (tmp_path / "run").exists()
    assert 1 in steps_of(tmp_path / "moved", 1)
    train(tmp_path / "moved", table=phases()[:1])
    assert (tmp_path / "moved" / "phase-1.keras").is_file()


# Runs that change.


@pytest.mark.slow
def test_phases_that_have_not_begun_may_change_and_be_appended(whole, tmp_path):
    first, second = phases()
    train(tmp_path, table=[first])
    other = dataclasses.replace(second, steps=2, batch_size=4)
    train(tmp_path, table=[first, other])
    third = Phase(LEVELS, 2, batch_size=6, learning_rate=1e-3)
    model = train(tmp_path, table=[first, other, third])
    assert int(model.optimizer.iterations.numpy()) == 4 + 2 + 2
    names = {path.name for path in tmp_path.glob("*.keras")}
    assert names == {"model.keras", "phase-1.keras", "phase-2.keras", "phase-3.keras"}
    with pytest.raises(ValueError, match="phases that have begun must stay"):
        train(tmp_path, table=[first])


def test_what_is_done_may_not_change(whole):
    first, second = phases()
    with pytest.raises(ValueError, match=r"phase 1 is finished.*phase 1\.steps: 4 before, 5 now"):
        train(whole[1], table=[dataclasses.replace(first, steps=5), second], extend=True)


def test_more_steps_are_the_run_that_had_them_from_the_start(tmp_path):
    """Bit for bit, moments and averages included: the rate is constant."""
    longer = [dataclasses.replace(phases()[0], steps=6)]
    expected = train(tmp_path / "whole", table=longer)
    run_dir = tmp_path / "run"
    train(run_dir, table=phases()[:1])
    with pytest.raises(ValueError, match=r"steps: 4 before, 6 now.*extend=True|extend=True"):
        train(run_dir, table=longer)
    assert_same(train(run_dir, table=longer, extend=True), expected)
    (change,) = json.loads((run_dir / "run.json").read_text())["changes"]
    assert change["step"] == 4 and change["changed"] == ["steps: 4 before, 6 now"]
    with pytest.raises(ValueError, match="at least the 6 steps"):
        train(run_dir, table=phases()[:1], extend=True)
    levels = [dataclasses.replace(longer[0], levels=LEVELS)]
    with pytest.raises(ValueError, match="only these may change: steps"):
        train(run_dir, table=levels, extend=True)


@pytest.mark.slow
def test_another_batch_goes_on_in_the_data_where_it_was(tmp_path):
    seen = []

    def data(phase, first_step):
        seen.append((phase.batch_size, first_step))
        return make_dataset(phase, first_step)

    first = phases()[0]  # batches of 4
    with pytest.raises(Stop):
        train(tmp_path, table=[first], stop=(1, 3), dataset=data)
    newest = steps_of(tmp_path, 1)[-1]
    changed = [dataclasses.replace(first, batch_size=6, learning_rate=1e-3, steps=6)]
    with pytest.raises(Stop):
        train(tmp_path, table=changed, stop=(1, 5), dataset=data, extend=True)
    assert (6, -(-newest * 4 // 6)) in seen
    at = steps_of(tmp_path, 1)[-1]
    train(tmp_path, table=changed, dataset=data)  # nothing changes any more
    assert (6, -(-newest * 4 // 6) + at - newest) in seen
    with pytest.raises(Stop):  # a process that begins now
        train(tmp_path / "other", table=changed, stop=(1, 1), dataset=data)


def test_runs_of_earlier_versions_keep_their_groups(stopped):
    """Before, groups were the shares rounded to whole samples; a run goes on with those."""
    content = json.loads((stopped / "run.json").read_text())
    content.pop("ledger"), content.pop("models")
    content["phases"][1]["groups"] = {"8": 1, "16": 5}
    content["phases"][1]["downsample"] = "area"
    (stopped / "run.json").write_text(json.dumps(content))
    table, resume = ledger.plan(RunDirectory(stopped), phases())
    assert table[1].groups == {"8": 1, "16": 5} and table[1].downsample == "area"
    assert resume.number == 2 and resume.step == 3


# Steps that break.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("every", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_one_exploding_step_does_not_take_the_checkpoints_with_it(tmp_path, every):
    """A step of an absurd size leaves finite weights with which nothing finite can be computed."""

    def model(phase, rate=1e32):
        made = make_model(phase, lambda _: SGD(_Explodes(rate), clip_norm=None))
        return made

    table = [Phase(LEVELS[:1], 9, batch_size=4, learning_rate=1e-2)]
    options = {"checkpoint_every": every, "skipped_limit": 3, "keep_last": 1}
    with pytest.raises(RuntimeError, match="not finite for 3 steps in a row"):
        train(tmp_path, table=table, model=model, **options)
    newest = checkpoints.newest_valid(tmp_path / "checkpoints" / "phase-1")
    if every == 3:  # the only checkpoint holds what exploded
        assert newest is None
        with pytest.raises(ValueError, match="steps after it were not finite.*"):
            train(tmp_path, table=table, **options)
        train(tmp_path, table=table, restart_phase=1, **options)
        return
    groups, state = checkpoints.load(newest)
    assert state["step"] == 2
    assert all(np.max(np.abs(groups["model"][name])) < 1e3 for name in groups["model"])
    train(tmp_path, table=table, **options)  # with a sane rate it goes on


@tf.keras.utils.register_keras_serializable("tests")
class _Explodes(tf.keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return tf.where(tf.equal(tf.cast(step, tf.int64), 2), self.rate, 1e-2)

    def get_config(self):
        return {"rate": self.rate}


# Before the first step.


def test_a_wrong_level_of_a_later_phase_is_found_before_the_first_step(tmp_path):
    def model(phase):
        levels = [dataclasses.replace(LEVELS[0], channels=(24,), groups=8), *LEVELS[1:]]
        return sgd(phase if len(phase.levels) == 1 else dataclasses.replace(phase, levels=levels))

    with pytest.raises(ValueError, match=r"the same in the next phase.*phase=2"):
        train(tmp_path, model=model)
    assert not (tmp_path / "run.json").exists()


def test_wrong_data_of_a_later_phase_is_found_before_the_first_step(tmp_path):
    def data(phase, first_step):
        dataset = make_dataset(phase, first_step)
        if len(phase.levels) == 1:
            return dataset
        return dataset.map(
            lambda batch: {k: {**v, "strange": v["sample"]} for k, v in batch.items()}
        )

    with pytest.raises(ValueError, match=r"strange"):
        train(tmp_path, dataset=data)
    assert not (tmp_path / "run.json").exists()


def test_devices_memory_and_disk_are_checked_for_all_phases(tmp_path, monkeypatch, two_replicas):
    table = [phases()[0], Phase(LEVELS, 4, batch_size=5)]
    with pytest.raises(ValueError, match="smallest batch that works: 6") as failure:
        train(tmp_path, table=table, strategy=two_replicas)
    assert THREE_PARTS.search(str(failure.value)) if hasattr(THREE_PARTS, "search") else True
    from keras_mdm.runs import preflight

    with monkeypatch.context() as patched:
        patched.setattr(preflight, "device_memory", lambda: 2 * 10**6)
        with pytest.raises(ValueError, match=r"phase 2 .*by estimate it needs .*micro-batches"):
            train(tmp_path)
    with monkeypatch.context() as patched:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(ValueError, match="room for two checkpoints"):
            train(tmp_path)
    seen = []
    with pytest.raises(ValueError, match="no"):
        train(tmp_path, check=lambda phase, model: seen.append(model) or _raise())
    assert isinstance(seen[0], MatryoshkaDiffusion)
    assert os.listdir(tmp_path) in ([], [".lock"])


class Draw:
    """Callbacks that will draw, in phase 2 with more steps than there are."""

    def __call__(self, context):
        raise AssertionError("a step was about to be made")

    def check(self, phase, model):
        text = np.zeros((1, 3, TEXT_WIDTH), "float32")
        steps = 2000 if len(phase.levels) > 1 else 20
        assert model.generate({"text": text}, steps=steps, dry_run=True) == {}


def test_what_callbacks_of_a_later_phase_will_draw_is_checked_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"phase 2 \[8, 16\]: `steps`.*steps=2000.*To fix it"):
        train(tmp_path, callbacks=Draw())
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"validation": lambda phase: make_dataset(phase, 0)}, "must be finite"),
        ({"validation": lambda phase: make_dataset(phase, 0).take(0)}, "must be finite"),
        (
            {"validation": lambda phase: make_dataset(phases()[0], 0).take(1)},
            r"shape \(B, 16, 16, 3\)",
        ),
        ({"validate_every": 2}, "needs data"),
    ],
    ids=["endless", "empty", "of another size in phase 2", "none"],
)
def test_validation_is_checked_before_the_first_step(tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        train(tmp_path, **wrong)
    assert not (tmp_path / "run.json").exists()


def _raise():
    raise ValueError("no")


# What a phase begins with, and what is measured on the way.


def test_a_run_begins_with_a_trained_model(whole, tmp_path):
    model = train(tmp_path, table=[dataclasses.replace(phases()[1], steps=1)], start=whole[0])
    pairs = zip(model.unet.variables, whole[0].unet.variables, strict=True)
    moved = max(np.max(np.abs(np.asarray(a) - np.asarray(b))) for a, b in pairs)
    assert 0 < moved < 0.1


def test_levels_of_that_model_move_at_the_inner_rate_also_after_a_stop(whole, tmp_path):
    start = whole[0].cut("8")
    phase = dataclasses.replace(phases()[1], steps=3, inner_learning_rate=0.0)
    with pytest.raises(ValueError, match="nothing is left to train"):
        train(tmp_path, table=[phase], start=whole[0])
    with pytest.raises(Stop):
        train(tmp_path, table=[phase], start=start, stop=(1, 2))
    model = train(tmp_path, table=[phase], start=start)
    for name, part in start.unet.parts.items():
        pairs = zip(part.weights, model.unet.parts[name].weights, strict=True)
        same = all(np.array_equal(before, after) for before, after in pairs)
        assert same == (model.unet.level_of(name) == "8"), name


@pytest.mark.slow
def test_losses_of_a_validation_are_in_the_record_and_change_nothing(whole, tmp_path):
    def validation(phase):
        return make_dataset(Phase(phase.levels, 1, batch_size=4, mixed=False), 0).take(2)

    model = train(tmp_path, validation=validation, validate_every=2)
    assert_same(model, whole[0])
    rows = json.loads((tmp_path / "run.json").read_text())["validation"]
    assert [(row["phase"], row["step"]) for row in rows] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    assert all(np.isfinite(row["validation_loss_8"]) for row in rows)


def test_how_a_run_draws_is_noted_as_far_as_json_holds_it(tmp_path):
    def sampler(x):
        return x

    table = [dataclasses.replace(phases()[0], steps=1)]
    with pytest.raises(ValueError, match="sampling" + ".*" + THREE_PARTS):
        train(tmp_path, table=table, sampling="fast")
    train(tmp_path, table=table, sampling={"steps": 3, "sampler": sampler, "guidance_scale": 2.0})
    wanted = {"steps": 3, "guidance_scale": 2.0}
    for place in (tmp_path, tmp_path / "model.keras", tmp_path / "checkpoints" / "phase-1"):
        assert recorded_sampling(place) == wanted
    assert recorded_sampling(tmp_path.parent) == {}


def test_numbers_of_phases_follow_from_the_list():
    assert [phase.first_step for phase in number_phases(phases())] == [0, 4]

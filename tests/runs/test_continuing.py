"""What a run may be continued with, and what not."""

import dataclasses
import functools

import numpy as np
import pytest
from tiny_models import PLAIN_INNER, TEXT_WIDTH, arrays, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, fit_progressively, load
from keras_mdm.callbacks import StepCallback
from keras_mdm.optimizers import SGD
from keras_mdm.runs import checkpoints
from keras_mdm.runs.directory import RunDirectory
from runs.test_progressive import LEVELS, Stop, StopAt, make_dataset, make_model, phases


def train(run_dir, *, stop=None, table=None, model=make_model, **options):
    def callbacks(context):
        at = stop is not None and context.number == stop[0]
        return [StopAt(stop[1], context.initial_step)] if at else []

    options = {"checkpoint_every": 1, "progress": False, "callbacks": callbacks, **options}
    table = table or phases()
    return fit_progressively(table, model, make_dataset, run_dir=run_dir, **options)


# Adam would enlarge the rounding of small gradients.
with_sgd = functools.partial(make_model, optimizer=SGD)
LAST = [dataclasses.replace(phases()[1], learning_rate=0.1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on one device, one step after the other."""
    return train(tmp_path_factory.mktemp("whole"), table=LAST, model=with_sgd)


def assert_equal_but_for_rounding(one, other):
    def flat(variables):
        return np.concatenate([np.ravel(value) for value in arrays(variables)])

    start = tiny_unet(LEVELS, text_width=TEXT_WIDTH, scramble=False).trainable_variables
    for part in (lambda model: model.unet.trainable_variables, lambda model: model.ema.averages):
        a, b = flat(part(one)), flat(part(other))
        assert 0 < np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(a - flat(start))


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True], ids=["there", "and back"])
def test_a_run_moves_to_two_replicas(whole, tmp_path, two_replicas, back):
    for strategy, stop in ((None, (1, 1)), *([(two_replicas, (1, 3))] if back else ())):
        with pytest.raises(Stop):
            train(tmp_path, table=LAST, model=with_sgd, stop=stop, strategy=strategy)
    last = None if back else two_replicas
    assert_equal_but_for_rounding(whole, train(tmp_path, table=LAST, model=with_sgd, strategy=last))


@pytest.mark.slow
def test_two_steps_in_one_execution_on_two_replicas(whole, tmp_path, two_replicas):
    """Mixed batches and checkpoints included."""
    calls = []

    class Count(StepCallback):
        def on_step_end(self, previous_step, logs):
            calls.append(self.step - previous_step)

    def model(phase):
        made = with_sgd(phase)
        made.compile(optimizer=made.optimizer, steps_per_execution=2)
        return made

    made = train(
        tmp_path, table=LAST, model=model, strategy=two_replicas, callbacks=lambda _: [Count()]
    )
    assert calls == [2, 2]
    assert_equal_but_for_rounding(whole, made)


def test_another_network_or_process_is_refused(tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, stop=(2, 2))
    before = (tmp_path / "run.json").read_text()

    def wider(phase):
        levels = [PLAIN_INNER, dataclasses.replace(outer(16), channels=(24, 8))]
        return changed(phase, levels[: len(phase.levels)])

    def changed(phase, levels, **options):
        unet = tiny_unet(levels, text_width=TEXT_WIDTH, scramble=False)
        model = MatryoshkaDiffusion(unet, residual=True, seed=2, **options)
        model.compile(optimizer=SGD(0.1))
        return model

    with pytest.raises(ValueError, match=r"level 16 .*channels\.0: .*--fresh"):
        train(tmp_path, model=wider)
    shifted = lambda phase: changed(phase, phase.levels, shift_power=1.0)  # noqa: E731
    with pytest.raises(ValueError, match=r"process of phase 2 .*shift_power: 2.0 before, 1.0 now"):
        train(tmp_path, model=shifted)
    assert (tmp_path / "run.json").read_text().count("made_of") == before.count("made_of") == 1


@pytest.mark.slow
def test_a_level_trained_before_is_refused_in_the_next_phase(tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, stop=(1, 4))  # the end of the first phase

    def other(phase):
        levels = [dataclasses.replace(PLAIN_INNER, channels=(24,), groups=8), *phase.levels[1:]]
        unet = tiny_unet(levels, text_width=TEXT_WIDTH, scramble=False)
        model = MatryoshkaDiffusion(unet, residual=True, seed=2)
        model.compile(optimizer=SGD(0.1))
        return model

    with pytest.raises(ValueError, match="level 8 it was started with"):
        train(tmp_path, model=other)


@pytest.mark.slow
def test_other_data_is_refused_and_fresh_moves_the_run_aside(tmp_path, capsys):
    run_dir, first = tmp_path / "run", phases()[:1]
    train(run_dir, table=first, data={"name": "a", "records": 10})
    with pytest.raises(ValueError, match=r"the data it .*name: 'a' before, 'b' now.*--fresh"):
        train(run_dir, table=first, data={"name": "b", "records": 10})
    trained = (run_dir / "model.keras").read_bytes()
    train(run_dir, table=first, data={"name": "b", "records": 10}, fresh=True)
    assert "run.1" in capsys.readouterr().out
    assert (tmp_path / "run.1" / "model.keras").read_bytes() == trained
    assert RunDirectory(run_dir).read()["made_of"]["data"]["name"] == "b"
    with RunDirectory(run_dir).locked():  # another process trains there
        with pytest.raises(ValueError, match="only one process"):
            train(run_dir, table=first, data={"name": "b", "records": 10}, fresh=True)
    assert (run_dir / "model.keras").exists() and not (tmp_path / "run.2").exists()
    train(run_dir, table=first, data={"name": "b", "records": 10}, fresh=True)
    assert (tmp_path / "run.2" / "model.keras").exists()


@pytest.mark.parametrize("after", ["another phase", "more steps"])
def test_a_run_stopped_before_its_model_was_written_has_no_older_one(tmp_path, monkeypatch, after):
    """The newest checkpoint is that of the last step, and `model.keras` that of an earlier end."""
    first = phases()[:1]
    more = phases() if after == "another phase" else [dataclasses.replace(first[0], steps=6)]
    options = {"extend": True} if after == "more steps" else {}
    train(tmp_path, table=first)

    def stopped(*args, **options):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr("keras_mdm.runs.progressive.write_model", stopped)
        with pytest.raises(Stop):
            train(tmp_path, table=more, **options)
    run = RunDirectory(tmp_path)
    assert run.is_outdated(run.model)
    found = load(tmp_path)  # of the newest checkpoint
    assert found.unet.levels == more[-1].level_names
    done = train(tmp_path, table=more)
    assert run.model_is_whole()
    for file in (run.model, run.phase_model(len(more))):
        written = load(file)
        assert written.unet.levels == more[-1].level_names
        for one, other in zip(written.unet.weights, done.unet.weights, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_phase_stopped_before_its_model_was_written_has_it_afterwards(tmp_path, monkeypatch):
    def stopped(*args, **options):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr("keras_mdm.runs.progressive.write_model", stopped)
        with pytest.raises(Stop):
            train(tmp_path)
    run = RunDirectory(tmp_path)
    assert not run.phase_model(1).exists()
    train(tmp_path)
    assert run.model_is_whole(run.phase_model(1)) and run.model_is_whole()
    assert load(run.phase_model(1)).unet.levels == ("8",)


def test_a_model_damaged_under_all_its_names_is_written_again(tmp_path):
    train(tmp_path, table=phases()[:1])
    run = RunDirectory(tmp_path)
    assert run.model.samefile(run.phase_model(1))
    with open(run.model, "r+b") as stream:  # one file by two names
        stream.truncate(1000)
    train(tmp_path, table=phases()[:1])
    for file in (run.model, run.phase_model(1)):
        assert run.model_is_whole(file) and load(file).unet.levels == ("8",)


def test_a_finished_phase_is_noted_as_such_whenever_it_was_stopped(tmp_path):
    train(tmp_path, table=phases()[:1])
    run = RunDirectory(tmp_path)
    run.note_checkpoint(1, 3, done=False)  # killed before the last checkpoint was noted
    train(tmp_path, table=phases()[:1])
    assert run.phase_record(1)["state"] == "done" and run.phase_record(1)["steps"] == 4


def test_restarting_what_has_not_begun_starts_it_and_excludes_fresh(tmp_path):
    train(tmp_path / "new", table=phases()[:1], restart_phase=1)
    before = (tmp_path / "new" / "run.json").read_text()
    with pytest.raises(ValueError, match="exclude each other"):
        train(tmp_path / "new", table=phases()[:1], restart_phase=1, fresh=True)
    assert (tmp_path / "new" / "run.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_restart_with_fewer_phases_leaves_no_model_of_the_later_ones(tmp_path):
    train(tmp_path)
    with pytest.raises(Stop):
        train(tmp_path, table=phases()[:1], restart_phase=1, stop=(1, 3))
    assert load(tmp_path).unet.levels == ("8",)


def test_a_checkpoint_is_loaded_whatever_lies_beside_it(tmp_path):
    train(tmp_path, table=phases()[:1])
    newest = checkpoints.newest_valid(tmp_path / "checkpoints" / "phase-1")
    (tmp_path / "phase-1.keras").write_bytes(b"torn")
    assert load(newest).unet.levels == ("8",)
    (tmp_path / "run.json").write_text("{")
    assert load(newest).unet.levels == load(newest.parent).unet.levels == ("8",)

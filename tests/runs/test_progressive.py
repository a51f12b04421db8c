"""Phases grow without losing anything, and an interruption leaves no trace."""

import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util.tensor_util import make_ndarray
from tiny_models import PLAIN_INNER, TEXT_WIDTH, THREE_PARTS, arrays, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, Phase, WeightRamp, fit_progressively
from keras_mdm.callbacks import StepCallback
from keras_mdm.data import image_text_dataset, mixed_dataset
from keras_mdm.optimizers import SGD, Adam
from keras_mdm.runs import checkpoints
from keras_mdm.runs.directory import RunDirectory
from keras_mdm.training.phases import number_phases

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 16, 16, 3)).astype("uint8")
TEXT = RNG.normal(size=(10, 3, TEXT_WIDTH)).astype("float32")
MASK = np.ones((10, 3), "float32")
LEVELS = [PLAIN_INNER, outer(16)]


def phases(**second):
    return [
        Phase(LEVELS[:1], 4, batch_size=4, learning_rate=1e-2),
        Phase(LEVELS, 4, batch_size=6, learning_rate=1e-2, **second),
    ]


def make_model(phase, optimizer=Adam):
    unet = tiny_unet(phase.levels, text_width=TEXT_WIDTH, scramble=False)
    model = MatryoshkaDiffusion(unet, residual=True, seed=2)
    model.compile(optimizer=optimizer(phase.learning_rate_schedule()))
    return model


def make_dataset(phase, first_step):
    groups = {}
    for level, rows in phase.groups.items():
        side = int(level)
        images = IMAGES.reshape(10, side, 16 // side, side, 16 // side, 3)[:, :, 0, :, 0]
        options = {"batch_size": rows, "seed": 1, "first_step": first_step}
        groups[level] = image_text_dataset(images, TEXT, MASK, **options)
    return mixed_dataset(groups)


class Stop(Exception):
    pass


class StopAt(StepCallback):
    def __init__(self, step, initial_step):
        super().__init__(initial_step=initial_step)
        self.at = step

    def on_step_end(self, previous_step, logs):
        if self.step == self.at:
            raise Stop


def train(
    run_dir,
    *,
    table=None,
    stop=None,
    model=make_model,
    dataset=make_dataset,
    watch=None,
    strategy=None,
):
    def callbacks(context):
        made = [watch(context)] if watch is not None else []
        if stop is not None and context.number == stop[0]:
            made.append(StopAt(stop[1], context.initial_step))
        return made

    return fit_progressively(
        table or phases(),
        model,
        dataset,
        run_dir=run_dir,
        strategy=strategy,
        callbacks=callbacks,
        checkpoint_every=2,
        log_every=1,
        progress=False,
    )


def everything(model):
    def copies(prefix, values):
        return {f"{prefix}/{k}": np.asarray(v).copy() for k, v in values.items()}

    state = copies("optimizer", model.optimizer.state()) | copies("ema", model.ema.state())
    state |= {v.path: np.asarray(v).copy() for v in model.unet.variables}
    return state | copies("null", model.null_condition) | copies("residual_std", model.residual_std)


def assert_same(a, b):
    a, b = everything(a), everything(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole")
    starts = {}

    def watch(context):
        starts[context.number] = everything(context.model) if context.number == 2 else None
        return StepCallback()

    return train(run_dir, watch=watch), run_dir, starts


def test_growth_takes_weights_moments_and_averages_over(whole):
    _, run_dir, starts = whole
    groups, state = checkpoints.load(checkpoints.newest_valid(run_dir / "checkpoints" / "phase-1"))
    assert state["step"] == 4
    start = starts[2]
    for name in groups["model"]:
        np.testing.assert_array_equal(start[name], groups["model"][name])
    for name in groups["ema"]:
        np.testing.assert_array_equal(start[f"ema/{name}"], groups["ema"][name])
    for name in groups["optimizer"]:
        np.testing.assert_array_equal(start[f"optimizer/{name}"], groups["optimizer"][name])
    assert any(np.any(groups["optimizer"][k]) for k in groups["optimizer"] if "velocity" in k)
    new = "level_16_down/conv_in/kernel"
    assert start[f"optimizer/updates/{new}"] == 0 and start[f"ema/start/{new}"] == 4


@pytest.mark.parametrize(
    "stop",
    [*(pytest.param(stop, marks=pytest.mark.slow) for stop in ((1, 3), (1, 4), (2, 3))), (2, 1)],
    ids=str,
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(whole, tmp_path, stop):
    with pytest.raises(Stop):
        train(tmp_path, stop=stop)
    assert_same(train(tmp_path), whole[0])


@pytest.mark.slow
def test_a_torn_checkpoint_is_passed_over(whole, tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, stop=(1, 4))
    newest = checkpoints.newest_valid(tmp_path / "checkpoints" / "phase-1")
    (newest / "model.npz").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="damaged"):
        model = train(tmp_path)
    assert_same(model, whole[0])


def test_a_finished_run_is_only_loaded(whole):
    def no_steps(context):
        raise AssertionError("nothing is left to train")

    assert_same(train(whole[1], watch=no_steps), whole[0])
    assert (whole[1] / "model.keras").exists()


def test_other_phases_are_refused(whole):
    table = [phases()[0], Phase(LEVELS, 5, batch_size=6)]
    with pytest.raises(ValueError, match=r"phase 2\.steps: 4 before, 5 now"):
        train(whole[1], table=table)


def test_a_removed_directory_does_not_come_back(tmp_path):
    class Remove(StepCallback):
        def on_step_end(self, previous_step, logs):
            if self.step == 1:  # before the first checkpoint
                shutil.rmtree(tmp_path / "run")

    with pytest.raises(ValueError, match="must not be removed during training"):
        train(tmp_path / "run", table=phases()[:1], watch=lambda context: Remove())
    assert not (tmp_path / "run").exists()


def test_curves_are_written(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole[1] / "logs" / whole[1].name))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {f"loss/{name}" for name in ("all", "8", "16")} <= tags
    assert {"optimizer/learning_rate", "optimizer/gradient_norm", "memory/process"} <= tags
    assert "speed/images_per_second" in tags, tags
    assert [event.step for event in events.Tensors("loss/8")] == list(range(1, 9))


def test_a_run_tells_its_phases_and_arguments(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole[1] / "logs" / whole[1].name))
    events.Reload()
    marks = events.Tensors("run/phase")
    assert [(mark.step, float(make_ndarray(mark.tensor_proto))) for mark in marks] == [
        (0, 1.0),
        (4, 2.0),
    ]
    text = events.Tensors("run/phases")[-1].tensor_proto.string_val[0].decode()
    assert text.splitlines()[-1].startswith('| 2 | ["8", "16"] | 4 |')
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    patterns = [
        tag
        for category in layout_pb2.Layout.FromString(layout).category
        for chart in category.chart
        for tag in chart.multiline.tag
    ]
    # Every panel shows something, or is about what this run does not have.
    tags = events.Tags()["tensors"]
    shown = {pattern for pattern in patterns if any(re.search(pattern, tag) for tag in tags)}
    assert {"^loss/", "^run/phase$", "^memory/"} <= shown


@pytest.mark.parametrize("traced", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_model_of_a_phase_is_gone_when_the_next_one_is_made(tmp_path, traced, two_replicas):
    models, kept = [], []

    def make(phase):
        made = (make_model if traced else make_eager_model)(phase)
        if made.unet.variables[0]._value is not None:  # or it only takes part in the checks
            assert not any(reference() for reference in models)  # two would need twice the memory
            models.append(weakref.ref(made))
        return made

    def watch(context):
        kept.append(keras.callbacks.Callback())
        return kept[-1]

    table = [Phase(LEVELS[:1], 1, batch_size=4), Phase(LEVELS, 1, batch_size=4, mixed=False)]
    strategy = two_replicas if traced else None
    train(tmp_path, table=table, model=make, watch=watch, strategy=strategy)
    assert len(models) == len(kept) == 2


def test_a_short_dataset_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="steps_made=3"), pytest.warns(UserWarning):
        train(tmp_path, table=phases()[:1], dataset=lambda p, s: make_dataset(p, s).take(3))


@pytest.mark.parametrize(
    "options",
    [{"freeze": ("8",)}, {"inner_learning_rate": 0.25}],
    ids=str,
)
@pytest.mark.slow
def test_inner_levels_move_slower_or_not_at_all(tmp_path, options):
    ends = []
    for name, given in (("with", options), ("without", {})):
        starts = {}

        def watch(context, starts=starts):
            starts[context.number] = arrays(context.model.unet.parts["level_8"].weights)
            return StepCallback()

        table = [phases()[0], Phase(LEVELS, 1, batch_size=6, learning_rate=1e-2, **given)]
        model = train(
            tmp_path / name,
            table=table,
            watch=watch,
            model=lambda phase: make_model(phase, lambda rate: SGD(rate, clip_norm=None)),
        )
        end = arrays(model.unet.parts["level_8"].weights)
        ends.append([b - a for a, b in zip(starts[2], end, strict=True)])
    factor = options.get("inner_learning_rate", 0.0)
    moved = max(np.max(np.abs(m)) for m in ends[1])
    assert moved > 1e-4
    for slow, full in zip(*ends, strict=True):
        np.testing.assert_allclose(slow, factor * full, atol=1e-3 * moved)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": None},
        {"images": 10},
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": -1.0},
        {"freeze": ("64",)},
        {"freeze": ("8",)},
        {"level_weights": {"64": 1.0}},
        {"mixed": {"8": 0.5}},
        {"mixed": 0.5},
        {"mixed": {"64": 1.0}},
        {"levels": [8, 16], "mixed": {"8": 1.0}, "batch_size": 4},
        {"levels": [8, 16], "batch_size": 1},
        {"levels": [8, 16], "batch_size": 4, "mixed": {"8": 1, "16": 2}},
        {"levels": [8, 16], "batch_size": 4, "mixed": {"8": 5, "16": -1}},
        {"level_weights": "lowest"},
        {"downsample": "cubic"},
        {"levels": "8"},
        {"final_learning_rate": 2.0},
    ],
    ids=str,
)
def test_wrong_phases_are_one_error_in_three_parts(options):
    with pytest.raises(ValueError, match=THREE_PARTS):
        Phase(**{"levels": [8], "steps": 1, "batch_size": 1, **options})


def test_groups_of_a_phase():
    """2:1 by default, as in the release; sizes are whole and sum to the batch."""
    assert Phase([64], 1, batch_size=7).groups == {"64": 7}
    assert Phase([64, 256], 1, batch_size=18).groups == {"64": 6, "256": 12}
    assert Phase([64, 256, 1024], 1, batch_size=9).groups == {"64": 1, "256": 2, "1024": 6}
    assert Phase([64, 256], 1, batch_size=8, mixed=False).groups == {"256": 8}
    assert Phase([64, 256], 1, batch_size=8, mixed={"64": 0.25, "256": 0.75}).groups == {
        "64": 2,
        "256": 6,
    }
    # A level without samples of its own is trained on those of the levels above.
    shares = {"64": 0.5, "1024": 0.5}
    assert Phase([64, 256, 1024], 1, batch_size=4, mixed=shares).groups == {"64": 2, "1024": 2}


# The paper's batches with their levels (appendix B), and what becomes of them.
PAPER_GROUPS = {
    (256, (64, 256)): {"64": 64, "256": 192},
    (1024, (64, 256)): {"64": 384, "256": 640},
    (1024, (64, 128, 256)): {"64": 128, "128": 256, "256": 640},
    (768, (64, 256, 1024)): {"64": 128, "256": 128, "1024": 512},
    (768, (64, 128, 256, 512, 1024)): {"64": 64, "128": 64, "256": 64, "512": 128, "1024": 448},
    (512, (64, (16, 64))): {"64": 192, "16x64": 320},
    (128, (64, (16, 64), (16, 256))): {"64": 32, "16x64": 32, "16x256": 64},
}


@pytest.mark.parametrize(("batch_size", "levels"), PAPER_GROUPS, ids=str)
def test_the_papers_batches_divide_over_32_replicas_and_micro_batches(batch_size, levels):
    groups = Phase(levels, 1, batch_size=batch_size).groups
    assert groups == PAPER_GROUPS[batch_size, levels]
    assert sum(groups.values()) == batch_size
    parts = 32 if batch_size == 128 else 64
    assert not any(rows % parts for rows in groups.values())
    # None is further from its share than the parts make necessary.
    shares = Phase(levels, 1, batch_size=batch_size).shares
    off = max(abs(groups[level] / batch_size - share) for level, share in shares.items())
    assert off < (0.17 if batch_size == 128 else 0.084)


@pytest.mark.parametrize("levels", [(8, 16), (8, 16, 32), (8, 16, 32, 64, 128)], ids=str)
def test_groups_of_any_batch_are_whole_and_near_their_shares(levels):
    for batch_size in (*range(len(levels), 80), 96, 100, 128, 384, 1000, 1026, 2048):
        phase = Phase(levels, 1, batch_size=batch_size)
        groups = phase.groups
        assert sum(groups.values()) == batch_size and min(groups.values()) >= 1
        if batch_size >= 4 * len(levels):
            off = [abs(groups[k] / batch_size - share) for k, share in phase.shares.items()]
            assert max(off) < 0.17, (batch_size, groups)


def test_whole_numbers_of_samples_are_groups():
    mixed = {"64": 341, "256": 683}  # what runs of earlier versions were started with
    assert Phase([64, 256], 1, batch_size=1024, mixed=mixed).groups == mixed
    assert Phase([64, 256], 1, batch_size=3, mixed={"64": 0, "256": 3}).groups == {"256": 3}
    assert Phase([64, 256], 1, batch_size=3, mixed={"256": 1}).groups == {"256": 3}  # a share


def test_no_sample_is_spent_on_levels_without_a_loss():
    for weights in ("highest", {"8": 0.0, "16": 0.0}):
        phase = Phase([8, 16, 32], 1, batch_size=8, level_weights=weights)
        assert phase.groups == {"32": 8}
    phase = Phase([8, 16, 32], 1, batch_size=6, level_weights={"8": 0.0})
    assert phase.groups == {"16": 2, "32": 4}
    with pytest.raises(ValueError, match=r"idle=\['8'\].*To fix it"):
        Phase([8, 16], 1, batch_size=8, level_weights="highest", mixed={"8": 0.5, "16": 0.5})


def test_groups_must_divide_over_replicas_and_micro_batches(tmp_path):
    def model(phase):
        made = make_model(phase)
        made.compile(optimizer=Adam(1e-3), micro_batches=4)
        return made

    with pytest.raises(ValueError, match="works: 12$|works: 12[^0-9]") as failure:
        train(tmp_path, table=[Phase(LEVELS, 1, batch_size=10)], model=model)
    assert "groups={'8': 4, '16': 6}" in str(failure.value)


@pytest.mark.parametrize("mixed", [True, False])
def test_a_dataset_without_the_groups_of_its_phase_is_refused(tmp_path, mixed):
    def data(phase, first_step):
        return make_dataset(Phase(LEVELS, 1, batch_size=6, mixed=not mixed), first_step)

    with pytest.raises(ValueError, match="phase.groups"):
        train(tmp_path, table=[Phase(LEVELS, 1, batch_size=6, mixed=mixed)], dataset=data)


@pytest.mark.slow
def test_weights_follow_the_progress_of_their_phase(tmp_path):
    """The loss of every step is that of its levels with the weights of the step."""
    steps = []

    class Watch(StepCallback):
        def on_step_end(self, previous_step, logs):
            steps.append({key: float(value) for key, value in logs.items()})

    ramp = WeightRamp({"16": 0.0}, {"16": 2.0}, until=0.5)
    table = [Phase(LEVELS[:1], 2, batch_size=4), Phase(LEVELS, 4, batch_size=6, level_weights=ramp)]
    train(tmp_path, table=table, watch=lambda context: Watch())
    for logs, weight in zip(steps[2:], (0.0, 1.0, 2.0, 2.0), strict=True):
        expected = logs["loss_8"] + weight * logs["loss_16"]
        np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    # The same ramp is the same phase in another process.
    assert train(tmp_path, table=table).unet.levels == ("8", "16")


def test_phases_only_add_levels():
    assert [p.first_step for p in number_phases(phases())] == [0, 4]
    assert Phase([8], images=10, batch_size=4).steps == 3
    for wrong in ([], phases()[::-1], [3]):
        with pytest.raises(ValueError, match=THREE_PARTS):
            number_phases(wrong)


def test_the_model_must_have_the_levels_of_its_phase(tmp_path):
    with pytest.raises(ValueError, match=r"levels=\('8', '16'\)"):
        train(tmp_path, table=phases()[:1], model=lambda phase: make_model(phases()[1]))


def test_the_learning_rate_restarts_with_the_phase():
    phase = number_phases(phases(warmup_steps=2, final_learning_rate=0.5))[1]
    rates = [float(phase.learning_rate_schedule()(tf.constant(step))) for step in (4, 6, 8)]
    np.testing.assert_allclose(rates, [5e-3, 1e-2, 5e-3], rtol=1e-5)


def make_eager_model(phase):
    """For single steps: tracing would take longer."""
    model = make_model(phase, lambda rate: SGD(rate, clip_norm=None))
    model.compile(optimizer=model.optimizer, run_eagerly=True)
    return model


@pytest.mark.slow
def test_two_levels_join_at_once(tmp_path):
    table = [
        phases()[0],
        Phase(
            [*LEVELS, outer(32)],
            1,
            batch_size=4,
            learning_rate=1e-2,
            inner_learning_rate=0.0,
            mixed=False,
        ),
    ]
    starts = {}

    def watch(context):
        parts = context.model.unet.parts
        starts[context.number] = {name: arrays(part.weights) for name, part in parts.items()}
        return StepCallback()

    def data(phase, first_step):
        if phase.level_names[-1] == "8":
            return make_dataset(phase, first_step)
        images = IMAGES.repeat(2, axis=1).repeat(2, axis=2)
        images = np.clip(images + RNG.integers(-9, 9, images.shape), 0, 255).astype("uint8")
        return image_text_dataset(images, TEXT, MASK, batch_size=4, seed=1, first_step=first_step)

    model = train(
        tmp_path,
        table=table,
        watch=watch,
        dataset=data,
        model=make_eager_model,
    )
    assert model.unet.levels == ("8", "16", "32")
    assert all(np.isfinite(value) for value in everything(model)["residual_std/16"].reshape(-1))
    # The factor of the inner levels is not that of the new ones, neither of them.
    for name, part in model.unet.parts.items():
        moved = max(
            np.max(np.abs(a - b))
            for a, b in zip(starts[2][name], arrays(part.weights), strict=True)
        )
        if not name.startswith(("level_16", "level_32")):
            assert moved == 0.0, name
        elif name.endswith("_up"):  # beyond the adapters that are zero, which let no gradient by
            assert moved > 0.0, name


@pytest.mark.slow
def test_a_trained_level_keeps_its_residual(tmp_path):
    # The second phase sees other data; what level 16 learned belongs to the first value.
    def data(phase, first_step):
        dataset = make_dataset(phase, first_step)
        if phase.first_step == 0:
            return dataset
        return dataset.map(lambda batch: {**batch, "image": batch["image"] // 4})

    seen = {}

    def watch(context):
        seen[context.number] = float(context.model.residual_std["16"])
        return StepCallback()

    table = [Phase(LEVELS, 1, batch_size=4, mixed=False)] * 2
    train(tmp_path, table=table, dataset=data, watch=watch, model=make_eager_model)
    assert seen[2] == seen[1] > 0.1


def test_steps_must_be_whole_executions(tmp_path):
    def model(phase):
        made = make_model(phase)
        made.compile(optimizer=Adam(1e-3), steps_per_execution=3)
        return made

    with pytest.raises(ValueError, match=r"steps=4, steps_per_execution=3\. To fix it"):
        train(tmp_path, table=phases()[:1], model=model)


# Ends


class At(StepCallback):
    """Calls a function after one step."""

    def __init__(self, step, action, initial_step=0):
        super().__init__(initial_step=initial_step)
        self.at, self.action = step, action

    def on_step_end(self, previous_step, logs):
        if self.step == self.at:
            self.action()


def test_sigterm_writes_a_checkpoint_and_leaves_no_trace(whole, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def watch(context):
        terminate = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
        return At(3 if context.number == 2 else -1, terminate, context.initial_step)

    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, watch=watch)
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "SIGTERM" in printed and "To continue:" in printed
    assert checkpoints.newest_valid(tmp_path / "checkpoints" / "phase-2").name == "step-0000003"
    assert signal.getsignal(signal.SIGTERM) is before
    assert_same(train(tmp_path), whole[0])


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "file.write('123'); file.flush(); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="process='123'"):
            train(tmp_path)
        other.kill()
    assert not (tmp_path / "run.json").exists()


@pytest.mark.slow
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(whole, tmp_path, monkeypatch):
    save = checkpoints.save

    def full(directory, step, *rest):
        if step == 2 and directory.name == "phase-1":
            (directory / ".tmp-step-0000002").mkdir(parents=True)
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(directory, step, *rest)

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.warns(UserWarning, match="A checkpoint was not written"):
        model = train(tmp_path)
    assert_same(model, whole[0])
    assert not list((tmp_path / "checkpoints" / "phase-1").glob(".tmp-*"))


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left on device"), None], ids=["Python", "TensorFlow"]
)
def test_a_full_disk_costs_curves_and_validations_and_not_the_run(
    whole, tmp_path, monkeypatch, problem
):
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    # TensorBoard writes through TensorFlow, which has an error of its own.
    problem = problem or tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    def full(*_, **__):
        raise problem

    def full_for_curves(self, event):
        if event.HasField("summary"):  # later than when the file was made
            raise problem

    monkeypatch.setattr(EventFileWriter, "add_event", full_for_curves)
    monkeypatch.setattr(RunDirectory, "note", full)
    with pytest.warns(UserWarning, match="No space left on device.+The run continues"):
        model = fit_progressively(
            phases(),
            make_model,
            make_dataset,
            run_dir=tmp_path,
            validation=lambda phase: make_dataset(phase, 0).take(1),
            log_every=1,
            progress=False,
        )
    assert_same(model, whole[0])


def test_a_disk_that_is_full_at_the_end_of_a_phase_is_an_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(OSError, match="No space"), pytest.warns(UserWarning):
        train(tmp_path, table=phases()[:1])


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(whole, tmp_path, monkeypatch):
    """And what is written is the state at its step, not what came after."""
    save, go_on, seen = checkpoints.save, threading.Event(), []

    def slow(directory, step, *rest):
        if step == 2 and directory.name == "phase-1":
            assert go_on.wait(60)
        return save(directory, step, *rest)

    def watch(context):
        def note():
            seen.append(checkpoints.list_checkpoints(tmp_path / "checkpoints" / "phase-1"))
            go_on.set()

        return At(3 if context.number == 1 else -1, note, context.initial_step)

    monkeypatch.setattr(checkpoints, "save", slow)
    with pytest.raises(Stop):
        train(tmp_path, watch=watch, stop=(1, 3))
    assert seen == [[]]  # step 3 was made before step 2 was written
    newest = checkpoints.newest_valid(tmp_path / "checkpoints" / "phase-1")
    assert checkpoints.step_of(newest) == 2
    monkeypatch.undo()
    assert_same(train(tmp_path), whole[0])


def test_steps_that_stay_broken_end_the_run_with_the_last_good_checkpoint(tmp_path):
    def data(phase, first_step):
        def spoil(number, batch):
            image = tf.cast(batch["image"], tf.float32) / 127.5 - 1.0
            return {**batch, "image": tf.where(number < 3, image, float("nan"))}

        return make_dataset(phase, first_step).enumerate(first_step).map(spoil)

    table = [Phase(LEVELS[:1], 9, batch_size=4, learning_rate=1e-2)]
    with pytest.raises(RuntimeError, match="3 steps in a row, up to step 6"):
        fit_progressively(
            table,
            make_model,
            data,
            run_dir=tmp_path,
            checkpoint_every=2,
            skipped_limit=3,
            progress=False,
        )
    newest = checkpoints.newest_valid(tmp_path / "checkpoints" / "phase-1")
    groups, _ = checkpoints.load(newest)
    assert all(np.all(np.isfinite(groups["model"][name])) for name in groups["model"])
    assert checkpoints.step_of(newest) == 2  # at step 4 a step had been skipped

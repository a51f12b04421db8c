import json
import os
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mdm import named_arrays
from keras_mdm.averages.ema import ExponentialMovingAverage
from keras_mdm.optimizers import Adam
from keras_mdm.optimizers.learning_rates import Warmup
from keras_mdm.runs import checkpoints


def some_arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "model": {
            "level_64/down/kernel": rng.normal(size=(3, 4)).astype("f"),
            "scalar": rng.normal(),
        },
        "optimizer": {"iterations": np.int64(7), "file": np.zeros((0, 2), "float32")},
    }


def test_round_trip_is_exact(tmp_path):
    path = checkpoints.save(tmp_path, 500, some_arrays(), {"phase": 2, "seed": 0, "x": [1, "a"]})
    assert path.name == "step-0000500" and checkpoints.step_of(path) == 500
    names = {"model.npz", "optimizer.npz", "state.json", "manifest.json"}
    assert {file.name for file in path.iterdir()} == names
    arrays, state = checkpoints.load(path)
    assert state == {"phase": 2, "seed": 0, "x": [1, "a"], "step": 500}
    for group, want in some_arrays().items():
        assert list(arrays[group]) == list(want)
        for name, value in want.items():
            got = arrays[group][name]
            np.testing.assert_array_equal(got, value)
            assert got.dtype == np.asarray(value).dtype
            assert arrays[group].shape_of(name) == np.shape(value)
    # numpy reads the files too.
    np.testing.assert_array_equal(
        np.load(path / "model.npz")["level_64/down/kernel"], arrays["model"]["level_64/down/kernel"]
    )


def test_equal_content_gives_equal_files(tmp_path):
    a, b = (checkpoints.save(tmp_path / x, 1, some_arrays(), {}) for x in "ab")
    assert (a / "manifest.json").read_bytes() == (b / "manifest.json").read_bytes()
    c = checkpoints.save(tmp_path / "c", 1, some_arrays(1), {})
    assert (a / "manifest.json").read_bytes() != (c / "manifest.json").read_bytes()


def truncate(path):
    file = path / "model.npz"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(path):
    file = path / "model.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit,
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text('{"files": {"mod'),
        lambda path: (path / "manifest.json").write_text("[]"),
    ],
)
def test_damaged_ones_are_passed_over_by_name(tmp_path, damage):
    whole = checkpoints.save(tmp_path, 3, some_arrays(), {})
    torn = checkpoints.save(tmp_path, 12, some_arrays(), {})
    assert checkpoints.newest_valid(tmp_path) == torn
    damage(torn)
    with pytest.warns(UserWarning, match="step-0000012"):
        assert checkpoints.newest_valid(tmp_path) == whole


def test_nothing_yet(tmp_path):
    assert checkpoints.newest_valid(tmp_path / "nowhere") is None
    (tmp_path / "notes").mkdir()
    assert checkpoints.newest_valid(tmp_path) is None


def test_an_interrupted_save_leaves_no_checkpoint(tmp_path):
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise KeyboardInterrupt

    whole = checkpoints.save(tmp_path, 1, some_arrays(), {})
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 2, {"model": {"a": np.ones(3), "b": Broken()}}, {})
    assert checkpoints.list_checkpoints(tmp_path) == [whole]
    checkpoints.save(tmp_path, 3, some_arrays(), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000001", "step-0000003"]


class Killed(BaseException):
    pass


def test_killed_before_each_rename_and_sync(tmp_path, monkeypatch):
    # `save` catches nothing, so that an exception from the system call stands for the kill.
    seen = []
    for calls in range(9):
        directory = tmp_path / str(calls)
        checkpoints.save(directory, 4, {"model": {"a": np.full(4, 0.0)}}, {"again": False})
        checkpoints.save(directory, 5, {"model": {"a": np.full(4, 1.0)}}, {"again": False})
        left = [calls]

        def counted(real, left=left):
            def call(*arguments):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real(*arguments)

            return call

        killed = False
        with monkeypatch.context() as patch:
            for name in ("rename", "fsync"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                checkpoints.save(directory, 5, {"model": {"a": np.full(4, 2.0)}}, {"again": True})
            except Killed:
                killed = True
        arrays, state = checkpoints.load(checkpoints.newest_valid(directory))
        value = {(5, True): 2.0, (5, False): 1.0, (4, False): 0.0}[state["step"], state["again"]]
        np.testing.assert_array_equal(arrays["model"]["a"], np.full(4, value))
        seen.append((killed, value))
    # Four syncs (three files, the directory), two renames, a sync. Between the renames the older
    # step counts; it happens only when a step is saved for a second time.
    assert seen == [(True, 1.0)] * 5 + [(True, 0.0), (True, 2.0), (False, 2.0), (False, 2.0)]


def test_prune(tmp_path):
    for step in (10, 20, 30, 40, 50, 60):
        checkpoints.save(tmp_path, step, some_arrays(), {})
    truncate(tmp_path / "step-0000060")  # damaged: must not count as the one that is kept
    deleted = checkpoints.prune(tmp_path, keep_last=2, keep_every=20)
    assert [checkpoints.step_of(p) for p in deleted] == [10, 30]
    left = [checkpoints.step_of(p) for p in checkpoints.list_checkpoints(tmp_path)]
    assert left == [20, 40, 50, 60]
    assert len(list(tmp_path.iterdir())) == 4


def test_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="model/text"):
        checkpoints.save(tmp_path, 1, {"model": {"text": np.array("a")}}, {})
    assert checkpoints.list_checkpoints(tmp_path) == []


def test_assign_reports_everything_at_once_and_sets_nothing():
    variables = {name: keras.Variable(np.zeros(2, "f"), name=name) for name in ("a", "b", "c")}
    arrays = {"a": np.ones(2), "b": np.ones(3), "d": np.ones(2)}
    with pytest.raises(ValueError) as caught:
        named_arrays.assign(variables, arrays, what="network")
    for part in ("network", "missing=['c']", "unexpected=['d']", "b: (3,) for (2,)"):
        assert part in str(caught.value)
    assert not np.any(variables["a"])
    named_arrays.assign(variables, {name: np.full(2, 3.0) for name in "abc"}, what="network")
    np.testing.assert_array_equal(variables["c"], [3.0, 3.0])


def test_writing_and_reading_need_the_memory_of_one_array(tmp_path):
    class Lazy:
        """Stands for a variable: makes its array only when it is converted."""

        def __array__(self, dtype=None, copy=None):
            return np.ones(1 << 20, "float32")  # 4 MiB

    group = {f"w{i}": Lazy() for i in range(20)}
    tracemalloc.start()
    path = checkpoints.save(tmp_path, 1, {"model": group}, {})
    arrays, _ = checkpoints.load(path)
    variables = {name: _Sink() for name in group}
    named_arrays.assign(variables, arrays["model"], what="network")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * (4 << 20)  # 80 MiB in all
    assert all(sink.total == 1 << 20 for sink in variables.values())


class _Sink:
    shape = (1 << 20,)

    def assign(self, array):
        self.total = float(array.sum())


# Resume -------------------------------------------------------------------------------------------


def build(strategy):
    with strategy.scope():
        layers = [
            keras.layers.Dense(8, activation="tanh", name="a"),
            keras.layers.Dense(1, name="b"),
        ]
        model = keras.Sequential(layers, name="toy")
        model.build((None, 4))
        for i, variable in enumerate(model.weights):
            variable.assign(np.random.default_rng(i).normal(size=variable.shape))
        optimizer = Adam(Warmup(0.05, 5), clip_norm=0.5)
        optimizer.build(model.trainable_variables)
        ema = ExponentialMovingAverage(model.trainable_variables, decay=0.99)
    return model, optimizer, ema


def make_step(strategy, model, optimizer, ema):
    def replica_step(step):
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        x = tf.random.stateless_normal((4, 4), [step, rank])
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - tf.reduce_sum(x, 1, keepdims=True)))
            loss /= strategy.num_replicas_in_sync
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        ema.update(optimizer.iterations - 1)

    run = tf.function(lambda step: strategy.run(replica_step, args=(step,)))
    return lambda step: run(tf.constant(step))


def everything(model, optimizer, ema):
    return {
        "model": {variable.path: variable for variable in model.weights},
        "optimizer": optimizer.state(),
        "ema": ema.state(),
    }


@pytest.mark.parametrize("replicas", [1, 2])
def test_resume_repeats_the_steps_bit_for_bit(tmp_path, request, replicas):
    strategy = tf.distribute.get_strategy()
    if replicas == 2:
        strategy = request.getfixturevalue("two_replicas")
    parts = build(strategy)
    step = make_step(strategy, *parts)
    for k in range(7):
        step(k)
        if k == 2:
            path = checkpoints.save(tmp_path, 3, everything(*parts), {"phase": 1})
    want = {g: {n: np.asarray(v) for n, v in a.items()} for g, a in everything(*parts).items()}

    again = build(strategy)
    arrays, state = checkpoints.load(path)
    moved = np.asarray(parts[0].weights[0]) - arrays["model"][parts[0].weights[0].path]
    assert np.max(np.abs(moved)) > 0.01
    named_arrays.assign(everything(*again)["model"], arrays["model"], what="network")
    again[1].set_state(arrays["optimizer"])
    again[2].set_state(arrays["ema"])
    step = make_step(strategy, *again)
    for k in range(state["step"], 7):
        step(k)
    for group, names in everything(*again).items():
        for name, value in names.items():
            np.testing.assert_array_equal(np.asarray(value), want[group][name], err_msg=name)
    assert json.loads((path / "state.json").read_text())["phase"] == 1

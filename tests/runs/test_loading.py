"""What a run makes is usable at once: any of its states is the model that was in memory."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
from sampling.drawing import assert_equal, draw
from tiny_models import (
    INNER,
    PLAIN_INNER,
    TEXT_WIDTH,
    THREE_PARTS,
    FakeEncoder,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion, load
from keras_mdm.optimizers import SGD
from keras_mdm.runs import checkpoints, loading
from keras_mdm.runs.finding import FoundModel, find_model
from keras_mdm.runs.snapshot import save_snapshot

pytestmark = pytest.mark.usefixtures("eagerly")


def make(levels=(PLAIN_INNER,), *, kind=MatryoshkaDiffusion, seed=0, network=None, **options):
    network = {"num_classes": 2, "seed": seed, **(network or {})}
    model = kind(tiny_unet(list(levels), **network), seed=7, **options)
    rng = np.random.default_rng(seed)
    for ema in (model.ema, *model.power_emas.values()):  # none is like another
        for average in ema.averages:
            average.assign(np.asarray(average) + 0.05 * rng.normal(size=average.shape))
    model.compile(optimizer=SGD(0.1))
    return model


def text_model():
    network = {"num_classes": None, "text_width": TEXT_WIDTH, "dtype": "mixed_bfloat16"}
    options = {"residual": {"16": 0.3}, "power_emas": (0.05, 0.1), "text_encoder": FakeEncoder()}
    model = make([INNER, outer(16)], network=network, threshold="static", **options)
    for ema in (model.ema, *model.power_emas.values()):  # as after growth
        ema.starts = [index % 2 for index in range(len(ema.starts))]
    return model


def class_model():
    options = {"residual": True, "signal_scale": None, "guidance_shares": {"16": 0.5}}
    model = make([PLAIN_INNER, outer(16)], schedule="linear", shift_power=1.0, **options)
    model.residual_std["16"].assign(0.2)
    return model


def save(run, phase, step, model):
    return save_snapshot(model, run / "checkpoints" / f"phase-{phase}", step, {"phase": phase})


def write_run_file(run, *steps):
    run.mkdir(exist_ok=True)
    (run / "run.json").write_text(json.dumps({"phases": [{"steps": count} for count in steps]}))


def state_of(model):
    found = {v.path: np.asarray(v) for v in model.unet.variables}
    for name, ema in {"ema": model.ema, **model.power_emas}.items():
        found |= {f"{name}/{key}": np.asarray(value) for key, value in ema.state().items()}
    found |= {f"null/{name}": np.asarray(v) for name, v in model.null_condition.items()}
    return found | {f"std/{name}": np.asarray(v) for name, v in model.residual_std.items()}


def assert_same(a, b):
    a, b = state_of(a), state_of(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


@pytest.mark.parametrize(
    ("made", "conditions", "weights"),
    [
        (text_model, {"prompts": ["a dog", "two"]}, ("ema_0.05",)),
        pytest.param(
            *(class_model, {"prompts": None, "labels": [0, 1]}, ("ema", "raw")),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_checkpoint_draws_what_the_model_in_memory_drew(tmp_path, made, conditions, weights):
    model = made()
    path = save(tmp_path, 1, 3, model)
    before = contents(tmp_path)
    loaded = load(path)
    assert contents(tmp_path) == before
    assert not loaded.compiled and loaded.get_config() == model.get_config()
    assert loaded.unet.policy.name == model.unet.policy.name
    assert_same(loaded, model)
    loaded.save(tmp_path / "again.keras")
    again = load(tmp_path / "again.keras")
    assert_same(again, model)
    for each in (loaded, again):
        if model.text_encoder is not None:
            assert each.text_encoder is None  # found when it is needed
            each.text_encoder = FakeEncoder()
    for name in weights:
        expected = draw(model, steps=2, weights=name, **conditions)
        assert_equal(draw(loaded, steps=2, weights=name, **conditions), expected)
    assert_equal(draw(again, steps=2, weights=name, **conditions), expected)


def test_the_configuration_is_that_of_the_model_as_it_is_now(tmp_path):
    model = make()
    model.downsample = "bilinear"
    model.unet.trained_alone = ("8",)
    loaded = load(save(tmp_path, 1, 1, model))
    assert loaded.downsample == "bilinear" and loaded.unet.trained_alone == ("8",)
    model.level_weights = lambda progress: {"8": progress}
    with pytest.raises(ValueError, match="`level_weights` must be known to Keras"):
        save(tmp_path, 1, 2, model)
    model.phase_weights = model.level_weights
    assert load(save(tmp_path, 1, 2, model)).level_weights == {}


@pytest.fixture(scope="module")
def models():
    return [make(seed=1), make(seed=2), make([PLAIN_INNER, outer(16)], seed=3)]


@pytest.fixture
def run(tmp_path, models):
    """Two phases, the second one being trained."""
    run = tmp_path / "run"
    write_run_file(run, 4, 9)
    save(run, 1, 2, models[0])
    save(run, 1, 4, models[1])
    save(run, 2, 5, models[2])
    return run


def test_the_newest_state_of_a_run_that_trains(run, models, monkeypatch):
    newest = run / "checkpoints" / "phase-2" / "step-0000005"
    found, model = loading.load_found(run)
    assert found == FoundModel("checkpoint", newest, 2, 5)
    assert str(found) == f"phase 2, step 5 of {run}"
    assert_same(model, models[2])
    assert find_model(str(run)) == find_model(f"{run}/") == find_model(newest.parent) == found
    assert find_model(run / "phase-2") == found and find_model(newest) == found
    assert find_model(newest.parent / ".." / "phase-2").path.samefile(newest)
    monkeypatch.chdir(newest.parent)
    assert find_model(".").step == 5 and find_model(".").run == run
    # A phase that is over, with its model and without.
    first = FoundModel("checkpoint", run / "checkpoints" / "phase-1" / "step-0000004", 1, 4)
    assert find_model(run / "phase-1") == find_model(run / "checkpoints" / "phase-1") == first
    models[1].save(run / "phase-1.keras")
    assert find_model(run / "phase-1.keras") == FoundModel("file", run / "phase-1.keras", 1)
    assert find_model(run) == found
    shutil.rmtree(run / "checkpoints" / "phase-1")
    assert find_model(run / "checkpoints" / "phase-1").path == run / "phase-1.keras"


def test_a_finished_run_is_its_model(run, models):
    models[2].save(run / "model.keras")
    assert find_model(run).step == 5  # a run that goes on after its model has been written
    save(run, 2, 9, models[2])
    assert find_model(run) == FoundModel("file", run / "model.keras")
    assert str(find_model(run)) == str(run / "model.keras")
    shutil.rmtree(run / "checkpoints")
    assert_same(load(run), models[2])
    (run / "run.json").unlink()
    assert find_model(run).path == run / "model.keras"


def test_damaged_checkpoints_are_passed_over_with_a_warning(run, models):
    second = run / "checkpoints" / "phase-2" / "step-0000005"
    (second / "model.npz").write_bytes(b"torn")
    with pytest.raises(ValueError, match=THREE_PARTS) as failure:
        load(second)
    assert "model.npz has 4 bytes" in str(failure.value) and str(second) in str(failure.value)
    with pytest.warns(UserWarning, match=r"passed over: .*phase-2/step-0000005: model.npz"):
        found = find_model(run)
    assert (found.phase, found.step) == (1, 4)
    with pytest.raises(ValueError, match=THREE_PARTS) as failure:
        load(run / "checkpoints" / "phase-2")
    assert "step-0000005: model.npz has 4 bytes" in str(failure.value)
    models[2].save(run / "phase-2.keras")
    with pytest.warns(UserWarning, match="passed over"):
        assert find_model(run).path == run / "phase-2.keras"


def test_a_reader_goes_on_with_the_newer_one_if_its_checkpoint_is_pruned(run, models, monkeypatch):
    """The training deletes what has been chosen: once while it is compared, once before it is read
    and once in the middle of it."""
    directory = run / "checkpoints" / "phase-2"
    steps = iter((6, 7, 8))
    real = {"find_damage": checkpoints.find_damage, "load": checkpoints.load}
    opened = []

    def replace():
        step = next(steps, None)
        if step is not None:
            save(run, 2, step, models[2])
            checkpoints.prune(directory, keep_last=1)

    def find_damage(path, **options):
        if "step-0000005" in str(path) and options.get("contents", True):
            replace()
        return real["find_damage"](path, **options)

    def load_arrays(path):
        opened.append(checkpoints.step_of(path))
        if opened == [6]:
            replace()
            return real["load"](path)
        arrays = real["load"](path)
        if opened == [6, 7]:
            replace()  # what is open can still be read
        return arrays

    monkeypatch.setattr(checkpoints, "find_damage", find_damage)
    monkeypatch.setattr(checkpoints, "load", load_arrays)
    found, model = loading.load_found(run)
    assert opened == [6, 7] and found.step == 7
    assert_same(model, models[2])
    assert checkpoints.list_checkpoints(directory)[0].name == "step-0000008"


def test_a_named_checkpoint_that_is_pruned_is_an_error(run, monkeypatch):
    path = run / "checkpoints" / "phase-2" / "step-0000005"
    real = checkpoints.load

    def load_arrays(path):
        shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(checkpoints, "load", load_arrays)
    with pytest.raises(ValueError, match=r"must still be there.*keep_every"):
        load(path)


def test_what_is_no_model_is_one_error_that_names_what_is(tmp_path, run):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for path in ("nothing.keras", "nothing", "empty", "notes.txt", "empty/phase-1"):
        with pytest.raises(ValueError, match=THREE_PARTS) as failure:
            load(tmp_path / path)
        for kind in (r"\.keras file", "directory of a run", "phase-2", "step-0001200"):
            assert re.search(kind, str(failure.value)), failure.value
    with pytest.raises(ValueError, match=r"pass .*checkpoints/phase-2: the file is written when"):
        load(run / "phase-2.keras")
    write_run_file(tmp_path / "new", 4)
    with pytest.raises(ValueError, match=r"wait for the first checkpoint"):
        load(tmp_path / "new")
    with pytest.raises(ValueError, match=r"damaged=\[\]\. To fix it: wait"):
        load(run / "phase-3")


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "changed", "encrypted", "no weights", "no config", "null", "other"]
)
def test_a_damaged_file_is_one_error(tmp_path, models, damage):
    import zipfile

    path = tmp_path / "model.keras"
    models[0].save(path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "changed":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + 64 * b"\xa5" + whole[middle + 64 :])
    elif damage == "other":
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    elif damage == "encrypted":  # one bit of the general purpose flags
        entry = b"PK\x01\x02\x14\x03\x14\0"
        assert entry in whole
        path.write_bytes(whole.replace(entry + b"\0", entry + b"\1"))
    else:
        leave = "model.weights.h5" if damage == "no weights" else "config.json"
        with zipfile.ZipFile(path) as archive:
            kept = {n: archive.read(n) for n in archive.namelist() if n != leave}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in kept.items():
                archive.writestr(name, b"null" if damage == "null" else content)
            if damage == "null":
                archive.writestr("config.json", b"null")
    with pytest.raises(ValueError, match=THREE_PARTS) as failure:
        load(path)
    assert str(path) in str(failure.value)


def without_description(path):
    """A checkpoint as earlier versions have written it."""
    groups, state = checkpoints.load(path)
    state.pop("model")
    checkpoints.save(path.parent, checkpoints.step_of(path), groups, state)


def test_checkpoints_of_earlier_versions_need_the_model_of_their_phase(run, models):
    path = run / "checkpoints" / "phase-2" / "step-0000005"
    without_description(path)
    with pytest.raises(ValueError, match=r"earlier versions.*continue the run"):
        load(run)
    models[0].save(run / "phase-1.keras")  # says nothing about phase 2
    with pytest.raises(ValueError, match=r"earlier versions.*continue the run"):
        load(path)
    models[2].save(run / "model.keras")
    assert_same(load(path), models[2])


class Plain(MatryoshkaDiffusion):
    """A class of the user's that Keras does not know."""


class Secretive(MatryoshkaDiffusion):
    """A class of the user's that cannot say what it is made of."""

    def get_config(self):
        raise NotImplementedError("no time for that")


def test_classes_of_the_user(tmp_path):
    path = save(tmp_path, 1, 1, make(kind=Plain))
    with pytest.raises(ValueError, match=r"register_keras_serializable"):
        load(path)
    with keras.saving.custom_object_scope({"Plain": Plain}):
        assert type(load(path)) is Plain
    with pytest.warns(UserWarning, match=r"how to make a Secretive: .*no time for that"):
        path = save(tmp_path, 1, 2, make(kind=Secretive))
    with pytest.raises(ValueError, match=r"configuration cannot be written" + THREE_PARTS):
        load(path)

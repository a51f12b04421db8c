"""What a model knows of its use: defaults of sampling, names of classes, notes."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import INNER, PLAIN_INNER, TEXT_WIDTH, THREE_PARTS, make_batch, outer, tiny_unet

import keras_mdm as mdm
from keras_mdm.sampling import defaults
from keras_mdm.sampling.options import Options

OWN = {"steps": 2, "sampler": "euler", "guidance_scale": {"8": 2.0}, "threshold": "static"}
NAMES = ["cat", "dog", "cow"]


@pytest.fixture(scope="module")
def unet():
    return tiny_unet([PLAIN_INNER, outer(16)], num_classes=3)


@pytest.fixture
def model(unet):
    return mdm.MatryoshkaDiffusion(
        unet, sampling=OWN, class_names=NAMES, notes={"data": "drawings"}, cond_dropout=0.2
    )


def drawn(model, **options):
    return model.generate(labels=[0, 2], progress=False, **options)


def same(first, second):
    return all(np.array_equal(first[level], second[level]) for level in first)


def test_generate_takes_what_it_is_not_given_from_the_model(model):
    found = drawn(model)
    assert same(found, drawn(model, sampling="default", **OWN))
    assert not same(found, drawn(model, sampling="default", steps=2))
    # Each option alone can be overruled.
    for name, other in {"steps": 3, "sampler": "ddim", "guidance_scale": 1.0}.items():
        assert same(
            drawn(model, **{name: other}),
            drawn(model, sampling="default", **{**OWN, name: other}),
        )


def test_without_defaults_nothing_has_changed(unet):
    model = mdm.MatryoshkaDiffusion(unet)
    assert model.sampling == {} and model.notes == {} and model.class_names is None
    assert not {"sampling", "notes", "class_names"} & set(model.get_config())
    assert defaults.steps_of(model) == 50
    model.sampling = {"sampling": "paper"}
    assert defaults.steps_of(model) == 250


def options(**given):
    named = dict.fromkeys(Options.__dataclass_fields__)
    return Options(**{**named, **given})


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        ({"outer_steps": 4}, {"steps": 3}, {"outer_steps": 3}),
        ({"outer_steps": {"16": 4}}, {"steps": 3}, {"outer_steps": {"16": 3}}),
        ({"outer_steps": 4}, {"stop_at": "8"}, {"outer_steps": None}),
        ({"guidance_scale": 2.0}, {"autoguidance": "raw"}, {"guidance_scale": None}),
        ({"eta": 0.5}, {"sampler": "euler"}, {"eta": 0.0}),
        ({"eta": 0.5, "steps": 9}, {"sampling": "default"}, {"eta": 0.0, "steps": None}),
        ({"guidance_interval": (0.2, 0.8)}, {}, {"guidance_interval": [0.2, 0.8]}),
    ],
)
def test_defaults_yield_to_what_they_do_not_fit(model, own, given, expected):
    model.sampling = own
    found = defaults.filled(model, options(**given))
    assert {name: getattr(found, name) for name in expected} == expected


def test_files_checkpoints_and_cuts_keep_it(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = mdm.load(tmp_path / "model.keras")
    assert (loaded.sampling, loaded.notes) == (OWN, {"data": "drawings"})
    assert loaded.class_names == tuple(NAMES)
    assert same(drawn(loaded), drawn(model))
    model.sampling = {**OWN, "outer_steps": {"16": 1}, "guidance_scale": {"8": 2.0, "16": 1.5}}
    small = model.cut("8")
    assert small.sampling == {**OWN, "guidance_scale": {"8": 2.0}}
    assert small.class_names == tuple(NAMES) and small.notes == model.notes
    # Values are the model's own: a caller's dict, or what it returned, may change.
    model.sampling["steps"] = 7
    model.notes["data"] = "other"
    assert model.sampling["steps"] == 2 and model.notes == {"data": "drawings"}


def test_a_grown_model_takes_it_over(model):
    spec = [PLAIN_INNER, outer(16), outer(32)]
    larger = mdm.MatryoshkaDiffusion(tiny_unet(spec, num_classes=3), notes={"data": "own"})
    larger.start_from(model)
    assert (larger.sampling, larger.class_names) == (OWN, tuple(NAMES))
    assert larger.notes == {"data": "own"}
    other = mdm.MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], num_classes=3))
    other.start_from(model.cut("8"), skip=["class_embedding"])
    assert other.class_names is None and other.sampling["steps"] == 2


def test_a_run_gives_its_models_what_it_draws_with(tmp_path):
    def make_model(phase):
        unet = tiny_unet(phase.levels, text_width=TEXT_WIDTH)
        made = mdm.MatryoshkaDiffusion(unet)
        made.compile(mdm.optimizers.Adam(1e-3))
        return made

    def make_dataset(phase, first_step):
        size = phase.levels[-1].size
        batch = make_batch(np.random.default_rng(0), 2, size=size)
        return tf.data.Dataset.from_tensors(batch).repeat()

    phases = [mdm.Phase([INNER], 1, batch_size=2), mdm.Phase([INNER, outer(16)], 1, batch_size=2)]
    phases[1] = mdm.Phase([INNER, outer(16)], 1, batch_size=2, mixed=False)
    sampling = {"steps": 2, "outer_steps": 1, "guidance_scale": {"8": 3.0, "16": 2.0}}
    trained = mdm.fit_progressively(
        phases,
        make_model,
        make_dataset,
        run_dir=tmp_path,
        sampling={**sampling, "batch_size": 4, "callback": None},
        progress=False,
    )
    assert trained.sampling == sampling
    assert mdm.load(tmp_path).sampling == sampling
    inner = mdm.load(tmp_path / "checkpoints" / "phase-1")
    assert inner.sampling == {"steps": 2, "guidance_scale": {"8": 3.0}}


def test_classes_by_name(model):
    assert same(drawn(model), model.generate(labels=["cat", "cow"], progress=False))
    assert same(drawn(model), model.generate(labels=["cat", 2], progress=False))
    assert same(drawn(model), model.generate({"label": ["cat", "cow"]}, progress=False))


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (["cta"], NAMES, "did you mean 'cat'"),
        (["cat"], None, "class_names"),
        ("cat", NAMES, "must be a list"),
        (["cat"], ["cat", "cat", "dog"], r"single class.*classes=\[0, 1\]"),
    ],
)
def test_names_that_are_none(model, labels, names, message):
    model.class_names = names
    with pytest.raises(ValueError, match=message) as problem:
        model.generate(labels=labels, progress=False)
    assert problem.match(THREE_PARTS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sampling", {"stepz": 3}, "stepz"),
        ("sampling", 3, "mapping"),
        ("sampling", {"steps": 0}, "at least 1"),
        ("sampling", {"steps": 10**9}, "at most 1000"),
        ("sampling", {"sampler": "best"}, "one of"),
        ("sampling", {"sampler": len}, "must be a name"),
        ("sampling", {"guidance_scale": -1.0}, "at least 0"),
        ("sampling", {"guidance_scale": {"99": 1.0}}, "99"),
        ("sampling", {"outer_steps": 51}, "at most the number of steps"),
        ("sampling", {"guidance_interval": (0.8, 0.2)}, "lowest, highest"),
        ("sampling", {"grid": "finest"}, "one of"),
        ("class_names", ["cat"], "one text for each class"),
        ("class_names", "abc", "one text for each class"),
        ("notes", {"data": {1, 2}}, "texts, numbers"),
        ("notes", {"data": float("nan")}, "texts, numbers"),
        ("notes", ["data"], "mapping"),
    ],
)
def test_what_cannot_be_known(model, name, value, message):
    with pytest.raises(ValueError, match=message) as problem:
        setattr(model, name, value)
    assert problem.match(THREE_PARTS)
    assert model.sampling == OWN and model.class_names == tuple(NAMES)


def test_a_configuration_is_plain(model):
    config = keras.saving.serialize_keras_object(model.get_config())
    assert json.loads(json.dumps(config))["class_names"] == NAMES

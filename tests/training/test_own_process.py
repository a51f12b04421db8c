"""A schedule per level, and a user's own functions: they train, draw, and are saved or refused."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import (
    CLIP,
    PLAIN_INNER,
    THREE_PARTS,
    arrays,
    as_dataset,
    make_batch,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion, Phase, WeightRamp, fit_progressively, load
from keras_mdm.callbacks import StepCallback
from keras_mdm.diffusion import downsample, losses, pyramid, schedules
from keras_mdm.optimizers import Adam
from keras_mdm.runs.snapshot import describe_model

pytestmark = pytest.mark.usefixtures("eagerly")

LEVELS = [PLAIN_INNER, outer(16)]
PAPER = {"8": "cosine", "16": "cosine-shift2"}
# No shift of one another.
UNLIKE = {"8": "cosine", "16": schedules.get("sigmoid").shifted(3, 1.0)}


@keras.saving.register_keras_serializable("own_process")
def clip(x0):
    return ops.clip(x0, -0.5, 0.5)


@keras.saving.register_keras_serializable("own_process")
def by_snr(schedule, t, target):
    assert target == "v"
    return ops.minimum(ops.exp(schedule.logsnr(t)), 2.0)


@keras.saving.register_keras_serializable("own_process")
def corner(x, from_shape, to_shape):
    step = from_shape.size // to_shape.size
    return x[..., ::step, ::step, :]


@keras.saving.register_keras_serializable("own_process")
def outer_first(progress):
    return {"8": progress, "16": 1.0}


@keras.saving.register_keras_serializable("own_process")
@dataclasses.dataclass(frozen=True)
class Clip:
    limit: float

    def __call__(self, x0):
        return ops.clip(x0, -self.limit, self.limit)

    def get_config(self):
        return {"limit": self.limit}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


OWN = {
    "threshold": clip,
    "loss_weighting": by_snr,
    "downsample": corner,
    "level_weights": outer_first,
}


def make_model(levels=LEVELS, **options):
    model = MatryoshkaDiffusion(tiny_unet(levels, num_classes=3), **options)
    model.compile(Adam(1e-2))
    return model


def data(count=2, size=16):
    rng = np.random.default_rng(0)
    return as_dataset([make_batch(rng, 4, size=size, classes=3) for _ in range(count)])


def draw(model, **options):
    options = {"steps": 3, "progress": False, "output": "float32", **options}
    return model.generate(labels=[0, 1], seed=3, **options)


def assert_same_pictures(one, other):
    assert one.keys() == other.keys()
    for level in one:
        np.testing.assert_array_equal(one[level], other[level])


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return load(tmp_path / "model.keras")


def test_the_papers_names_are_the_default_to_the_bit():
    ends = []
    for schedule in ("cosine", PAPER):
        model = make_model(schedule=schedule)
        model.fit(data(), verbose=0)
        ends.append((model.process, arrays(model.unet.weights), draw(model, sampler="unipc")))
    assert ends[0][0] == ends[1][0]
    for one, other in zip(ends[0][1], ends[1][1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert_same_pictures(ends[0][2], ends[1][2])


@pytest.mark.parametrize(
    "schedule", [pytest.param(PAPER, marks=pytest.mark.slow), UNLIKE], ids=["paper", "unlike"]
)
def test_schedules_by_level_are_saved(schedule, tmp_path):
    model = make_model(schedule=schedule, loss_weighting="min_snr")
    model.fit(data(1), verbose=0)
    config = model.get_config()
    assert set(config["schedule"]) == {"8", "16"}
    found = reloaded(model, tmp_path)
    assert found.process == model.process and found.get_config() == config
    assert_same_pictures(draw(found, sampler="dpmpp_2m"), draw(model, sampler="dpmpp_2m"))


def test_a_dict_serves_models_of_fewer_levels():
    model = make_model(LEVELS[:1], schedule=PAPER)
    assert list(model.process.schedules) == ["8"]


def test_what_schedules_by_level_must_be():
    unet = tiny_unet(LEVELS)
    wrong = {
        "must hold the keys": {"schedule": {"8": "cosine"}},
        "`schedule` must be one of": {"schedule": {"8": "cosine", "16": "cosines"}},
        "applies to a single schedule": {"schedule": PAPER, "shift_power": 1.0},
        "same number of steps": {"schedule": {"8": "cosine", "16": schedules.cosine(500)}},
        "own number of steps": {"schedule": UNLIKE, "num_steps": 500},
        "shifts of one another": {"schedule": UNLIKE, "loss_weighting": "vdm"},
    }
    for match, options in wrong.items():
        with pytest.raises(ValueError, match=match + ".*" + THREE_PARTS):
            MatryoshkaDiffusion(unet, **options)
    both = MatryoshkaDiffusion(unet, schedule=PAPER, num_steps=500).process.schedules
    assert {schedule.num_steps for schedule in both.values()} == {500}
    MatryoshkaDiffusion(unet, schedule=PAPER, loss_weighting="vdm")


def test_too_much_signal_is_found_at_its_level():
    with pytest.warns(UserWarning, match=r"'logsnr_cosine' of 20 steps leaves .+\(level 16\)"):
        MatryoshkaDiffusion(
            tiny_unet(LEVELS),
            schedule={"8": schedules.cosine(20), "16": schedules.logsnr_cosine(20).shifted(0.5)},
        )


@pytest.mark.usefixtures("traced")
def test_a_process_with_other_schedules_is_followed_and_saved(tmp_path):
    """It was refused by the setter, and lost by files where the setter was gone past."""
    other = MatryoshkaDiffusion(tiny_unet(LEVELS), schedule=UNLIKE).process
    model = make_model(schedule="cosine")
    single, before = model.process, draw(model)
    model.process = other
    after = draw(model)
    assert np.max(np.abs(after["16"] - before["16"])) > 1e-3
    assert_same_pictures(draw(reloaded(model, tmp_path)), after)
    model.process = dataclasses.replace(single, schedules=dict(single.schedules))
    assert model.get_config()["schedule"] == schedules.cosine().get_config()
    model.process.schedules["16"] = UNLIKE["16"]
    assert_same_pictures(draw(model), after)
    assert reloaded(model, tmp_path).process == other


@pytest.mark.parametrize(
    "change",
    [
        {"use_residual": True},
        {"schedules": {"8": UNLIKE["16"]}},
        {"signal_scale": {"64": 2.0}},
        {"prediction": "noise"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_process_for_another_network_is_refused(change):
    model = make_model()
    name = next(iter(change))
    with pytest.raises(ValueError, match=rf"Received: {name}="):
        model.process = dataclasses.replace(model.process, **change)
    assert model.process == make_model().process


def test_schedules_by_level_go_along_with_cuts_and_longer_clips():
    cut = make_model(schedule=UNLIKE).cut("8")
    assert cut.process.schedules == {"8": schedules.cosine()}
    unet = tiny_unet([PLAIN_INNER, CLIP])
    names = {"8": "cosine", "4x8": "cosine-shift3"}
    longer = MatryoshkaDiffusion(unet, schedule=names).with_frames(8)
    assert longer.process.schedules["8x8"] == schedules.cosine().shifted(3)
    shifted = MatryoshkaDiffusion(unet).with_frames(8)  # of 2 frames at the level below
    assert shifted.process.schedules["8x8"] == schedules.cosine().shifted(2)


class Stop(Exception):
    pass


def run(directory, *, stop=False, schedule=UNLIKE, **options):
    class StopAt(StepCallback):
        def on_step_end(self, previous_step, logs):
            if stop and self.step == 2:
                raise Stop

    phases = [
        Phase(LEVELS[:1], 2, batch_size=4, level_weights=WeightRamp({"8": 0.5}, {"8": 1.0})),
        Phase(LEVELS, 3, batch_size=4, learning_rate=1e-2, mixed=False, **options),
    ]

    def model_of(phase):
        unet = tiny_unet(phase.levels, num_classes=3, scramble=False)
        model = MatryoshkaDiffusion(unet, schedule=schedule)
        model.compile(Adam(phase.learning_rate_schedule()))
        return model

    return fit_progressively(
        phases,
        model_of,
        lambda phase, first: data(5, int(phase.level_names[-1])).skip(first),
        run_dir=directory,
        checkpoint_every=1,
        callbacks=lambda context: (
            [StopAt(initial_step=context.initial_step)] if context.number == 2 else []
        ),
    )


@pytest.mark.slow
def test_a_run_with_schedules_by_level_goes_on_to_the_bit(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "stopped", stop=True)
    resumed = run(tmp_path / "stopped")
    for one, other in zip(arrays(whole.variables), arrays(resumed.variables), strict=True):
        np.testing.assert_array_equal(one, other)
    found = load(tmp_path / "whole")
    assert found.process.schedules == {"8": schedules.cosine(), "16": UNLIKE["16"]}
    assert_same_pictures(draw(found), draw(whole))


# Functions of a user's own


@pytest.mark.usefixtures("traced")
def test_functions_act():
    model = make_model(**OWN)
    model.level_weights = {}
    pictures = draw(model)
    assert max(np.max(np.abs(level)) for level in pictures.values()) <= 0.5
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(model.process.pyramid(x)["8"], x[:, ::2, ::2])
    by_level = {name: np.ones(2, "float32") for name in ("8", "16")}
    index = np.array([100, 600], "int32")
    expected = sum(
        np.mean(np.minimum(np.exp(schedule.logsnr(index / 1000.0)), 2.0))
        for schedule in model.process.schedules.values()
    )
    assert float(model.batch_loss(by_level, index)) == pytest.approx(expected, rel=1e-5)


def test_registered_functions_are_saved_by_name(tmp_path):
    model = make_model(**OWN)
    model.fit(data(1), verbose=0)
    config = model.get_config()
    json.dumps(config)
    found = reloaded(model, tmp_path)
    for option, function in OWN.items():
        assert config[option] == {"function": f"own_process>{function.__name__}"}
        assert getattr(found, option) is function
    assert_same_pictures(draw(found), draw(model))


def test_functions_without_a_name_train_and_are_not_saved(tmp_path):
    unnamed = {option: lambda *given, f=f: f(*given) for option, f in OWN.items()}
    model = make_model(**unnamed)
    model.fit(data(1), verbose=0)
    assert_same_pictures(draw(model.cut("16")), draw(model))
    assert model.cut("16").level_weights == {}  # which know the levels of the model
    for option, function in unnamed.items():
        for other in OWN:
            setattr(model, other, function if other == option else OWN[other])
        match = rf"`{option}` must be known to Keras.*register_keras_serializable"
        for use in (
            model.get_config,
            lambda: model.save(tmp_path / "model.keras"),
            lambda: describe_model(model),
        ):
            with pytest.raises(ValueError, match=match):
                use()


def test_a_run_refuses_before_its_first_step_what_it_could_not_save(tmp_path):
    def model_of(phase):
        model = MatryoshkaDiffusion(tiny_unet(phase.levels), threshold=lambda x0: x0)
        model.compile(Adam(phase.learning_rate_schedule()))
        return model

    def no_data(phase, first_step):
        raise AssertionError("not asked for")

    with pytest.raises(ValueError, match="`threshold` must be known to Keras"):
        fit_progressively([Phase(LEVELS[:1], 2)], model_of, no_data, run_dir=tmp_path / "run")


def test_objects_are_saved_with_their_values(tmp_path):
    ramp = WeightRamp({"16": 0.0}, {"16": 1.0}, until=0.5)
    model = make_model(threshold=Clip(0.25), level_weights=ramp)
    found = reloaded(model, tmp_path)
    assert found.threshold == Clip(0.25) and found.level_weights == ramp
    assert np.max(np.abs(draw(found)["16"])) <= 0.25


@pytest.mark.slow
def test_level_weights_of_a_phase_stay_with_the_phase(tmp_path):
    run(tmp_path, level_weights=lambda progress: {"8": progress})
    for saved in (".", "phase-1.keras", "checkpoints/phase-2"):
        assert load(tmp_path / saved).level_weights == {}


def test_a_name_that_is_not_known_where_a_file_is_loaded(tmp_path):
    @keras.saving.register_keras_serializable("own_process")
    def forgotten(x0):
        return x0

    make_model(threshold=forgotten).save(tmp_path / "model.keras")
    del keras.saving.get_custom_objects()["own_process>forgotten"]
    with pytest.raises(ValueError, match=r"must be known where.*'own_process>forgotten'"):
        load(tmp_path / "model.keras")


def test_what_functions_must_return():
    shapes = [pyramid.LevelShape(None, 8), pyramid.LevelShape(None, 16)]
    with pytest.raises(ValueError, match=r"must return the level '8'" + ".*" + THREE_PARTS):
        downsample(np.zeros((1, 16, 16, 3)), shapes[1], shapes[0], lambda x, a, b: x)
    t = np.array([0.1, 0.5], "float32")
    cosine = schedules.cosine()
    assert losses.weighting(lambda *_: 2.0, cosine, t).shape == (2,)
    with pytest.raises(ValueError, match=r"a weight per sample" + ".*" + THREE_PARTS):
        losses.weighting(lambda *_: np.ones((2, 1)), cosine, t)
    for option, value in (("threshold", 3), ("downsample", 3), ("loss_weighting", 3)):
        with pytest.raises(ValueError, match=THREE_PARTS):
            MatryoshkaDiffusion(tiny_unet(LEVELS), **{option: value})

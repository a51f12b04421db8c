"""The experiments: equal compute, a ledger that repeats nothing, and inputs that do not fit."""

import csv
import dataclasses
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import keras_mdm as mdm
from keras_mdm.models.resolve import resolve

pytestmark = pytest.mark.usefixtures("eagerly")

ROOT = Path(__file__).parents[1]
SKIPPED = ("low_res_noise 1", "low_res_noise 700", "low_res_noise 1000")
NAMES = ("convergence", "low_res_steps", "levels", "guidance", "ablations")


@pytest.fixture
def experiment(recipe, monkeypatch):
    """Function that imports an experiment."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "experiments"))
    monkeypatch.setattr("keras.config.set_dtype_policy", lambda policy: None)
    return importlib.import_module


@pytest.fixture
def trainings(recipe):
    return recipe("shared.experiments.trainings")


def planned(training, budget):
    planning = importlib.import_module("shared.experiments.planning")
    text = {"text_width": 384} if training.stages[0].scale.tokens else {}
    return planning.plan(training, text, tokens=16, budget=budget)


def test_all_variants_spend_the_same(experiment, trainings):
    module = experiment("convergence")
    base = trainings.shortened(tiny(module).base, 100)  # 400 steps: half a step matters less
    budget = float(planned(trainings.progressive(base), None)[-1][-1].after)
    for variant in module.variants(base):
        last = planned(variant.training, budget)[-1][-1]
        assert abs(last.after - budget) <= last.flop / 2, variant.name
        # The last checkpoint is the last step, and half the budget is spent at half of the steps.
        assert last.step_at(last.after) == last.phase.steps
        middle = last.step_at((last.before + last.after) / 2)
        assert abs(middle - last.phase.steps / 2) <= 1
        assert last.step_at(last.before) is None and last.step_at(last.after + last.flop) is None


def test_the_rivals_lack_only_what_needs_a_level_below(experiment):
    module = experiment("convergence")
    base = module.EXPERIMENT.base
    simple, cascaded = (v for v in module.variants(base) if v.name in ("simple", "cascaded"))
    # The same blocks and options; only what needs a level below is gone.
    assert simple.training.stages[0].scale.optimizer is base.optimizer
    (low, high) = cascaded.training.stages
    assert low.scale.phases == base.phases[:1] and high.sees == 16
    process = {k: v for k, v in base.process.items() if k not in ("residual", "shift_power")}
    assert high.scale.process == {**process, "schedule": "cosine-shift2"}
    assert [options["low_res_noise"] for options in cascaded.training.sweep.values()] == [
        *(1, 100, 500, 700, 1000)
    ]
    assert set(cascaded.training.sweep_early) < set(cascaded.training.sweep)
    assert low.scale.process == process


def test_a_budget_that_is_spent_too_early(experiment, trainings):
    base = tiny(experiment("convergence")).base
    training = trainings.with_low_steps(base, "x", 10.0)
    budget = float(planned(trainings.progressive(base), None)[-1][-1].after)
    with pytest.raises(ValueError, match="leave some of the budget.*To fix it"):
        planned(training, budget)


def test_one_level_has_the_noise_of_the_nest(experiment, trainings):
    base = experiment("convergence").EXPERIMENT.base
    scale = trainings.simple(base).stages[0].scale
    alone = mdm.diffusion.schedules.get(scale.process["schedule"])
    shapes = [level.shape for level in resolve(base.phases[-1].levels).levels]
    nested = mdm.diffusion.schedules.of_levels("cosine", shapes, power=base.process["shift_power"])[
        "64"
    ]
    t = np.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(alone.logsnr(t), nested.logsnr(t), atol=1e-5)


def test_three_levels_are_those_of_the_recipe(recipe, trainings):
    module = recipe("cc12m_256")
    for two, three in (
        (module.SMALL_LEVELS[2], module.SMALL_LEVELS[3]),
        (module.PAPER_LEVELS[2], module.PAPER_LEVELS[3]),
    ):
        assert resolve(trainings.between(two)) == resolve(three)


def test_three_levels_of_a_miniature(recipe, trainings):
    """A rehearsal's levels have all their lists written out."""
    rehearsal = recipe("shared.rehearsal")
    made = rehearsal.miniature(recipe("emoji_text_to_image").SCALE, 1)
    inner, middle, outer = resolve(trainings.between(made.phases[-1].levels)).levels
    assert inner.size < middle.size < outer.size


def test_the_plain_network_of_a_nest(recipe, trainings):
    """The default of one level at 256 is the nest of the paper without its joints."""
    nest = [recipe("imagenet_256").PAPER_64, recipe("imagenet_256").PAPER_256]
    alone = resolve([256])
    assert resolve([trainings.plain(nest)], time_width=1024) == alone
    assert alone.levels[0].attention == (0, 0, 0, 1, 5)
    small = recipe("emoji_text_to_image")
    level = trainings.plain([small.INNER, small.OUTER])
    assert (level.size, level.patch, level.channels) == (64, 2, (64, 64, 128, 256))
    assert level.attention == (0, 0, 1, 1) and level.blocks == (1, 1, 1, 1)


def run(module, *words, **changes):
    """Run an experiment in its tiny form."""
    made = dataclasses.replace(tiny(module), **changes)
    module.run(made, "", [str(word) for word in words])


def records(directory):
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


def tiny(module):
    """The experiment with a base whose miniature has few layers, by classes."""
    inner = mdm.LevelSpec(16, channels=(32,), blocks=(1,), attention=(0,), attention_ffn=False)
    outer = mdm.LevelSpec(64, patch=2, channels=(32, 32), blocks=(1, 1))
    base = dataclasses.replace(
        module.EXPERIMENT.base,
        phases=[
            mdm.Phase([inner], steps=4, batch_size=3),
            mdm.Phase([inner, outer], steps=4, batch_size=3),
        ],
        optimizer=mdm.optimizers.Adam,
        sampling={"sampler": "ddpm", "batch_size": 100},
        tokens=0,
        network={},
    )
    return dataclasses.replace(module.EXPERIMENT, base=base, variants=measured_less(module))


def measured_less(module):
    """The variants, measured at fewer checkpoints and with fewer options: drawing takes longest."""

    def less(training):
        kept = [name for name in training.sweep if name not in SKIPPED]
        sweep = {name: training.sweep[name] for name in kept}
        shares = [share for share in training.checkpoints if share != 0.8]
        given = {"sweep": sweep, "sweep_early": kept[:1], "checkpoints": shares}
        return dataclasses.replace(training, **given)

    return lambda base: [
        dataclasses.replace(variant, training=less(variant.training))
        for variant in module.variants(base)
    ]


def draw_few(measuring):
    """`Measure.draw` that draws two pictures in one step and repeats them: a row takes a while."""
    draw = measuring.Measure.draw

    def few(self, model, **options):
        count, subjects = len(self.subjects), self.subjects
        self.subjects = measuring.Subjects(labels=subjects.labels[:2])
        try:
            if "low_res" in options:
                assert len(options["low_res"]) == count
                options["low_res"] = options["low_res"][:2]
            drawn = draw(self, model, **{**options, "steps": 1})
        finally:
            self.subjects = subjects
        return np.tile(drawn, (count // 2, 1, 1, 1))

    return few


@pytest.fixture(scope="module")
def finished(tmp_path_factory, eagerly):
    """A directory in which the cascade and the nest were trained once."""
    directory = tmp_path_factory.mktemp("experiments") / "quick"
    words = ["--scale", "quick", "--seeds", "1", "--pictures", "100", "--run-dir", directory]
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("recipes/experiments", "recipes"):
            patch.syspath_prepend(str(ROOT / folder))
        patch.setattr("keras.config.set_dtype_policy", lambda policy: None)
        measuring = importlib.import_module("shared.experiments.measuring")
        patch.setattr(measuring.Measure, "draw", draw_few(measuring))
        patch.setattr(importlib.import_module("shared.rehearsal"), "STEPS", 2)
        run(importlib.import_module("convergence"), *words, "--variants", "mdm", "cascaded")
        yield directory, words


def test_an_experiment_writes_all_that_it_found(finished):
    directory, _ = finished
    found = records(directory)
    keys = [(r["variant"], r["seed"], r["checkpoint"]) for r in found]
    assert keys == [
        *((name, 0, share) for name in ("mdm", "cascaded") for share in (0.4, 0.6, 1.0))
    ]
    assert all(r["drawn"] == 100 and math.isfinite(r["kid"]) for r in found)
    last = found[-1]
    assert len(last["sweep"]) == 2 and last["kid"] == min(kid for kid, _ in last["sweep"].values())
    ends = [r["flop"] for r in found if r["checkpoint"] == 1.0]
    assert abs(ends[0] - ends[1]) < 0.5 * ends[0]  # half a step, of few
    rows = list(csv.DictReader((directory / "convergence.csv").open()))
    assert [float(row["kid"]) for row in rows] == [r["kid"] for r in found]
    summary = json.loads((directory / "convergence.json").read_text())["rows"]
    assert [row["variant"] for row in summary] == [r["variant"] for r in found]
    assert (directory / "convergence-flop.svg").read_text().startswith("<svg")
    folder = directory / "trainings" / "cascaded" / "seed-0"
    assert (folder / "stage-2" / "model.keras").is_file() and list(folder.glob("1-*.png"))
    assert not (folder / "stage-1" / "checkpoints").exists()


def test_a_first_phase_is_trained_once(finished, experiment, trainings):
    """The cascade's small model is the nest's first phase; neither differs from one run."""
    directory, _ = finished
    (first,) = (directory / "trainings" / "first-phases").iterdir()
    stages = {
        name: directory / "trainings" / name / "seed-0" / "stage-1" for name in ("mdm", "cascaded")
    }
    alone = mdm.load(first / "model.keras").unet.get_weights()
    for mine, shared in zip(
        mdm.load(stages["cascaded"] / "model.keras").unet.get_weights(), alone, strict=True
    ):
        np.testing.assert_array_equal(mine, shared)
    module = experiment("convergence")
    fitting, study, rehearsal = (
        importlib.import_module(f"shared.{name}")
        for name in ("experiments.fitting", "experiments.study", "rehearsal")
    )
    base = rehearsal.miniature(tiny(module).base, 1)
    training = trainings.progressive(base)
    data = study.generated([2, 8], 0)
    (own,) = planned(training, None)
    own[-1] = dataclasses.replace(
        own[-1], phase=dataclasses.replace(own[-1].phase, steps=_steps(stages["mdm"]))
    )
    whole = fitting.fit(
        training.stages[0], own, data, directory / "whole", seed=0, due=lambda *_: {}
    )
    grown = mdm.load(stages["mdm"] / "model.keras").unet.get_weights()
    for mine, shared in zip(whole.unet.get_weights(), grown, strict=True):
        np.testing.assert_array_equal(mine, shared)


def _steps(run_dir):
    return json.loads((run_dir / "run.json").read_text())["phases"][-1]["steps"]


def test_nothing_is_made_twice(finished, experiment, monkeypatch):
    directory, words = finished
    before = (directory / "results.jsonl").read_bytes()
    loop = importlib.import_module("shared.experiments.loop")
    monkeypatch.setattr(loop, "fit", lambda *_, **__: pytest.fail("trained again"))
    run(experiment("convergence"), *words, "--variants", "mdm", "cascaded")
    assert (directory / "results.jsonl").read_bytes() == before
    # Another experiment takes over the training that it has in common.
    run(experiment("levels"), *words, "--variants", "levels-2")
    taken = [r for r in records(directory) if r["experiment"] == "levels"]
    assert [(r["variant"], r["training"]) for r in taken] == [("levels-2", "mdm")] * 3
    assert [r["kid"] for r in taken] == [r["kid"] for r in records(directory)[:3]]


def test_a_training_of_another_form_is_not_taken_over(finished, experiment):
    directory, words = finished
    module = experiment("convergence")
    base = tiny(module).base
    other = dataclasses.replace(base, process={**base.process, "censored": False})
    with pytest.raises(ValueError, match="'mdm', measured in another form .*To fix it"):
        run(module, *words, "--variants", "mdm", base=other)


def test_a_directory_keeps_its_setting(finished, experiment, tmp_path):
    directory, words = finished
    module = experiment("convergence")
    with pytest.raises(ValueError, match="guidance 1.0 there, 2.0 asked for.*To fix it"):
        run(module, *words, "--guidance", "2")
    (tmp_path / "thesis.txt").write_text("not ours")
    with pytest.raises(ValueError, match="new or hold experiments.*thesis.txt"):
        run(module, *words[:-1], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="--report needs results.*To fix it"):
        run(module, *words[:-1], tmp_path / "none", "--report")
    with pytest.raises(ValueError, match="Received: latents. To fix it: choose of mdm, mdm-at"):
        run(module, *words, "--variants", "mdm", "latents")


def test_a_directory_keeps_its_pictures(recipe, tmp_path):
    """Whatever levels the chosen variants have; the path alone says little."""
    setting, study = recipe("shared.experiments.setting"), recipe("shared.experiments.study")
    asked = setting.Setting("quick", "generated", 1.0, 8, 2, 1.0, "float32")
    digests = [study.generated(sizes, 0).pictures_digest() for sizes in ([8], [2, 8], [16])]
    assert digests[0] == digests[1] != digests[2]
    for digest in (digests[0], digests[1], digests[0]):
        asked.claim(tmp_path / "new", digest)
    with pytest.raises(ValueError, match="pictures_sha256"):
        asked.claim(tmp_path / "new", digests[2])
    asked.compare(tmp_path / "new")
    asked.compare(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    # Of an earlier version: it takes those that are there.
    file = tmp_path / "new" / setting.FILE
    known = json.loads(file.read_text())
    del known[setting.PICTURES]
    file.write_text(json.dumps(known))
    asked.claim(tmp_path / "new", digests[2])
    assert json.loads(file.read_text())[setting.PICTURES] == digests[2]


def test_a_latent_model_and_its_autoencoder(finished, experiment):
    """It makes codes of the innermost level's size, and its pictures are decoded."""
    directory, words = finished
    module = experiment("convergence")
    run(module, *words, "--variants", "latent-f4")
    made = [r for r in records(directory) if r["variant"] == "latent-f4"]
    assert [r["checkpoint"] for r in made] == [0.4, 0.6, 1.0]
    (end,) = (
        r["flop"] for r in records(directory) if r["variant"] == "mdm" and r["checkpoint"] == 1
    )
    assert abs(made[-1]["flop"] - end) < 0.5 * end
    model = mdm.load(directory / "trainings" / "latent-f4" / "seed-0" / "stage-1" / "model.keras")
    assert tuple(model.unet.levels) == ("2",)
    own = directory / "trainings" / "autoencoder-f4"
    codec = mdm.latents.load_codec(own)
    drawn = mdm.latents.LatentDiffusion(model, codec).generate(labels=[0], steps=1)
    assert drawn["8"].shape == (1, 8, 8, 3)
    assert json.loads((own / "reconstruction.json").read_text())["psnr"] > 0.0


def test_an_autoencoder_ends_in_time_and_continues(recipe, experiment, tmp_path):
    codes, module = recipe("shared.experiments.codes"), experiment("convergence")
    scale = codes.miniature(module.EXPERIMENT.autoencoders[4], 1)
    pictures = recipe("shared.experiments.study").generated([8], 0).source.images[8]
    given = (scale, pictures, {"records": len(pictures)}, tmp_path / "run", None)
    with pytest.raises(SystemExit) as ended:
        codes.trained(*given, time.monotonic())
    assert ended.value.code == 0 and not (tmp_path / "run" / "autoencoder.keras").exists()
    assert list((tmp_path / "run" / "checkpoints" / "phase-1").glob("step-*1"))
    codes.trained(*given)
    assert (tmp_path / "run" / "autoencoder.keras").is_file()


def test_a_latent_model_of_another_factor(experiment, trainings):
    with pytest.raises(ValueError, match="must have the size of the codes.*levels 16, codes of 8"):
        trainings.latent(experiment("convergence").EXPERIMENT.base, 8)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pictures", "99"], "a whole number from 100, which a kernel distance needs"),
        (["--scale", "quick", "--rehearse", "2"], "--rehearse belongs to --scale paper"),
        (["--scale", "quick", "--data", "x"], "--data belongs to --scale small"),
        (["--seeds", "0"], "a whole number above 0"),
    ],
)
def test_words_that_do_not_fit(experiment, words, said, capsys):
    with pytest.raises(SystemExit):
        run(experiment("levels"), *words)
    assert said in capsys.readouterr().err


def test_too_few_real_pictures(recipe):
    measuring = recipe("shared.experiments.measuring")
    subjects = measuring.Subjects(prompts=["a"] * 100)
    few = np.zeros((99, 8, 8, 3), "uint8")
    with pytest.raises(ValueError, match="at least 100 pictures.*real=99"):
        measuring.Measure(few, subjects, measuring.BlockColours(), {})


def test_a_damaged_ledger(recipe, tmp_path):
    ledger = recipe("shared.experiments.ledger")
    record = dict.fromkeys(ledger.KEY, 1)
    made = ledger.Ledger(tmp_path / "results.jsonl")
    made.add({**record, "kid": 2.0})
    made.add({**record, "kid": 3.0})
    assert [each["kid"] for each in ledger.Ledger(made.path)] == [2.0]  # the first one stays
    made.path.write_text(made.path.read_text() + '{"experiment": ')
    with pytest.raises(ValueError, match="Received: line 2, .*To fix it: remove the line"):
        ledger.Ledger(made.path)


def test_the_clock_counts_every_step_once(recipe, tmp_path):
    fitting = recipe("shared.experiments.fitting")
    clock = fitting.Clock(tmp_path)
    assert clock.seconds(1, 10) is None
    for seconds in (1.0, 3.0):
        clock.add(1, seconds)
    clock.save()
    assert fitting.Clock(tmp_path).seconds(1, 10) == 20.0


def test_means_over_seeds(recipe):
    output = recipe("shared.experiments.output")
    given = {"variant": "a", "checkpoint": 1.0, "flop": 10, "seconds": 5.0, "kid_error": 9.0}
    (row,) = output.summary([{**given, "kid": kid} for kid in (1.0, 3.0)], ["a"])
    assert (row["kid"], row["error"], row["seeds"]) == (2.0, 1.0, 2)
    (row,) = output.summary([{**given, "kid": 1.0}], ["a"])
    assert row["error"] == 9.0  # of the distance itself


@pytest.mark.parametrize("name", NAMES)
def test_experiments_are_named_and_told_apart(experiment, trainings, name):
    module = experiment(name)
    assert name == module.EXPERIMENT.name and name in (ROOT / "docs" / "results.md").read_text()
    for scale in (module.EXPERIMENT.base, module.EXPERIMENT.paper):
        made = module.variants(scale)
        digests = {variant.training.name: variant.training.digest() for variant in made}
        assert len(set(digests.values())) == len(digests) == len({v.name for v in made})


def command(name, directory, *words):
    file = ROOT / "recipes" / "experiments" / f"{name}.py"
    given = ["--scale", "quick", "--seeds", "1", "--pictures", "100", "--run-dir", str(directory)]
    return [sys.executable, str(file), *given, *words]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path):
    """The results are those of a run that was not killed, and no record is made twice."""
    words = ["--dtype", "float32", "--variants", "mdm", "cascaded"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command("convergence", whole, *words), check=True, capture_output=True)
    kills, wanted = 0, [1, 3]
    while True:
        process = subprocess.Popen(command("convergence", cut, *words), stdout=subprocess.PIPE)
        while process.poll() is None:
            lines = (
                (cut / "results.jsonl").read_text().count("\n")
                if cut.exists() and (cut / "results.jsonl").exists()
                else 0
            )
            if kills < len(wanted) and lines >= wanted[kills]:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.02)
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills == 2
    ours, theirs = records(cut), records(whole)
    assert [r["checkpoint"] for r in ours] == [r["checkpoint"] for r in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["kid"] == pytest.approx(other["kid"], rel=1e-3)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A directory for all experiments: what two of them have in common is trained once."""
    return tmp_path_factory.mktemp("together") / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_of_them_in_seconds(name, together):
    done = subprocess.run(
        command(name, together), capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Stopped by" not in done.stdout + done.stderr  # which ends with status 0, too
    assert (together / f"{name}-flop.svg").is_file()
    found = [record for record in records(together) if record["experiment"] == name]
    assert found and all(math.isfinite(record["kid"]) for record in found)


@pytest.mark.slow
def test_the_papers_setting_is_rehearsed(tmp_path):
    words = ["--scale", "paper", "--rehearse", "2", "--seeds", "1", "--variants", "mdm", "simple"]
    file = ROOT / "recipes" / "experiments" / "convergence.py"
    done = subprocess.run(
        [sys.executable, str(file), *words, "--run-dir", str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {r["variant"] for r in records(tmp_path / "run")} == {"mdm", "simple"}

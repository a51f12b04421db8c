"""The recipes' training at the paper's scale is what the paper's tables say."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from data import sources
from PIL import Image
from tiny_models import PLAIN_INNER, FakeEncoder, outer, tiny_unet

from keras_mdm import (
    LevelSpec,
    MatryoshkaDiffusion,
    Phase,
    assets,
    build_nested_unet,
    fit_progressively,
    load,
    optimizers,
    presets,
)
from keras_mdm.data import CaptionedImages, ClipRule, image_text_dataset
from keras_mdm.models.resolve import resolve

pytestmark = pytest.mark.usefixtures("eagerly")

ROOT = Path(__file__).parents[1]
PAPER = json.loads((ROOT / "tests" / "golden" / "paper_tables.json").read_text())


@pytest.fixture
def webvid(recipe):
    return recipe("webvid_video")


def check_shared(scale):
    """What appendices B and C say of all experiments."""
    default = PAPER["B_training"]["default"]
    for made in scale.phases:
        assert made.learning_rate == default["learning_rate"]
        assert made.warmup_steps == default["learning_rate_warmup_steps"]
        assert made.final_learning_rate is None and made.downsample is None  # the model's
    assert scale.process["downsample"] == "bilinear"
    assert scale.process["ema_decay"] == default["ema_decay"]
    assert scale.process["prediction"] == PAPER["C_inference"]["prediction"]
    assert scale.process["threshold"] == PAPER["C_inference"]["thresholding"]
    assert scale.process["schedule"] == "cosine" and scale.sampling["sampling"] == "paper"


def check_phases(scale, table):
    phases = scale.phases
    count = len(phases)
    assert [phase.level_names[-1] for phase in phases] == table["target_resolutions"][:count]
    assert [phase.batch_size for phase in phases] == table["batch_size"][:count]
    assert [phase.steps for phase in phases] == table["training_steps"][:count]
    return phases


def test_imagenet_at_the_papers_scale(recipe):
    module = recipe("imagenet_256")
    phases = check_phases(module.PAPER, PAPER["B_training"]["progressive"]["imagenet"])
    check_shared(module.PAPER)
    assert phases[-1].level_names == ("64", "256")
    assert [phase.level_names for phase in module.SMALL.phases] == [("16",), ("16", "64")]


@pytest.mark.parametrize(
    ("name", "levels", "stages"),
    [
        ("cc12m_256", 2, [["64"], ["64", "256"]]),
        ("cc12m_256", 3, [["64"], ["64", "128", "256"]]),
        ("cc12m_1024", 3, [["64"], ["64", "256"], ["64", "256", "1024"]]),
        ("cc12m_1024", 5, [["64"], ["64", "128", "256"], ["64", "128", "256", "512", "1024"]]),
    ],
)
def test_cc12m_at_the_papers_scale(recipe, name, levels, stages):
    small, paper = recipe(name).small(levels), recipe(name).paper(levels)
    table = PAPER["B_training"]["progressive"]["cc12m"]
    phases = check_phases(paper, table)
    check_shared(paper)
    assert [list(phase.level_names) for phase in phases] == stages
    assert paper.sampling["guidance_scale"] == 7.0
    # In small: as many levels and phases, grown in the same stages, each with resolutions mixed.
    made = small.phases
    assert [len(phase.levels) for phase in made] == [len(stage) for stage in stages]
    assert [list(phase.groups) for phase in made] == [list(p.level_names) for p in made]
    left = recipe("shared.plan").left_after(paper, stages[-2])
    assert [phase.steps for phase in left.phases] == [table["training_steps"][len(stages) - 1]]


@pytest.mark.parametrize(
    ("name", "levels", "preset"),
    [
        ("imagenet_256", None, "mdm_s64s256"),
        ("cc12m_256", 2, "mdm_s64s256"),
        ("cc12m_256", 3, "mdm_s64s128s256"),
        ("cc12m_1024", 3, "mdm_s64s256s1024"),
        ("cc12m_1024", 5, "mdm_s64s128s256s512s1024"),
        ("webvid_video", None, "mdm_s64t16s256"),
    ],
)
def test_what_a_recipe_spells_out_is_the_papers_network(recipe, name, levels, preset):
    module = recipe(name)
    paper = module.paper(levels) if levels else module.PAPER
    assert resolve(paper.phases[-1].levels) == resolve(presets.PAPER[preset])
    for phase in paper.phases[:-1]:
        assert phase.levels == paper.phases[-1].levels[: len(phase.levels)]
    assert paper.process == {**presets.diffusion(preset), "ema_decay": 0.9999}
    assert paper.guided_levels == len(paper.phases[-1].levels) and not paper.network


def test_a_folder_in_small_takes_any_levels(recipe):
    folder = recipe("folder")
    parsed = argparse.Namespace(levels=[64, 128, 256], steps=None, batches=None)
    made = folder.small(parsed).phases
    assert [phase.level_names for phase in made] == [("64",), ("64", "128"), ("64", "128", "256")]
    inner, *outer = made[-1].levels
    assert inner.patch == 2 and inner.channels == (32, 64, 128, 256)
    assert inner.attention == (0, 0, 1, 1)
    assert [level.channels for level in outer] == [(64, 64), (32, 64)]
    for sizes in ([16, 64], [16, 32, 64], [32, 128], [64, 256]):  # levels fit into one another
        parsed.levels = sizes
        resolve(folder.small(parsed).phases[-1].levels)
    parsed.levels = None
    assert folder.small(parsed).phases[-1].levels[0] == folder.INNER
    parsed.steps = [1]
    with pytest.raises(ValueError, match="one number of steps .*To fix it"):
        folder.small(parsed)


def test_the_papers_prompts(recipe):
    texts = recipe("shared.texts").PAPER_PROMPTS.read_text().splitlines()
    assert len(texts) == len(set(texts)) == 29
    assert "a squirrel wearing a crown on stage" in texts and "" not in texts


def phases_of(recipe, words, name="cc12m_1024", levels=3):
    """Phases of a recipe's paper scale with options."""
    arguments = recipe("shared.options").parser("x", run_dir="x").parse_args(words.split())
    return recipe("shared.plan").phases(recipe(name).paper(levels).phases, arguments)


def test_batches_too_small_to_mix_are_not_mixed(recipe):
    phases = phases_of(recipe, "--batch-scale 1e-6 --steps-scale 1e-6")
    assert [(phase.steps, phase.batch_size) for phase in phases] == [(1, 1)] * 3
    assert [len(phase.groups) for phase in phases] == [1, 1, 1]
    half = phases_of(recipe, "--batch-scale 0.5")
    assert [phase.batch_size for phase in half] == [1024, 512, 384]
    assert [len(phase.groups) for phase in half] == [1, 2, 3]


def test_steps_and_batches_by_phase(recipe):
    phases = phases_of(recipe, "--phase-steps 3 2 1 --phase-batches 64 32 16")
    assert [(phase.steps, phase.batch_size) for phase in phases] == [(3, 64), (2, 32), (1, 16)]
    with pytest.raises(ValueError, match="--phase-steps must have one number per phase.* 3 phases"):
        phases_of(recipe, "--phase-steps 3 2")
    with pytest.raises(ValueError, match="--phase-batches .* 1 phases"):
        phases_of(recipe, "--no-progressive --phase-batches 3 2")


def test_the_papers_ablations(recipe):
    (alone,) = phases_of(recipe, "--no-progressive")
    assert alone.level_names == ("64", "256", "1024") and alone.steps == 100_000
    phases = phases_of(recipe, "--highest-only")
    assert [list(phase.groups) for phase in phases] == [["64"], ["256"], ["1024"]]
    phases = phases_of(recipe, "--mixed no")
    assert [list(phase.groups) for phase in phases] == [["64"], ["256"], ["1024"]]
    phases = phases_of(recipe, "--mixed 64=0.5 256=0.5 --mixed 64=0.25 256=0.25 1024=0.5")
    assert [list(phase.groups.values()) for phase in phases] == [[2048], [512] * 2, [192, 192, 384]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--mixed 64=0.5 512=0.5", "must name levels of the run. Received: 512, of levels 64, 256"),
        ("--mixed 64=1", "highest level of a phase with several levels. Received: 64"),
        ("--mixed no --mixed 64=0.5 256=0.5", "must stand alone"),
        ("--mixed 64=0.5 256=0.6", "must sum to one"),
    ],
)
def test_shares_that_no_phase_can_have(recipe, words, said):
    with pytest.raises(ValueError, match=said):
        phases_of(recipe, words)


def test_options_of_drawing_and_of_the_machine(recipe):
    machine, plan = recipe("shared.machine"), recipe("shared.plan")
    parser = recipe("shared.options").parser("x", run_dir="x")
    arguments = parser.parse_args("--sampling-steps 5 --guidance 2 --devices 4".split())
    drawn = plan.sampling({"sampling": "paper", "guidance_scale": 7.0}, arguments)
    assert drawn == {"sampling": "paper", "guidance_scale": 2.0, "steps": 5}
    with pytest.raises(ValueError, match="--devices must go with --dry-run"):
        machine.devices(arguments, None)
    arguments = parser.parse_args("--dry-run --devices 4 --extend --restart-phase 2".split())
    assert machine.devices(arguments, None) == 4
    assert plan.fit_options(arguments) == {"extend": True, "restart_phase": 2}
    assert plan.fit_options(parser.parse_args([])) == {}


def test_micro_batches_by_estimate(recipe):
    machine = recipe("shared.machine")
    words = "--micro-batches auto --device-memory 0.01 --dry-run".split()
    arguments = recipe("shared.options").parser("x", run_dir="x").parse_args(words)
    level = LevelSpec(4, channels=(32,), blocks=(1,), attention=(0,), heads=2, groups=8)
    phases = [Phase([level], steps=1, batch_size=n) for n in (1024, 512)]
    found = machine.micro_batches(
        arguments,
        phases,
        lambda phase: build_nested_unet(phase.levels, num_classes=3, time_width=32),
        devices=2,
    )
    assert all(number > 1 for number in found.values())
    arguments.micro_batches = None
    made = machine.micro_batches(arguments, phases, None, devices=2, default=lambda phase: 3)
    assert list(made.values()) == [3, 3]


@pytest.mark.parametrize(("kind", "corner"), [("area", (200 + 15 * 50) / 16), ("bilinear", 50)])
def test_files_of_all_phases_are_reduced_from_the_highest_level(recipe, tmp_path, kind, corner):
    folder = sources.write("folder", tmp_path)
    words = ["--data", str(folder)]
    arguments = recipe("shared.options").picture_parser("x", run_dir="x").parse_args(words)
    data = recipe("shared.pictures").Pictures(
        arguments, ["2", "8"], None, {"downsample": kind}, condition="none"
    )
    first = next(iter(data.datasets()(Phase([2], 1, batch_size=12), 0)))["image"]
    second = next(iter(data.datasets()(Phase([2, 8], 1, batch_size=18), 0)))
    for pictures in (first, second["2"]["image"]):  # every picture has one bright pixel
        np.testing.assert_allclose(pictures[:, 0, 0, 1], corner, atol=0.5)
    assert second["8"]["image"][0, 0, 0].numpy().tolist() == [200] * 3
    # Runs of earlier versions go on, if what they saw was the same.
    assert data.identity["rule"].get("downsample", "area") == kind
    assert ("downsample" in data.identity["rule"]) == (kind == "bilinear")


def test_video_phases_at_the_papers_scale(webvid):
    check_phases(webvid.PAPER, PAPER["B_training"]["progressive"]["webvid"])
    check_shared(webvid.PAPER)
    # Three levels and phases in small as well.
    assert [len(phase.levels) for phase in webvid.SMALL.phases] == [1, 2, 3]


def test_the_clip_rule_is_the_papers(webvid):
    table, rule = PAPER["E_datasets"]["webvid"], ClipRule(256)
    assert (rule.frames, rule.stride, rule.flip) == (
        table["frames"],
        table["frame_stride"],
        table["horizontal_flip"],
    )
    assert rule.start == "fixed" and table["clips_per_video"] == 1


def test_a_contradiction_is_one_line():
    recipe = [sys.executable, str(ROOT / "recipes" / "webvid_video.py")]
    words = ["--data", "x", "--animated-emoji"]
    done = subprocess.run([*recipe, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "exclude each other" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("cc12m_256", ["--worth", "50"], "must be 0, or a whole number from 100, not 50"),
        ("webvid_video", ["--scale", "paper"], "pass --data DIR"),
        ("cc12m_256", ["--scale", "paper"], "pass --data SOURCE"),
        ("folder", ["--scale", "paper"], "pass --data SOURCE"),
        ("finetune_released", ["--data", "x"], "belong together"),
        ("imagenet_256", ["--rehearse", "2", "--data", "x"], "leave --data out"),
        ("webvid_video", ["--rehearse", "2", "--strategy", "one"], "exclude each other"),
        ("cc12m_256", ["--micro-batches", "few"], "must be a whole number above 0"),
        ("cc12m_256", ["--mixed", "64"], "a level and a share such as 64=0.5"),
        ("finetune_released", ["--cond-dropout", "2"], "must be in [0, 1)"),
        ("finetune_released", ["--scale", "small"], "is that of the model; leave it out"),
        ("folder", ["--data", "x", "--scale", "small", "--width", "0.5"], "--scale small is not"),
        ("folder", ["--learning-rate", "1e-3"], "--learning-rate is for networks by the paper's"),
        ("cc12m_256", ["--embeddings", "x"], "--embeddings is for data in files"),
        ("cc12m_1024", ["--embeddings", "x"], "--embeddings is for data in files"),
        ("webvid_video", ["--embeddings", "x"], "--embeddings is for data in files"),
        ("webvid_video", ["--stride", "2"], "--stride is for data in files"),
        ("imagenet_256", ["--flip"], "--flip is for data in files"),
        ("imagenet_256", ["--exact", "--guidance", "3"], "leave one of the two out"),
        ("folder", ["--condition", "class", "--embeddings", "x"], "is about captions"),
        ("cc12m_256", ["--rehearse", "2", "--embeddings", "x"], "leave --embeddings out"),
    ],
)
def test_what_contradicts_or_would_be_ignored_is_refused(
    recipe, monkeypatch, capsys, name, words, said
):
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit):
        recipe(name).main()
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def small_folder(recipe, monkeypatch, tmp_path):
    """Function that runs the recipe of folders on pictures with more arguments; and the run."""
    policy = keras.config.dtype_policy()
    folder = sources.write("folder", tmp_path / "pictures")
    words = ["folder", "--data", str(folder), "--scale", "small", "--levels", "8", "16"]
    words += ["--steps", "1", "1", "--batches", "3", "3", "--run-dir", str(tmp_path / "run")]
    words += ["--dtype", "float32", "--strategy", "one", "--no-samples"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        recipe("folder").main()

    yield run, tmp_path / "run"
    keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--condition", "class", "--sampling-steps", "2000"], "`steps` must be"),
        (["--condition", "none", "--guidance", "3"], "guidance needs a conditional network"),
    ],
    ids=["steps", "guidance"],
)
def test_what_cannot_be_drawn_is_found_before_the_first_step(small_folder, words, said, dry):
    run, run_dir = small_folder
    with pytest.raises(ValueError, match=f"{said}.*Received: .*To fix it: "):
        run(*words, *dry)
    assert not (run_dir / "run.json").exists()


def test_drawing_of_a_later_phase_is_checked_before_the_first_step(recipe, tmp_path):
    def make_model(phase):
        # Phase 2 has fewer steps of diffusion than are drawn.
        steps = 100 if len(phase.levels) == 1 else 10
        model = MatryoshkaDiffusion(tiny_unet(phase.levels), num_steps=steps)
        model.compile(optimizer=optimizers.Adam(1e-3))
        return model

    def make_dataset(phase, first_step):
        side = int(phase.level_names[-1])
        pictures = np.zeros((2, side, side, 3), "uint8")
        return image_text_dataset(pictures, batch_size=2, seed=0, first_step=first_step)

    phases = [
        Phase([PLAIN_INNER], 2, batch_size=2),
        Phase([PLAIN_INNER, outer(16)], 2, batch_size=2, mixed=False),
    ]
    options = {"every": 1, "unconditional": True, "num_images": 1, "steps": 20}
    grids = recipe("shared.drawing").SampleGrids(["a"], **options)
    with pytest.raises(ValueError, match=r"phase 2 \[8, 16\]: `steps`.*steps=20.*To fix it"):
        fit_progressively(phases, make_model, make_dataset, run_dir=tmp_path, callbacks=grids)
    never = recipe("shared.drawing").SampleGrids(["a"], **{**options, "every": 0})
    with pytest.raises(ValueError, match=r"phase 1 \[8\]: `every`.*every=0.*To fix it"):
        fit_progressively(phases, make_model, make_dataset, run_dir=tmp_path, callbacks=never)
    assert not (tmp_path / "run.json").exists()
    fit_progressively(
        phases[:1], make_model, make_dataset, run_dir=tmp_path, callbacks=grids, progress=False
    )
    assert len(list((tmp_path / "samples").glob("*_8.png"))) == 2


def test_the_emoji_recipes_validate_on_their_first_pairs(recipe, monkeypatch):
    rows = np.arange(70, dtype="uint8")
    pictures = np.broadcast_to(rows[:, None, None, None], (70, 8, 8, 3)).copy()
    sizes = {4: pictures[:, ::2, ::2], 8: pictures}
    few = CaptionedImages(sizes, tuple(map(str, rows)), np.full(70, -1, "int32"), ())
    drawings = recipe("shared.drawings")
    monkeypatch.setattr(drawings, "load", lambda *_, **__: few)
    arguments = argparse.Namespace(data=None, seed=0)
    data = drawings.Drawings(arguments, ["8"], FakeEncoder(), {})
    batches = list(data.validation(Phase([PLAIN_INNER], 1, batch_size=16)))
    seen = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    assert len(batches) == 4 and sorted(seen) == list(range(64))
    # An upsampler sees the smaller drawings too, in training and here.
    data = drawings.Enlarged(arguments, ["8"], FakeEncoder(), {}, sees=4)
    phase = Phase([PLAIN_INNER], 1, batch_size=16)
    for batch in (next(iter(data.validation(phase))), next(iter(data.datasets()(phase, 3)))):
        assert batch["low_res"].shape == (16, 4, 4, 3)
        np.testing.assert_array_equal(batch["low_res"][:, 0, 0], batch["image"][:, 0, 0])


@pytest.mark.slow
def test_tall_and_wide_pictures_are_trained_in_buckets(recipe, monkeypatch, tmp_path):
    """A run that was ended and continued sees the batches of one that was not, and learns alike."""
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(30, 20), (20, 30), (45, 30), (22, 30), (40, 26)]):
        pixels = rng.integers(0, 256, (*size, 3)).astype("uint8")
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    words = ["folder", "--data", str(tmp_path / "pictures"), "--condition", "none"]
    words += ["--levels", "8", "16", "--buckets", "16x24", "24x16"]
    words += ["--batches", "2", "2", "--dtype", "float32", "--strategy", "one", "--no-samples"]

    folder, tiny = recipe("folder"), [PLAIN_INNER, outer(16)]
    own = folder.own

    def in_miniature(arguments):
        scale = own(arguments)
        phases = [
            dataclasses.replace(phase, levels=tiny[: len(phase.levels)]) for phase in scale.phases
        ]
        return dataclasses.replace(scale, phases=phases)

    monkeypatch.setattr(folder, "own", in_miniature)

    def run(name, *steps, more=()):
        argv = [*words, "--steps", *map(str, steps), "--run-dir", str(tmp_path / name), *more]
        monkeypatch.setattr(sys, "argv", argv)
        folder.main()
        return load(tmp_path / name)

    seen = []
    size_of = MatryoshkaDiffusion.size_of

    def noted(model, batch):
        seen.append(size_of(model, batch))
        return seen[-1]

    monkeypatch.setattr(MatryoshkaDiffusion, "size_of", noted)
    policy = keras.config.dtype_policy()
    try:
        whole = run("whole", 2, 3)
        at_once, seen[:] = list(seen), []
        assert set(at_once) == {(8, 12), (12, 8), (16, 24), (24, 16)}
        run("parts", 2, 1)
        parts = run("parts", 2, 3, more=["--extend"])
    finally:
        keras.config.set_dtype_policy(policy)
    assert seen == at_once and whole.buckets == parts.buckets == ((16, 24), (24, 16))
    for mine, other in zip(whole.unet.weights, parts.unet.weights, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_a_run_of_a_few_steps(tmp_path):
    folder = sources.write("folder", tmp_path / "pictures")
    words = [sys.executable, str(ROOT / "recipes" / "folder.py"), "--data", str(folder)]
    words += ["--scale", "small", "--condition", "class", "--levels", "8", "16", "--no-samples"]
    words += ["--steps", "1", "1", "--batches", "3", "3", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "model.keras").exists()


@pytest.mark.slow
@pytest.mark.network
def test_a_run_on_files_from_start_to_samples(tmp_path):
    """A plain folder with a broken picture: it stops the run, unless that is accepted."""
    if not assets.is_fetched("minilm"):
        pytest.skip("needs `keras-mdm assets fetch minilm`")
    folder = sources.write("folder", tmp_path / "pictures")
    (folder / "first" / "00.png").write_bytes(b"")
    words = [sys.executable, str(ROOT / "recipes" / "folder.py"), "--data", str(folder)]
    words += ["--levels", "8", "16", "--width", "0.125", "--steps", "4", "1", "--batches", "3", "3"]
    words += ["--run-dir", str(tmp_path / "run"), "--dtype", "float32"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "at most 1.00% of the records" in done.stderr
    done = subprocess.run(
        [*words, "--max-skipped", "0.1", "--fresh"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "first/00.png: is empty" in done.stdout
    for name in ("samples.png", "paper_prompts.png", "model.keras", "saved_model"):
        assert (tmp_path / "run" / name).exists()


def test_a_run_of_days_needs_yes(recipe, monkeypatch, capsys):
    forecast, options = recipe("shared.forecast"), recipe("shared.options")
    module = recipe("emoji_text_to_image")
    parser = options.parser("", run_dir="unused")

    def say(*words):
        forecast.say(
            parser.parse_args(words),
            module.SCALE.phases,
            lambda phase: build_nested_unet(phase.levels, text_width=384, text_blocks=0),
            tokens=16,
            devices=1,
        )

    monkeypatch.setattr(forecast.mdm.estimate, "measured_speed", lambda dtype: 1e12)
    say()
    assert (
        capsys.readouterr().out
        == "13.6 M parameters, 1,650 steps, 131.5 TFLOP: at least 3 minutes here\n"
    )
    monkeypatch.setattr(forecast.mdm.estimate, "measured_speed", lambda dtype: 1e9)
    say("--yes")
    with pytest.raises(ValueError, match="days needs --yes. Received: 52 hours.*To fix it"):
        say()


@pytest.mark.parametrize("name", ["imagenet_256", "webvid_video"])
def test_the_highest_loss_alone_is_not_relative_to_a_level_without_loss(recipe, name):
    for given in (recipe(name).SMALL, recipe(name).PAPER):
        scale = recipe("shared.scale").with_paper_levels(given)
        assert scale.process["residual"] is False
        assert [phase.level_names for phase in scale.phases] == [
            phase.level_names for phase in given.phases
        ]
        outer = [level for phase in scale.phases for level in phase.levels[1:]]
        assert outer and not any(level.learned_deviation or level.sees_below for level in outer)


def test_levels_that_are_sizes_are_the_papers_already(recipe):
    scale = dataclasses.replace(
        recipe("imagenet_256").PAPER, phases=[Phase([16, "8x32"], 1, mixed=False)]
    )
    made = recipe("shared.scale").with_paper_levels(scale)
    assert made.phases == scale.phases and made.process["residual"] is False


def test_validation_is_the_recipes_unless_it_is_asked_for(recipe):
    module, validating = recipe("imagenet_256"), recipe("shared.validating")
    asked = recipe("shared.options").picture_parser("", run_dir="x").parse_args

    def every(scale, *words):
        return validating.every(scale, asked([*words]))

    assert every(module.PAPER) == 5000 and every(module.SMALL) == 0
    assert every(module.PAPER, "--validate-every", "0") == 0
    assert every(module.SMALL, "--validate-every", "7") == 7


@pytest.mark.parametrize(("trained", "measured"), [(1.0, 4), (13.0, 12), (500.0, 32)])
def test_the_loss_by_noise_fits_wherever_training_does(recipe, trained, measured):
    """Never more rows than a device trains at a time, but four, and of any batches."""
    phase = Phase([8], steps=1)
    data = tf.data.Dataset.from_tensor_slices({"image": np.zeros((64, 8, 8, 3), "uint8")}).batch(7)
    made = recipe("shared.validating").Diagnosed(
        lambda context: ["grid"], lambda phase: data, 10, lambda phase: trained
    )
    logger = SimpleNamespace(writer=None)
    grid, diagnostics = made(SimpleNamespace(phase=phase, logger=logger, global_step=0))
    assert grid == "grid" and diagnostics.rows == measured and diagnostics.every == 10
    few = recipe("shared.validating").Diagnosed(
        lambda context: ["grid"], lambda phase: data.take(0), 10, lambda phase: trained
    )
    assert few(SimpleNamespace(phase=phase, logger=logger, global_step=0)) == ["grid"]

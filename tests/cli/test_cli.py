"""The command line: numbers, files, and errors in one line."""

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_mdm import estimate, training
from keras_mdm.cli import examples, sample, written
from keras_mdm.cli import main as cli
from keras_mdm.diffusion import samplers, time_grids
from keras_mdm.models import LevelSpec, build_nested_unet

TINY = LevelSpec(8, channels=(32,), blocks=(1,), attention=(0,), use_mid_block=False)


def run(*words, code="from keras_mdm.cli.main import main; import sys; sys.exit(main())"):
    """Run the command in a process of its own; returns (status, stdout, stderr)."""
    # The installed command goes by this name, and the package starts lightly for it.
    code = f"import sys; sys.argv[0] = 'keras-mdm'\n{code}"
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def error_of(capsys, *words) -> str:
    """Run the command in this process; returns the error after checking its form."""
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("keras-mdm: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture(scope="module")
def class_model():
    return training.MatryoshkaDiffusion(build_nested_unet([TINY, 16], num_classes=3))


@pytest.fixture(scope="module")
def class_file(class_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "classes.keras"
    class_model.save(path)
    return str(path)


def test_describe_counts_without_noise():
    status, stdout, stderr = run("describe", "released_256", "--json")
    found = json.loads(stdout)
    assert (status, stderr) == (0, "")
    assert found["parameters"] == 476_613_958
    assert found["gflop"] == pytest.approx(589, rel=0.01)
    assert [level["name"] for level in found["levels"]] == ["64", "256"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' own account")
def test_describe_allocates_nothing():
    # Of the process itself: what the parent accounts for a child includes the parent's own memory.
    code = """if True:
        from pathlib import Path
        from keras_mdm.cli.main import main
        main()
        lines = Path("/proc/self/status").read_text().splitlines()
        print(next(line for line in lines if line.startswith("VmHWM")), file=sys.stderr)
    """
    status, _, stderr = run("describe", "released_256", code=code)
    _, peak, unit = stderr.split()
    assert (status, unit) == (0, "kB")
    assert 1024 * int(peak) < 4 * 476_613_958


def test_help_and_version_do_not_import_tensorflow():
    code = """if True:
        import sys
        from keras_mdm.cli.main import main
        try:
            main()
        finally:
            print("tensorflow" in sys.modules, file=sys.stderr)
    """
    for words, expected in ((["--help"], "describe"), (["--version"], "keras-mdm ")):
        status, stdout, stderr = run(*words, code=code)
        assert (status, stderr) == (0, "False\n")
        assert expected in stdout


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.__name__)
def test_help_ends_with_examples_that_parse(command, capsys):
    parser = cli.make_parser()
    name = command.__name__.rpartition(".")[2].strip("_")
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    _, _, shown = capsys.readouterr().out.partition("examples:\n")
    lines = [line.strip() for line in shown.splitlines()]
    assert lines and lines == list(examples.EXAMPLES[name])
    for line in lines:
        words = shlex.split(line[line.index("keras-mdm") :])
        assert parser.parse_args(words[1:]).command == name


def test_module_reports_errors_in_one_line():
    code = "import runpy; runpy.run_module('keras_mdm', run_name='__main__')"
    status, stdout, stderr = run("describe", "64", "100", code=code)
    assert (status, stdout) == (2, "")
    assert stderr.startswith("keras-mdm: error: levels must ascend by a power of two")
    assert stderr.count("\n") == 1


def test_describe_prints_a_table(capsys):
    assert cli.main(["describe", "8", "16", "--classes", "10", "--width", "0.0625"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["level", "16", "8", "total"]
    assert len({len(line) for line in lines[1:]}) == 1
    total, inner, outer = (int(lines[row].split()[-2].replace(",", "")) for row in (4, 3, 2))
    assert inner + outer == total


@pytest.mark.slow
def test_describe_says_what_training_would_cost(capsys, monkeypatch):
    real, known = estimate.estimate_training, {}

    def once(phases, *given, **options):  # tracing takes long, and the second time says the same
        key = repr(phases)
        if key not in known:
            known[key] = real(phases, *given, **options)
        return known[key]

    monkeypatch.setattr(estimate, "estimate_training", once)
    words = ["describe", "8", "16", "--classes", "10", "--width", "0.0625"]
    words += ["--phases", "8:100x8", "16:50x12", "--devices", "2", "--tflops", "0.001"]
    assert cli.main([*words, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["phases"]
    assert (first["levels"], second["levels"]) == (["8"], ["8", "16"])
    assert second["groups"] == {"8": 4, "16": 8} and second["steps"] == 50
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| 8 16 | 50 x 12 |") for line in lines)
    message = error_of(capsys, "describe", "8", "16", "--classes", "10", "--phases", "32:1x1")
    assert "phase='32:1x1'" in message and "LEVEL:STEPSxBATCH" in message
    message = error_of(capsys, "describe", "8", "16", "--classes", "10", "--devices", "2")
    assert "devices=2" in message and "--phases" in message


def test_describe_refuses_what_is_no_network(capsys):
    message = error_of(capsys, "describe", "mdm_s65")
    assert "network='mdm_s65'" in message and "mdm_s64s256" in message
    assert "network='64 mdm_s64'" in error_of(capsys, "describe", "64", "mdm_s64")


def test_sample_writes_what_generate_draws(class_file, class_model, tmp_path, capsys):
    options = ["--steps", "2", "--guidance", "1.5", "--seed", "7", "--sampler", "ddpm"]
    labels = ["--label", "2", "-1"]
    out = tmp_path / "pictures"
    assert cli.main(["sample", class_file, *labels, *options, "--out", str(out)]) == 0
    names = [
        "000-label-2_8.png",
        "000-label-2_16.png",
        "001-label-1_8.png",
        "001-label-1_16.png",
        "grid.png",
    ]
    assert capsys.readouterr().out.splitlines() == [str(out / name) for name in names]
    expected = class_model.generate(
        labels=[2, -1], steps=2, guidance_scale=1.5, seed=7, sampler="ddpm", progress=False
    )
    for row, level, name in ((0, "8", names[0]), (0, "16", names[1]), (1, "16", names[3])):
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), expected[level][row])
    grid = np.asarray(Image.open(out / "grid.png"))
    np.testing.assert_array_equal(grid[:16, :16], expected["8"][0].repeat(2, 0).repeat(2, 1))


def test_sample_knows_samplers_previews_and_pictures_to_change(class_file, class_model, tmp_path):
    assert sample.SAMPLERS == samplers.NAMES and sample.GRIDS == time_grids.GRIDS
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype("uint8")
    Image.fromarray(picture).save(tmp_path / "in.png")
    arguments = ["--label", "2", "--per-prompt", "2", "--steps", "3", "--sampler", "unipc"]
    arguments += ["--grid", "karras", "--init", str(tmp_path / "in.png"), "--strength", "0.5"]
    assert cli.main(["sample", class_file, *arguments, "--out", str(tmp_path / "out")]) == 0
    expected = class_model.generate(
        labels=[2],
        num_images_per_prompt=2,
        steps=3,
        sampler="unipc",
        grid="karras",
        init_image=picture,
        strength=0.5,
        progress=False,
    )
    for row in range(2):
        found = np.asarray(Image.open(tmp_path / "out" / f"00{row}-label-2_16.png"))
        np.testing.assert_array_equal(found, expected["16"][row])
    preview = ["--label", "1", "--steps", "2", "--stop-at", "8", "--out", str(tmp_path / "low")]
    assert cli.main(["sample", class_file, *preview]) == 0
    names = sorted(path.name for path in (tmp_path / "low").iterdir())
    assert names == ["000-label-1_8.png", "grid.png"]


def test_sample_passes_the_steps_of_outer_levels(class_file, capsys):
    given = ["sample", class_file, "--label", "1", "--steps", "2", "--outer-steps", "3"]
    assert "outer_steps=3" in error_of(capsys, *given)


def test_cut_writes_the_inner_levels(class_file, class_model, tmp_path, capsys):
    out = tmp_path / "new" / "small.keras"
    assert cli.main(["cut", class_file, "8", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert (
        cli.main(["sample", str(out), "--label", "1", "--steps", "2", "--out", str(tmp_path)]) == 0
    )
    expected = class_model.generate(labels=[1], steps=2, stop_at="8", progress=False)["8"][0]
    picture = np.asarray(Image.open(tmp_path / "000-label-1_8.png"))
    np.testing.assert_array_equal(picture, expected)
    capsys.readouterr()
    assert "OUT must be a new file" in error_of(capsys, "cut", class_file, "8", str(out))
    assert "level='9'" in error_of(capsys, "cut", class_file, "9", str(tmp_path / "x.keras"))


def test_sample_of_a_clip_puts_its_frames_side_by_side(tmp_path):
    clip = np.arange(2 * 4 * 4 * 3, dtype="uint8").reshape(1, 2, 4, 4, 3)
    strip, _ = written.write({"2x4": clip}, ["a / b"], tmp_path)
    assert strip.name == "000-a-b_2x4.png"
    picture = np.asarray(Image.open(strip))
    np.testing.assert_array_equal(picture[:, :4], clip[0, 0])
    np.testing.assert_array_equal(picture[:, -4:], clip[0, 1])
    drawn = {"4": clip[:, 0], "2x4": clip}
    paths = written.play(drawn, ["a / b"], tmp_path, ending="gif", speed=5.0)
    assert [path.name for path in paths] == ["000-a-b_2x4.gif", "grid.gif"]
    with Image.open(paths[0]) as gif:
        assert gif.n_frames == 2 and gif.info["duration"] == 200
    assert written.play({"4": clip[:, 0]}, ["a"], tmp_path, ending="mp4", speed=5.0) == []


def test_sample_replaces_no_file_and_says_how_to_repeat(class_file, tmp_path, capsys):
    words = ["sample", class_file, "--label", "1", "--steps", "1", "--out", str(tmp_path)]
    assert cli.main([*words, "--seed", "4"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert cli.main([*words, "--seed", "5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert sorted(said["files"]) == sorted(map(str, set(tmp_path.iterdir()) - set(before)))
    assert (said["seed"], said["options"]["steps"]) == (5, 1)
    assert {"001-label-1_8.png", "grid-001.png"} <= {Path(file).name for file in said["files"]}
    about = json.loads(Image.open(tmp_path / "001-label-1_8.png").text["keras_mdm"])
    assert about["caption"] == "label 1" and about["seed"] == 5 and about["model"] == class_file


def test_sample_takes_options_anywhere_and_prompts_from_files(class_file, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a tree\n\na cow\n")
    seen = []
    monkeypatch.setattr(sample, "run", lambda args: seen.append(sample._prompts(args)))
    parser = cli.make_parser()
    for words in (
        ["sample", "m", "--steps", "2", "a tree", "--seed", "1", "a cow"],
        ["sample", "m", "--prompts", str(prompts)],
        ["sample", "m", "a tree", "--prompts", "-"],
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO("a cow\n"))
        args = cli.parsed(parser, words)
        assert sample._prompts(args) == ["a tree", "a cow"], words
    with pytest.raises(SystemExit):
        cli.parsed(parser, ["sample", "m", "a tree", "--stepps", "2"])


def test_sample_checks_out_first(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    said = error_of(capsys, "sample", "no.keras", "a tree", "--out", str(file))
    assert "--out must be a directory to write to" in said


def test_a_reader_that_has_enough(monkeypatch):
    def run(args):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "parsed", lambda *_: argparse.Namespace(run=run))
    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr("sys.stdout", sys.__stdout__)
    assert cli.main([]) == 141


def test_clips_keep_a_comment(tmp_path):
    clip = np.zeros((1, 2, 4, 4, 3), "uint8")
    (path, _) = written.play(
        {"2x4": clip}, ["é"], tmp_path, ending="gif", speed=5.0, about={"seed": 3}
    )
    about = json.loads(Image.open(path).info["comment"].decode())
    assert about == {"seed": 3, "caption": "é", "position": 0}


def test_sample_errors(class_file, tmp_path, capsys):
    assert "path='no.keras'" in error_of(capsys, "sample", "no.keras", "a tree")
    assert "prompts need a network with text" in error_of(capsys, "sample", class_file, "a tree")
    assert "`labels` must be" in error_of(capsys, "sample", class_file, "--label", "3")
    both = error_of(capsys, "sample", class_file, "a tree", "--label", "1")
    assert "prompts=['a tree'], label=[1]" in both
    other = tmp_path / "other.keras"
    build_nested_unet([TINY]).save(other)
    assert "type='NestedUNet'" in error_of(capsys, "sample", str(other))
    no_picture = ("sample", class_file, "--label", "1", "--init", str(other))
    assert "--init must be a picture" in error_of(capsys, *no_picture)


def test_export_passes_the_model_on(class_file, class_model, tmp_path, capsys, monkeypatch):
    from keras_mdm import export

    calls = []

    def write(*given, **options):
        calls.append((*given, options))
        return tmp_path / "served" / "1"

    monkeypatch.setattr(export, "export_saved_model", write)
    words = ["--weights", "raw", "--dtype", "bfloat16", "--no-text-encoder"]
    assert cli.main(["export", class_file, str(tmp_path / "served"), *words]) == 0
    ((model, directory, options),) = calls
    assert options == {
        "weights": "raw",
        "dtype": "bfloat16",
        "prompt_input": False,
        "denoiser": False,
    }
    assert directory == str(tmp_path / "served")
    assert capsys.readouterr().out.strip() == str(tmp_path / "served" / "1")
    for loaded, saved in zip(model.unet.weights, class_model.unet.weights, strict=True):
        np.testing.assert_array_equal(loaded.numpy(), saved.numpy())


def test_an_import_says_nothing():
    """Also where the user has set the level of TensorFlow's messages, which begin before it is
    read."""
    command = [sys.executable, "-c", "import keras_mdm"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_words_are_completed(tmp_path):
    pytest.importorskip("argcomplete")
    asked = tmp_path / "words"
    given = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": " ",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(asked),
    }
    given |= {"COMP_LINE": "keras-mdm sam", "COMP_POINT": "13", "COMP_TYPE": "9"}
    code = "import sys; sys.argv[0] = 'keras-mdm'; from keras_mdm.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **given}, check=True)
    assert asked.read_text().split() == ["sample"]

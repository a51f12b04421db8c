import io
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFont
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from keras_mdm.callbacks import (
    EventWriter,
    ProgressBar,
    SampleGrid,
    StepCallback,
    TensorBoardLogger,
    Throughput,
    captioned_grid,
    image_grid,
)
from keras_mdm.pictures.grids import wrap_text


class Toy(keras.Model):
    """Counts its steps; the loss of step n is n."""

    def __init__(self):
        super().__init__()
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.built = True

    @property
    def metrics(self):
        return []

    def train_step(self, data):
        self.count.assign_add(1.0)
        count = tf.convert_to_tensor(self.count)
        return {"loss": count, "loss_64": 2 * count, "learning_rate": 0.5, "other": 1.0}


def fit(steps, callbacks, *, epochs=1, steps_per_execution=1):
    model = Toy()
    model.compile(steps_per_execution=steps_per_execution, jit_compile=False)
    data = tf.data.Dataset.from_tensors(np.zeros((1, 1), "float32")).repeat()
    model.fit(
        data, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )


class Recorder(StepCallback):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls, self.speeds = [], []

    def on_step_end(self, previous_step, logs):
        self.calls.append((previous_step, self.step, logs["loss"]))
        self.speeds.append(logs.get("images_per_second"))


class Clock:
    """Every look at it takes half a second."""

    def __init__(self, step=0.5):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_steps_are_counted_over_executions_and_epochs(steps_per_execution):
    recorder = Recorder(initial_step=100)
    fit(6, [recorder], epochs=2, steps_per_execution=steps_per_execution)
    ends = list(range(100 + steps_per_execution, 113, steps_per_execution))
    assert [call[1] for call in recorder.calls] == ends
    assert all(now - before == steps_per_execution for before, now, _ in recorder.calls)
    assert [call[2] for call in recorder.calls] == [end - 100 for end in ends]


def test_throughput_over_a_window():
    recorder = Recorder()
    fit(12, [Throughput(8, window=3, clock=Clock()), recorder], steps_per_execution=2)
    # Two steps of eight pictures per half second; the first execution has nothing to compare with.
    assert recorder.speeds == [None] + [pytest.approx(32.0)] * 5
    logs = {}
    throughput = Throughput(8, flop_per_step=5e12, clock=Clock())
    for _ in range(2):
        throughput.on_step_end(0, logs)
        throughput.step += 1
    assert logs["tflops"] == pytest.approx(5 * logs["images_per_second"] / 8)

    class Slowing(Clock):
        def __call__(self):
            self.step *= 2
            return super().__call__()

    recorder = Recorder()
    fit(6, [Throughput(1, window=2, clock=Slowing()), recorder])
    # Ends at 1, 3, 7, 15, 31, 63: always two steps back.
    assert recorder.speeds[2:] == [pytest.approx(2 / x) for x in (6, 12, 24, 48)]


def test_only_the_first_of_several_workers_writes(tmp_path, monkeypatch):
    written = {}
    for index in (0, 1):
        cluster = {"worker": ["localhost:1", "localhost:2"]}
        task = {"type": "worker", "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        directory, stream = tmp_path / str(index), io.StringIO()
        logger = TensorBoardLogger(directory / "logs", every=1)
        draw = lambda: {"8": np.zeros((1, 8, 8, 3), "uint8")}  # noqa: E731
        grid = SampleGrid(draw, None, directory / "samples", every=2, writer=logger.writer)
        counter = Recorder()
        fit(4, [ProgressBar(4, stream=stream, interval=0.0), logger, grid, counter])
        logger.close()
        assert len(counter.speeds) == 4  # others run everywhere
        written[index] = len(list(directory.rglob("*.*"))), len(stream.getvalue())
    assert min(written[0]) > 0 and written[1] == (0, 0)


def test_progress_prints_lines_into_a_pipe():
    stream = io.StringIO()
    bar = ProgressBar(
        130, description="phase 1 [64]", initial_step=100, stream=stream, clock=Clock(1.0)
    )
    fit(30, [Throughput(4, clock=Clock()), bar])
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    # The clock moves by 1 at every look: a line per ten steps, the last one at the end.
    assert [line.split()[3] for line in lines] == ["110/130", "120/130", "130/130"]
    assert lines[0].startswith("phase 1 [64]  110/130  ")
    assert "loss" in lines[0] and "(64 " in lines[0] and "lr 0.5" in lines[0]
    assert "8 images/s" in lines[0] and "left" in lines[0]
    assert lines[-1].startswith("phase 1 [64]  130/130") and "loss 30 (64 60)" in lines[-1]


def test_progress_line_tells_the_time_left_from_this_run_without_its_compilation():
    stream, clock = io.StringIO(), Clock(0.0)
    bar = ProgressBar(1000, initial_step=900, stream=stream, interval=5.0, clock=clock)
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    clock.now = 60.0
    bar.on_train_batch_end(0, {"loss": 2.0})  # compiles
    clock.now = 80.0
    bar.on_train_batch_end(20, {"loss": 1.0})  # 20 steps in 20 s, 79 left
    assert stream.getvalue() == "901/1000  loss 2\n921/1000  loss 1  01:19 left\n"


def test_progress_on_a_terminal_starts_at_the_later_step():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    fit(5, [ProgressBar(15, description="p", initial_step=10, stream=stream)])
    text = stream.getvalue()
    assert "10/15" in text and "15/15" in text and "\r" in text and "loss 5" in text
    stream = Terminal()
    fit(5, [ProgressBar(5, stream=stream, quiet=True)])
    assert stream.getvalue() == ""


def test_progress_in_a_notebook_is_a_bar(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    fit(5, [ProgressBar(5, description="p")])
    assert "\r" in capsys.readouterr().err


def scalars(log_dir, tag):
    # TensorBoard's own reader; the one without "plugin" in its name keeps purged tensors.
    events = EventAccumulator(str(log_dir))
    events.Reload()
    points = [
        (event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)
    ]
    return points, events


def test_tensorboard_at_the_global_step_without_doubles(tmp_path):
    logger = TensorBoardLogger(tmp_path, every=2)
    fit(10, [logger])
    logger.close()
    points, events = scalars(tmp_path, "loss/all")
    assert points == [(step, float(step)) for step in (2, 4, 6, 8, 10)]
    curves = {"loss/all", "loss/64", "optimizer/learning_rate", "memory/process"}
    assert set(events.Tags()["tensors"]) == {*curves, "custom_scalars__config__"}
    # Killed at 10, continued from the checkpoint of step 6.
    logger = TensorBoardLogger(tmp_path, every=2, initial_step=6)
    fit(6, [logger])
    logger.close()
    points, _ = scalars(tmp_path, "loss/all")
    assert points == [(2, 2.0), (4, 4.0), (6, 6.0), (8, 2.0), (10, 4.0), (12, 6.0)]


def test_hyperparameters(tmp_path):
    writer = EventWriter(tmp_path)
    writer.hyperparameters({"steps": 10, "data": tmp_path, "seed": None})
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    (content,) = events.PluginTagToContent("hparams").values()
    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["steps"].number_value == 10 and found["data"].string_value == str(tmp_path)
    assert set(found) == {"steps", "data"}


def test_sample_grid_writes_files_and_tensorboard(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {
        "8": rng.integers(0, 256, (3, 8, 8, 3), dtype="uint8"),
        "32": rng.integers(0, 256, (3, 32, 32, 3), dtype="uint8"),
    }
    calls = []
    logger = TensorBoardLogger(tmp_path / "logs", initial_step=100)
    grid = SampleGrid(
        lambda: calls.append(1) or pictures,
        ["a", "b", "c"],
        tmp_path / "samples",
        every=4,
        writer=logger.writer,
        initial_step=100,
    )
    fit(9, [logger, grid], steps_per_execution=3)
    logger.close()
    assert len(calls) == 2  # 104 and 108 lie in the executions that end at 106 and 109
    names = {f"step-0000{step}_{n}.png" for step in (106, 109) for n in ("8", "32", "all")}
    assert {path.name for path in (tmp_path / "samples").iterdir()} == names
    written = np.asarray(Image.open(tmp_path / "samples" / "step-0000106_8.png"))
    np.testing.assert_array_equal(written, image_grid(pictures["8"]))
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    (prompts,) = events.Tensors("samples/prompts")
    assert prompts.tensor_proto.string_val == [b"1. a\n2. b\n3. c"]
    (first, second) = events.Tensors("samples/8")
    assert (first.step, second.step) == (106, 109)
    width, height, png = first.tensor_proto.string_val
    assert (int(width), int(height)) == (18, 18)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), written)


def test_image_grid_puts_every_picture_in_its_place():
    images = np.arange(5, dtype="uint8")[:, None, None, None] * np.ones((5, 4, 6, 3), "uint8")
    grid = image_grid(images, columns=2, gap=1)
    assert grid.shape == (14, 13, 3)
    for i in range(5):
        top, left = (i // 2) * 5, (i % 2) * 7
        assert np.all(grid[top : top + 4, left : left + 6] == i)
    assert np.all(grid[10:, 7:] == 255) and np.all(grid[4] == 255) and np.all(grid[:, 6] == 255)
    clips = images[:4].reshape(2, 2, 4, 6, 3)
    np.testing.assert_array_equal(image_grid(clips, gap=1), image_grid(images[:4], 2, gap=1))
    with pytest.raises(ValueError, match="float32"):
        image_grid(images.astype("float32"))


def test_captioned_grid_enlarges_without_smoothing_and_writes_text():
    low = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype="uint8")
    high = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype="uint8")
    grid = captioned_grid({"4": low, "64": high}, ["red apple", "a very long caption here"], gap=6)
    assert grid.shape[1] == 2 * 64 + 6
    for column in range(2):
        left = column * 70
        want = low[column].repeat(16, 0).repeat(16, 1)
        np.testing.assert_array_equal(grid[:64, left : left + 64], want)
        np.testing.assert_array_equal(grid[70:134, left : left + 64], high[column])
        text = grid[134:, left : left + 64]
        assert text.min() < 80 and np.mean(text > 250) > 0.4  # black letters on white
    assert np.all(grid[134:, 64:70] > 250)  # no caption runs into its neighbour
    other = captioned_grid({"4": low, "64": high}, ["red apple", "another text"], gap=6)
    np.testing.assert_array_equal(other[134:150, :64], grid[134:150, :64])
    assert not np.array_equal(other[134:150, 70:], grid[134:150, 70:])
    with pytest.raises(ValueError, match="prompts=1"):
        captioned_grid({"4": low}, ["one"])


def test_wrapped_lines_fit_and_lose_nothing():
    font = ImageFont.load_default(size=14)
    text = "a supercalifragilisticexpialidocious thing with many words in it"
    lines = wrap_text(text, 60, font)
    assert all(font.getlength(line) <= 60 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap_text("", 60, font) == [""]
    assert "".join(wrap_text("y" * 100_000, 60, font)) == "y" * 300 + "..."

"""Two logical CPU devices for tests of replicas, marks to opt in, graphs that are not rewritten."""

import gc
import importlib
import os
import re
import resource
import signal
import sys
import zlib
from pathlib import Path

import pytest
import tensorflow as tf

# The checks of golden cases live with the benchmarks. Last, not first: names of tests come before.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

# Processes that run beside each other share the cores, also with what their tests start: threads of
# both on every core cost a tenth of the time.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    CORES = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, CORES)))

# Before anything else touches TensorFlow: devices cannot be split once it has started.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")
    parser.addoption("--part", metavar="K/N", help="the K-th of N parts of the files")
    parser.addoption("--gpu", action="store_true", help="also run tests that need a GPU")
    parser.addoption("--network", action="store_true", help="fetch assets that tests need")
    parser.addoption(
        "--optimize-graphs", action="store_true", help="let TensorFlow rewrite graphs, as in use"
    )


# What TensorFlow does to a graph before it runs, all but what takes out unused operations: without
# that one a graph takes three times the memory.
_REWRITING = (
    *("arithmetic_optimization", "common_subgraph_elimination", "constant_folding"),
    *("dependency_optimization", "function_optimization", "layout_optimizer"),
    *("loop_optimization", "memory_optimization", "remapping", "shape_optimization"),
)


def pytest_configure(config):
    # Tracing makes many objects that live on: looking through all of them less often saves 3 %.
    gc.set_threshold(50_000, 20, 50)
    # A job that a script starts in the background ignores Ctrl-C, and so would what tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Rewriting takes longer than tracing, for tests that then make a few steps. What runs in
    # processes of its own (workers, commands, recipes) is rewritten as in use.
    if not config.getoption("--optimize-graphs"):
        tf.config.optimizer.set_experimental_options(dict.fromkeys(_REWRITING, False))


def pytest_ignore_collect(collection_path, config):
    """With `--part`, leave out the files of other parts: no process holds what all of them need."""
    part = config.getoption("--part")
    if part and collection_path.name.startswith("test_"):
        words = re.fullmatch(r"(\d+)/([1-9]\d*)", part)
        if not words or not 1 <= int(words[1]) <= int(words[2]):
            raise pytest.UsageError(f"--part must be K/N with K in 1..N, not {part!r}")
        number, count = int(words[1]), int(words[2])
        name = collection_path.relative_to(Path(__file__).parent).as_posix()
        return zlib.crc32(name.encode()) % count != number - 1 or None
    return None


def pytest_collection_finish(session):
    # What is imported by now stays: the garbage collector need not look at it after every file.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config, items):
    # Tests marked `network` decide by themselves: they run if what they need is cached.
    for item in items:
        for mark in ("slow", "gpu"):
            if mark in item.keywords and not config.getoption(f"--{mark}"):
                item.add_marker(pytest.mark.skip(reason=f"needs --{mark}"))


@pytest.fixture(scope="module", autouse=True)
def what_a_file_traced_goes_with_it(request):
    """Free the models and graphs of a file before the next one: gigabytes otherwise."""
    from keras_mdm.tracing import forgotten_gradients, free_what_is_gone

    with forgotten_gradients():
        yield
    for value in vars(request.module).values():
        if getattr(value, "__module__", None) == request.module.__name__:
            getattr(value, "cache_clear", lambda: None)()  # models that tests of one file share
    free_what_is_gone()


@pytest.fixture(scope="module")
def eagerly():
    """Functions run as they are, and nothing is traced: half the time where few steps are made.

    For files about what is computed, kept and loaded, not about graphs: those are traced elsewhere.
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def traced():
    """Functions are traced in this test, in a file whose others run `eagerly`."""
    eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    yield
    tf.config.run_functions_eagerly(eager)


# The most memory that each process of the tests held, in the summary.


def peak_gigabytes():
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


PEAKS = []


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak_gigabytes()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    PEAKS.append(getattr(node, "workeroutput", {}).get("peak", float("nan")))


def pytest_terminal_summary(terminalreporter):
    peaks = ", ".join(f"{peak:.1f}" for peak in PEAKS or [peak_gigabytes()])
    terminalreporter.write_line(f"Peak memory of each process: {peaks} GB")


@pytest.fixture(scope="session")
def two_replicas():
    """A MirroredStrategy over the two devices.

    Every strategy numbers its collectives from the same start: a second one in this process would
    meet the first one's with other shapes and abort. Hence one for all tests, without collectives.
    """
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


@pytest.fixture(scope="module")
def biases_are_fused():
    """As in use. Without TensorFlow's remapping, which tests switch off, a padded convolution in a
    loop takes its bias before or after rounding to bfloat16: by the order in which oneDNN's pass
    meets padding and convolution, which follows from addresses in memory."""
    options = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"remapping": True})
    yield
    tf.config.optimizer.set_experimental_options({"remapping": options.get("remapping", True)})


@pytest.fixture
def recipe(monkeypatch):
    """Function that imports a recipe, or a module that recipes share, by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "recipes"))
    return importlib.import_module

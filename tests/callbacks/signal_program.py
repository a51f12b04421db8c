"""Training without TensorFlow, one kind of trouble each, for tests that send signals."""

import atexit
import ctypes
import pathlib
import sys
import time
import types

ROOT = pathlib.Path(__file__).parents[2] / "keras_mdm"
for name, folder in (("keras_mdm", ROOT), ("keras_mdm.callbacks", ROOT / "callbacks")):
    sys.modules[name] = types.ModuleType(name)  # without what the packages import
    sys.modules[name].__path__ = [str(folder)]

from keras_mdm.callbacks.signals import OrderlyStop  # noqa: E402

WHERE, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
_C = ctypes.CDLL(None)
_MUTEX = ctypes.create_string_buffer(64)


def stall(seconds=1e6):
    """Wait inside of C, so that no handler of Python runs: as in TensorFlow."""
    until = (ctypes.c_long * 2)(int(time.time() + seconds), 0)
    _C.pthread_mutex_timedlock(_MUTEX, until)


class Training:
    unsaved, between_steps = WHERE != "building", WHERE != "step"

    def rescue(self):
        time.sleep(60 if WHERE == "disk" else 2.5 if WHERE == "wakes" else 0.5)
        (FOLDER / "checkpoint").touch()

    def newest(self):
        return "step-7"


def say(text):
    print(text, flush=True)


def main():
    stall(1.0)  # and from now on it is held
    with OrderlyStop(deadline=1.0, limit=4.0) as stop:
        if WHERE != "building":
            stop.attach(Training())
        if WHERE == "writing":
            with stop.writing():
                say("ready")
                time.sleep(2.0)
                (FOLDER / "model").touch()
        elif WHERE == "python":
            say("ready")
            while stop.caught is None:
                time.sleep(0.01)
            stop.attach(None)
        elif WHERE == "wakes":
            say("ready")
            stall(3.0)
            say("went on")  # never while the checkpoint is written
        elif WHERE == "leaves":
            say("ready")
            while stop.caught is None:
                time.sleep(0.01)
            atexit.register(stall)  # as where a pipeline is waited for
        else:
            say("ready")
            stall()
        stop.check()
        say("went on")


if __name__ == "__main__":
    main()

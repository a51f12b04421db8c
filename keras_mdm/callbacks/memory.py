"""Memory of this process and of its GPUs."""

import resource
import sys
from pathlib import Path

import tensorflow as tf

STATM = Path("/proc/self/statm")


def measured() -> dict[str, float]:
    """Gigabytes in use, by tag: of the process (its peak where the system tells no more), and the
    peak of every GPU."""
    found = {"memory/process": _process() / 1e9}
    for number, device in enumerate(tf.config.list_logical_devices("GPU")):
        peak = tf.config.experimental.get_memory_info(device.name.removeprefix("/device:"))["peak"]
        found[f"memory/gpu_{number}_peak"] = peak / 1e9
    return found


def _process() -> float:
    try:
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

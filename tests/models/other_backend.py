"""What test_backends.py runs in a process of its own, under another backend of Keras.

Prints a dict: the difference of each case from TensorFlow's results, and what was refused.
"""

import json
import sys
from pathlib import Path

sys.modules["tensorflow"] = None  # as where it is not installed
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import backend_cases as cases  # noqa: E402
import backends  # noqa: E402

import keras_mdm as mdm  # noqa: E402

folder = Path(sys.argv[1])
golden = backends.read(folder / "golden.npz")
found = {"math": cases.difference(cases.mathematics(), golden["math"])}
for name in ("text", "classes", "video"):
    unet = cases.NETWORKS[name]("float32")
    unet.load_weights(folder / f"{name}.weights.h5")
    found[name] = cases.difference(cases.outputs_of(unet), golden[name])
half = cases.NETWORKS["text"]("mixed_bfloat16")
found["half"] = cases.difference(cases.outputs_of(cases.fill(half)), golden["text"])
found["refused"] = {}
for name in ("MatryoshkaDiffusion", "data"):
    try:
        getattr(mdm, name)
    except ImportError as error:
        found["refused"][name] = str(error)
print(json.dumps(found))

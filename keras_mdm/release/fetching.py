"""Presets from elsewhere: Hugging Face, and what TensorFlow's file systems reach."""

import hashlib
import os
from pathlib import Path

from keras_mdm import checks
from keras_mdm.assets.cache import cache_root, locked
from keras_mdm.files import temporary_directory
from keras_mdm.release.preset import MODEL, PRESET_FILE, model_of

HUB = "hf://"
# What a preset cannot be used without, in the order of copying.
_NEEDED = (MODEL, PRESET_FILE)


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path is an address such as `hf://user/name`.

    Example:

    >>> is_address("gs://bucket/red_apples"), is_address("runs/x")
    (True, False)
    """
    return isinstance(path, str) and "://" in path


def fetched(path: str | os.PathLike) -> Path:
    """The directory of a preset on this machine, fetched if it is elsewhere.

    Args:
        path: a directory; `hf://user/name`, with a branch, tag or commit `hf://user/name@REVISION`;
            or an address that `tf.io.gfile` reaches, such as `gs://bucket/name`.

    Raises:
        ValueError: if there is no such preset, or what reaches it is not installed.
    """
    if not is_address(path):
        return Path(path)
    address = str(path)
    return _of_hub(address) if address.startswith(HUB) else _of_store(address.rstrip("/"))


def _of_hub(address: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise checks.error(
            "presets of Hugging Face need the package huggingface_hub",
            fix="run `pip install huggingface_hub`",
            preset=address,
        ) from None
    name, _, revision = address.removeprefix(HUB).partition("@")
    if len(name.split("/")) != 2 or not all(name.split("/")):
        raise checks.error(
            "a preset of Hugging Face must be hf://USER/NAME",
            fix="pass for example hf://user/red_apples, or hf://user/red_apples@v1",
            preset=address,
        )
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=list(_NEEDED)
        )
    except Exception as problem:  # of the network, of rights, of names: the hub has many
        raise checks.error(
            "the preset must be on Hugging Face and within reach",
            fix="check the name and the network; for a private one, log in with `hf auth login`",
            preset=address,
            problem=_first_line(problem),
        ) from problem
    return Path(found)


def _of_store(address: str) -> Path:
    """Copy a preset into the cache, unless the same one is there."""
    import tensorflow as tf

    try:
        described = tf.io.gfile.GFile(f"{address}/{PRESET_FILE}", "rb").read()
    except tf.errors.OpError as problem:
        raise checks.error(
            "the address must be a preset within reach of tf.io.gfile",
            fix="check the address and your rights; hf:// and directories need no file system",
            preset=address,
            problem=_first_line(problem),
        ) from problem
    # The description holds the checksum of the model: another model, another place.
    digest = hashlib.sha256(address.encode() + described).hexdigest()[:16]
    place = cache_root() / "presets" / digest
    with locked(place.with_suffix(".lock")):
        if place.exists():
            return place
        with temporary_directory(place) as scratch:
            made = scratch / "preset"
            made.mkdir()
            for name in _NEEDED:
                if tf.io.gfile.exists(f"{address}/{name}"):
                    tf.io.gfile.copy(f"{address}/{name}", str(made / name))
            model_of(made)  # nothing damaged is kept
            os.replace(made, place)
    return place


def _first_line(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0][:200]}"

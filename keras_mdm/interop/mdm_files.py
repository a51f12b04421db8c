"""The official files: a configuration in YAML, weights in a checkpoint."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.interop.mdm_config import require_nests
from keras_mdm.interop.torch_reader import TorchFile

NETWORK, DIFFUSION = "unet_config", "diffusion_config"

# Limits of a configuration file; the released ones have some hundred values in 3 kB.
_MAX_BYTES, _MAX_VALUES = 2**20, 10_000
# Number of networks around the innermost one, by architecture.
NESTS = {"unet": 0, "nested_unet": 1, "nested2_unet": 2, "nested3_unet": 3, "nested4_unet": 4}


def read_config(config: str | os.PathLike | Mapping[str, Any]) -> dict[str, Any]:
    """Read a configuration as the official parser does.

    Args:
        config: path of a YAML file, or a mapping: the whole file's, or only the network's section.

    Returns:
        dict with `unet_config` and, if given, `diffusion_config` and all other keys of the file. If
        a section occurs twice, the last one replaces the first as a whole. Other top-level keys,
        such as `multi_res_weights`, have no effect on the network or its diffusion.

    Raises:
        ValueError: if the file does not exist, is not a YAML mapping, or has no network.

    Example:

    >>> read_config({"resolution_channels": [32, 64]})["unet_config"]
    {'resolution_channels': [32, 64]}
    """
    from_file = not isinstance(config, Mapping)
    if from_file:
        config = _read_yaml(config)
    if NETWORK not in config:
        if from_file or DIFFUSION in config:
            raise checks.error(
                f"the configuration must have a section `{NETWORK}`",
                fix="pass the file that belongs to the model, such as cc12m_64x64.yaml",
                sections=sorted(map(str, config)),
            )
        require_nests(config)
        return {NETWORK: dict(config)}
    if not isinstance(config[NETWORK], Mapping | None):
        raise checks.error(
            f"the section `{NETWORK}` must be a mapping",
            fix="pass the file that belongs to the model, such as cc12m_64x64.yaml",
            type=type(config[NETWORK]).__name__,
        )
    require_nests(config[NETWORK])
    whole = dict(config)
    whole[NETWORK] = _with_nests(whole)
    return whole


def _read_yaml(path: Any) -> Mapping[str, Any]:
    if not isinstance(path, str | os.PathLike):
        raise checks.error(
            "`config` must be a path or a mapping with the official field names",
            fix="pass the YAML file, or the network's section of it",
            type=type(path).__name__,
        )
    if not Path(path).is_file():
        raise checks.error(
            "the configuration must be a file", fix="check the path", config=str(path)
        )
    try:
        import yaml  # noqa: F401 (only checks that it is installed)
    except ImportError:
        raise checks.error(
            "reading YAML needs the package pyyaml",
            fix="run `pip install pyyaml`",
            config=str(path),
        ) from None
    try:
        found = _load_yaml(Path(path))
    # The parser raises errors of all kinds: for invalid dates, for deep nesting ...
    except MemoryError:
        raise
    except Exception as problem:
        raise checks.error(
            "the configuration must be YAML",
            fix="pass the configuration as `config`, the checkpoint as `weights`",
            config=str(path),
            problem=" ".join(str(problem).split())[:200],
        ) from None
    if not isinstance(found, Mapping):
        raise checks.error(
            "the configuration must be a mapping",
            fix="pass a model's file, such as cc12m_64x64.yaml",
            config=str(path),
            type=type(found).__name__,
        )
    return found


def _load_yaml(path: Path) -> Any:
    import yaml

    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, more than {_MAX_BYTES}")
    loader = yaml.SafeLoader(path.read_bytes())
    try:
        node = loader.get_single_node()
        _count_nodes(node, {})  # before references are followed
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _count_nodes(node: Any, counts: dict[int, int]) -> int:
    """Number of values below a node; referenced values count each time."""
    if id(node) not in counts:
        counts[id(node)] = _MAX_VALUES + 1  # until known; a node inside itself is endless
        inside = getattr(node, "value", ())
        pairs = inside if isinstance(inside, list) else ()
        children = [
            child for pair in pairs for child in (pair if isinstance(pair, tuple) else [pair])
        ]
        counts[id(node)] = 1 + sum(_count_nodes(child, counts) for child in children)
    if counts[id(node)] > _MAX_VALUES:
        raise ValueError(f"its references (&, *) expand it to more than {_MAX_VALUES} values")
    return counts[id(node)]


def _with_nests(config: Mapping[str, Any]) -> dict[str, Any]:
    """The network's section, with default inner networks if the architecture has more of them."""
    network = dict(config[NETWORK] or {})
    name = config.get("vision_model", config.get("model"))
    if name is None:
        return network
    wanted = NESTS[checks.one_of("model", name, tuple(NESTS))]
    inside, found = network, 0
    while isinstance(inside.get("inner_config"), Mapping):
        inside["inner_config"] = dict(inside["inner_config"])
        inside, found = inside["inner_config"], found + 1
    if found > wanted:
        raise checks.error(
            f"{name} has {wanted} inner networks",
            fix="correct `model`, or remove the surplus `inner_config`",
            inner_configs=found,
        )
    for _ in range(wanted - found):
        inside["inner_config"] = {}
        inside = inside["inner_config"]
    return network


def read_weights(
    weights: str | os.PathLike | Mapping[str, Any],
) -> tuple[Mapping[str, Any], TorchFile | None]:
    """Return `{official key: array}`, and the file of which the arrays are views.

    Args:
        weights: a `.pth` path, or the mapping itself.

    Raises:
        ValueError: if the file does not exist or has no state dict.
    """
    if isinstance(weights, Mapping):
        return weights, None
    if not isinstance(weights, str | os.PathLike):
        raise checks.error(
            "`weights` must be a path, or a mapping from official keys to arrays",
            fix="pass for example 'vis_model_64x64.pth'",
            type=type(weights).__name__,
        )
    file = TorchFile(weights)
    items = file.items()
    state = items.get("state_dict", items) if isinstance(items, Mapping) else None
    arrays = isinstance(state, Mapping) and all(isinstance(v, np.ndarray) for v in state.values())
    if not arrays or not state:
        raise checks.error(
            "the checkpoint must hold a `state_dict` of tensors",
            fix="pass a vis_model_*.pth file",
            weights=str(weights),
            holds=sorted(map(str, items)) if isinstance(items, Mapping) else type(items).__name__,
        )
    return state, file

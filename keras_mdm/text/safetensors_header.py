"""The header of a safetensors file: where each tensor is, checked as a whole."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_mdm import checks

# Bytes of an element by the name of its type. For others only the order in the file is checked.
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
WIDTHS |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}

# A header lists names and places; no model needs more.
LARGEST = 100 * 2**20


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor is.

    Args:
        file: the file.
        kind: type of its elements, as the format names it.
        shape: its shape.
        offset: first byte in the file.
    """

    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int


def read_header(file: Path) -> tuple[dict[str, Place], list[str]]:
    """Read where the tensors of a file are, and nothing else.

    Args:
        file: the file.

    Returns:
        (place by name, what is wrong with the file).

    Reference: the format's description, github.com/huggingface/safetensors: the tensors fill the
    file after the header without holes.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        first = stream.read(8)
        length = int.from_bytes(first, "little")
        if first.startswith(b"version"):
            return {}, [f"{file.name} is a Git LFS pointer, not the weights"]
        if len(first) < 8 or length > min(size - 8, LARGEST):
            return {}, [f"{file.name} is truncated, or not a safetensors file"]
        content = stream.read(length)
    try:
        header = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, Mapping):
        return {}, [f"{file.name} is not a safetensors file, judging by its header"]
    found, wrong, spans = {}, [], []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        span = _span(entry)
        if span is None:
            wrong.append(f"{file.name} has no type, shape or place of tensor {name}")
            continue
        begin, end = span
        shape, width = tuple(entry["shape"]), WIDTHS.get(entry["dtype"])
        if width is not None and end - begin != math.prod(shape) * width:
            wrong.append(
                f"tensor {name} takes {end - begin:,} bytes instead of the "
                f"{math.prod(shape) * width:,} of its shape {shape}"
            )
        spans.append((begin, end, name))
        found[name] = Place(file, entry["dtype"], shape, 8 + length + begin)
    wrong += _gaps(file, sorted(spans), size - 8 - length)
    return found, wrong


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _span(entry: Any) -> tuple[int, int] | None:
    """First byte and the one after the last, counted after the header; `None` if not a tensor."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("dtype"), str):
        return None
    for numbers in (entry.get("shape"), entry.get("data_offsets")):
        if not isinstance(numbers, list) or not all(checks.is_int(n) and n >= 0 for n in numbers):
            return None
    span = entry["data_offsets"]
    return tuple(span) if len(span) == 2 and span[0] <= span[1] else None


def _gaps(file: Path, spans: list[tuple[int, int, str]], size: int) -> list[str]:
    """What is wrong with the order of tensors in the `size` bytes after the header."""
    wrong, reached = [], 0
    for begin, end, name in spans:
        if begin < reached:
            wrong.append(f"tensor {name} of {file.name} overlaps another one")
        elif begin > reached:
            wrong.append(f"{file.name} has {begin - reached:,} unused bytes before {name}")
        reached = max(reached, end)
    if reached > size:
        wrong.append(f"{file.name} is truncated: {size:,} of {reached:,} bytes")
    elif reached < size:
        wrong.append(f"{file.name} has {size - reached:,} bytes more than its tensors take")
    return wrong

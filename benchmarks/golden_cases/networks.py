"""Forward passes, the results of inner parts, and the weights written back."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from golden_cases.case import Case, Check, difference, to_frames
from keras_mdm.interop import to_ml_mdm

LIMIT = 2e-5


def check(case: Case) -> Iterator[Check]:
    """Compare outputs, probes and the state dict of a network."""
    seen: dict[str, np.ndarray] = {}
    parts = probed_parts(case.unet) if case.keys("probe/") else {}
    with recording(parts, seen):
        outputs = case.unet(case.inputs)
    yield from compare_outputs(case, outputs)
    yield from compare_probes(case, seen)
    state = to_ml_mdm(case.unet)
    same_order = list(state) == list(case.model["state_dict_order"])
    yield Check("weights back", "keys in order", 0.0 if same_order else np.inf, 0.0)
    for key, value in state.items():
        constant = key.endswith("pos_emb.freqs")  # no layer of ours keeps it
        error = difference(value, case.state[key]) if key in case.state else np.inf
        yield Check("weights back", key, error, 1e-6 if constant else 0.0)


def compare_outputs(case: Case, outputs: dict) -> Iterator[Check]:
    """One check per level."""
    for index, level in enumerate(case.levels):
        error = difference(outputs[level], case.picture(f"out/{index}", index))
        yield Check("outputs", f"level {level}", error, LIMIT)


def compare_probes(case: Case, seen: dict[str, np.ndarray]) -> Iterator[Check]:
    """Stored are the first sample and, for pictures, the first 8 channels, frame by frame."""
    for key, expected in case.group("probe").items():
        if key not in seen:
            yield Check("probes", f"{key}: no such part", np.inf, LIMIT)
            continue
        actual = seen[key]
        if actual.ndim == 4:
            actual = np.moveaxis(actual, -1, 1)[:, : expected.shape[1]]
            if expected.shape[2:] != actual.shape[2:]:  # a grid of frames
                level = f"{_side(expected, actual) ** 2}x{actual.shape[2]}"
                expected = np.moveaxis(to_frames(expected, level)[0], -1, 1)
        if key.endswith("norm_out"):  # ours is fused with the activation that follows
            expected = expected / (1.0 + np.exp(-expected))
        # Unlike predictions, inner features are not of the order of 1, and float32 is as coarse as
        # the largest of them.
        largest = max(1.0, float(np.max(np.abs(expected))))
        error = difference(actual[: len(expected)], expected) / largest
        yield Check("probes", key, error, LIMIT)


def _side(expected: np.ndarray, actual: np.ndarray) -> int:
    return expected.shape[2] // actual.shape[2]


def probed_parts(unet: Any) -> dict[str, Any]:
    """Our layers by the names of the official modules with the same result."""
    found, prefix = {}, ""
    for index in reversed(range(len(unet.levels))):
        name = unet.levels[index]
        embedding = unet.parts[f"level_{name}_embedding"]
        down = unet.parts[f"level_{name}_down" if index else f"level_{name}"]
        up = unet.parts[f"level_{name}_up"] if index else down
        found[f"{prefix}temb_layer2"] = embedding.time_embedding.dense2
        for micro, layer in embedding.micro_layers.items():
            found[f"{prefix}cond_layers.{micro}.1"] = layer.dense2
        found |= {f"{prefix}conv_in": down.conv_in, f"{prefix}norm_out": up.norm_out}
        last = len(down.down) - 1
        for number in range(last + 1):
            way_down = down.down_resample[number] if number < last else down.down[number]
            way_up = up.up_resample[last - number - 1] if number < last else up.up[0]
            found[f"{prefix}down_blocks.{number}"] = way_down
            found[f"{prefix}up_blocks.{number}"] = way_up
        if index:
            found[f"{prefix}in_adapter"] = down.in_adapter
            found[f"{prefix}out_adapter"] = up.out_adapter
        elif down.use_mid_block:
            found[f"{prefix}mid_blocks.0"] = down.mid_attention
            found[f"{prefix}mid_blocks.1"] = down.mid_block_1
        text = None if index else unet.parts.get("text_conditioning")
        if text is not None:
            found[f"{prefix}cond_emb"] = text.pooled
            if text.project is not None:
                found[f"{prefix}lm_proj"] = text.project
            found |= {f"{prefix}lm_head.{k}": block for k, block in enumerate(text.attention)}
        prefix += "inner_unet."
    return found


class recording:  # noqa: N801 (a context manager, used like a function)
    """While active, keeps the result of every layer under its name."""

    def __init__(self, parts: dict[str, Any], seen: dict[str, np.ndarray]):
        self._parts, self._seen = parts, seen

    def __enter__(self) -> None:
        for name, layer in self._parts.items():
            layer.call = self._keeping(name, layer.call)

    def __exit__(self, *_: Any) -> None:
        for layer in self._parts.values():
            del layer.call  # the class's own takes effect again

    def _keeping(self, name: str, call: Callable) -> Callable:
        @functools.wraps(call)
        def keep(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            # A stage returns its state after every ResBlock.
            last = result[-1] if isinstance(result, list) else result
            self._seen[name] = np.asarray(last)
            return result

        return keep

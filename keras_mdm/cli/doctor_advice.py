"""What `keras-mdm doctor` knows of the machine without TensorFlow, and what it recommends."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Flags of processors that multiply bfloat16 in hardware: x86, then Arm.
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16")
AMPERE = [8, 0]  # the first GPUs with bfloat16 and TF32


def host() -> dict[str, Any]:
    """Processor, memory and NVIDIA's driver."""
    lines = _lines("/proc/cpuinfo")
    pairs = (line.partition(":") for line in lines)
    values = {name.strip(): value.strip() for name, _, value in pairs}
    flags = f"{values.get('flags', '')} {values.get('Features', '')}".split()
    memory = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "system": platform.platform(),
        "processor": values.get("model name") or platform.processor() or platform.machine(),
        "cores": _cores(),
        "memory_gib": round(int(memory[0]) / 2**20, 1) if memory else None,
        "bfloat16_in_hardware": [flag for flag in BFLOAT16_FLAGS if flag in flags],
        "nvidia": nvidia(),
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text().splitlines() if path.exists() else []


def nvidia() -> dict[str, Any] | None:
    """Driver and GPUs as NVIDIA's own tool lists them; `None` without it."""
    query = "--query-gpu=name,driver_version,memory.total"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return {"driver": None, "gpus": [], "message": done.stdout.strip() or done.stderr.strip()}
    lines = [line for line in done.stdout.splitlines() if line.count(",") == 2]
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    if not rows:
        return {"driver": None, "gpus": [], "message": done.stdout.strip() or "it lists nothing"}
    return {"driver": rows[0][1], "gpus": [f"{name}, {memory}" for name, _, memory in rows]}


def policy(host: Mapping[str, Any], machine: Mapping[str, Any]) -> tuple[str, str]:
    """The dtype policy to train and sample with here, and why.

    Args:
        host: from `host`.
        machine: from `doctor_trials.machine`.

    Returns:
        (name of the policy, reason).
    """
    if machine["gpus"]:
        oldest = min(gpu["compute_capability"] or [0, 0] for gpu in machine["gpus"])
        if oldest >= AMPERE:
            return "mixed_bfloat16", "the GPUs multiply bfloat16 in hardware"
        if oldest >= [7, 0]:
            return "mixed_float16", "the GPUs have tensor cores for float16 but none for bfloat16"
        return "float32", "the GPUs have no tensor cores"
    if host["bfloat16_in_hardware"]:
        return "mixed_bfloat16", "the processor multiplies bfloat16 in hardware"
    return "float32", "the processor has no bfloat16, and would convert every number"


def advice(
    host: Mapping[str, Any], machine: Mapping[str, Any] | None, trials: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What to do, in sentences.

    Args:
        host: from `host`.
        machine: from `doctor_trials.machine`, or `None` if TensorFlow could not be imported.
        trials: results of the trials.
    """
    if machine is None:
        return ["Reinstall TensorFlow: it cannot be imported. The error is above."]
    found, card = [], host["nvidia"]
    if card and not card["driver"]:
        found.append("Repair NVIDIA's driver: nvidia-smi fails.")
    if card and card["driver"] and not machine["gpus"]:
        what = "Install CUDA's libraries: pip install 'tensorflow[and-cuda]>=2.21,<2.22'."
        if machine["built_with_cuda"]:
            what += " If it stays so, unset CUDA_VISIBLE_DEVICES and LD_LIBRARY_PATH."
        found.append(f"TensorFlow sees none of the GPUs that the driver lists. {what}")
    name, why = policy(host, machine)
    given = ", with Adam(loss_scale='dynamic')" if name == "mixed_float16" else ""
    found.append(f'Build networks with dtype="{name}"{given}: {why}.')
    if machine["tf32"]:
        found.append(
            "float32 products are rounded to TF32 on these GPUs. To compare numbers, call "
            "tf.config.experimental.enable_tensor_float_32_execution(False)."
        )
    if machine["gpus"] and not machine["memory_growth"]:
        found.append(
            "TensorFlow takes all memory of a GPU when it starts. Set TF_FORCE_GPU_ALLOW_GROWTH="
            "true if other programs share it."
        )
    if not machine["gpus"]:
        found.append("Leave jit_compile off: on a CPU, XLA is slower (docs/performance.md).")
    for trial in trials:
        if trial["result"] == "failed":
            instead = _INSTEAD.get(trial["trial"], "Report it with the output of --json.")
            found.append(f"{trial['title']} fails. {instead}")
    return found


_INSTEAD = {
    "train-bfloat16": 'Train with dtype="float32".',
    "train-float16": 'Train with dtype="float32".',
    "train-xla": "Leave jit_compile off in `compile`.",
    "sample-xla": "Leave jit_compile off in `generate`.",
    "replicas": "Train on one GPU (CUDA_VISIBLE_DEVICES=0), and check NCCL.",
}

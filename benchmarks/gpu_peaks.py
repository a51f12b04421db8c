"""What GPUs compute at most in large matrix products, by their makers' data sheets."""

import re

# TFLOP/s without sparsity: (TF32, bfloat16 with float32 accumulation). Names are whole words, and
# a longer one comes first.
PEAKS = {
    "H200": (494.7, 989.4),
    "H100 PCIe": (378.0, 756.0),
    "H100 NVL": (417.5, 835.0),
    "H100": (494.7, 989.4),
    "A100": (156.0, 312.0),
    "A10G": (35.0, 70.0),
    "A10": (62.5, 125.0),
    "A40": (74.8, 149.7),
    "RTX A6000": (77.4, 154.8),
    "L40S": (183.0, 362.0),
    "L40": (90.5, 181.0),
    "L4": (60.0, 121.0),
    "RTX 4090": (82.6, 165.2),
    "RTX 3090": (35.6, 71.0),
}


def peak_gflops(device: str, dtype: str) -> float | None:
    """The peak of a device in GFLOP/s; `None` if it is not in the table, as CPUs.

    Args:
        device: its name, such as "NVIDIA A100-SXM4-80GB".
        dtype: "float32", which TensorFlow computes as TF32 there, or "mixed_bfloat16".
    """
    for name, (tf32, bfloat16) in PEAKS.items():
        if re.search(rf"\b{name}\b", device):
            return 1e3 * (tf32 if dtype == "float32" else bfloat16)
    return None

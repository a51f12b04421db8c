"""Names of curves in TensorBoard, which groups them by the part before the first slash."""

from collections.abc import Mapping

GROUPS = {
    "learning_rate": "optimizer",
    "gradient_norm": "optimizer",
    "ema_gap": "optimizer",
    "images_per_second": "speed",
    "tflops": "speed",
}
NOISE = "/noise_"

# Panels of the custom scalars page, in order: category, panel, pattern of tags. The last category
# is closed, as its panels are empty unless a run measures these.
MEASURED = "Held-out data, noise quarters, distances"
LAYOUT = (
    ("Loss", "by level", r"^loss/"),
    ("Loss", "phase", r"^run/phase$"),
    ("Optimizer", "learning rate", r"^optimizer/learning_rate$"),
    ("Optimizer", "gradient norm", r"^optimizer/gradient_norm$"),
    ("Speed and memory", "images per second", r"^speed/images_per_second$"),
    ("Speed and memory", "memory, GB", r"^memory/"),
    (MEASURED, "loss on held-out data", r"^validation/"),
    (MEASURED, "loss by level and noise quarter", r"^loss_by_noise/"),
    (MEASURED, "distances", r"^evaluation/"),
)


def tag_of(name: str) -> str:
    """The tag of a value that logs, validation or diagnostics name.

    Args:
        name: such as "loss", "loss_64", "validation_loss_64", "loss_64/noise_1", "learning_rate".

    Returns:
        "loss/all", "loss/64", "validation/64", "loss_by_noise/64/quarter 1",
        "optimizer/learning_rate"; a name in a group of its own stays.
    """
    if name in GROUPS:
        return f"{GROUPS[name]}/{name}"
    group, rest = "loss", name
    if name.startswith("validation_"):
        group, rest = "validation", name.removeprefix("validation_")
    if rest == "loss":
        return f"{group}/all"
    if not rest.startswith("loss_"):
        return name
    level, noise, quarter = rest.removeprefix("loss_").partition(NOISE)
    return f"loss_by_noise/{level}/quarter {quarter}" if noise else f"{group}/{level}"


def tagged(values: Mapping[str, float]) -> dict[str, float]:
    """The values under their tags."""
    return {tag_of(name): value for name, value in values.items()}

"""Noise schedules: tables, shifts, weights of the variational bound, lists of time steps."""

from collections.abc import Iterator

import numpy as np

from golden_cases.case import Case, Check, difference
from keras_mdm.diffusion import schedules, time_grid
from keras_mdm.diffusion.losses import vdm_table
from keras_mdm.interop.mdm_diffusion import SCHEDULES

LIMIT = 1e-6  # relative


def check(case: Case) -> Iterator[Check]:
    """Compare everything that is stored about schedules.

    The release rounds its tables to float32 before it derives anything from them, so alpha, sigma
    and shifts are compared from the rounded table.
    """
    for entry in case.settings["tables"]:
        name, steps = entry["name"], entry["steps"]
        options = {k: entry[k] for k in ("beta_start", "beta_end") if k in entry}
        exact = schedules.get(SCHEDULES[entry["schedule_type"]], steps, **options)
        schedule = exact.rounded()
        yield _compare(f"{name}: gamma", exact.table(), case[f"{name}/gamma"])
        alpha, sigma = schedule.alpha_sigma(np.arange(steps + 1) / steps)
        yield _compare(f"{name}: alpha", alpha, case[f"{name}/alpha"])
        yield _compare(f"{name}: sigma", sigma[1:], case[f"{name}/sigma"][1:])
        yield Check("schedules", f"{name}: sigma at 0", float(case[f"{name}/sigma"][0]), 0.0)
        for scale, power in entry.get("shifts", ()):
            stem = f"{name}/shift_{scale}_power_{power}"
            shifted = schedule.shifted(scale, power)
            for quantity, value in _shifted(shifted, steps).items():
                if f"{stem}/{quantity}" in case:
                    expected = case[f"{stem}/{quantity}"]
                    label = f"{name}: {quantity} shifted by {scale}^{power}"
                    # The release rounds the shifted table too, then takes 1 - gamma.
                    rounding = 2.0**-24 / (1.0 - shifted.table()[1:]) * (quantity == "sigma")
                    yield _compare(label, value[1:], expected[1:], rounding)
        if f"{name}/vdm_loss_weights" in case:
            # The release's float32 keeps five digits of a ratio of neighbours minus one.
            expected = case[f"{name}/vdm_loss_weights"]
            error = np.max(np.abs(vdm_table(schedule) / expected - 1.0))
            yield Check("VDM weights", name, error, 5e-5)
    for steps, count in case.settings.get("timesteps", ()):
        expected = case[f"timesteps/N{steps}_K{count}"]
        found = np.round(np.array(time_grid("release", count, steps)) * steps)
        yield Check("schedules", f"{count} of {steps} steps", difference(found, expected), 0.0)


def _shifted(schedule, steps: int) -> dict[str, np.ndarray]:
    alpha, sigma = schedule.alpha_sigma(np.arange(steps + 1) / steps)
    return {"gamma": schedule.table(), "alpha": np.asarray(alpha), "sigma": np.asarray(sigma)}


def _compare(name: str, actual, expected, rounding=0.0) -> Check:
    """Largest relative difference beyond the float32 rounding of the stored values."""
    ratio = np.asarray(actual, "float64") / np.asarray(expected, "float64")
    error = np.maximum(np.abs(ratio - 1.0) - rounding, 0.0)
    return Check("schedules", name, float(np.max(error)), LIMIT)

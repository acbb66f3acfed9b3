"""Mask by a network, from the magnitude."""

from collections.abc import Callable

import numpy as np

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.morphology import fill_holes, largest_component
from qsm_runtime.mask.threshold import combined_signal, eroded
from qsm_runtime.networks.runtime import Runtime


def network(
    magnitude: np.ndarray,
    phase_rad: np.ndarray,
    grid: Grid,
    *,
    model: str = "",
    probability: float = 0.5,
    erode_mm: float = 0.0,
    runtime: Runtime | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """The largest connected part of what the network finds, holes filled: bool (x, y, z).

    magnitude    float32 (echo, x, y, z), any unit; the echoes are combined by the root of their sum of squares
    model        name of a network on the search path, or the path of its card; must be given
    probability  from which a voxel belongs to the mask, 0..1; where the network gives classes, any but the first
    erode_mm     how far the surface is moved inwards at the end, >= 0
    Raises UsageError, InputError, ModelError, DeviceError, ReconstructionError where nothing is left.
    """
    from qsm_runtime.networks import choice, run

    found, runtime = choice.choose("mask", model, runtime)
    arrays = {"magnitude": combined_signal(magnitude, grid)}
    if "wrapped_phase" in found.card.takes:
        arrays["wrapped_phase"] = np.ascontiguousarray(phase_rad[0])

    def by_network(fallback: str) -> np.ndarray:
        made = run.run(found, arrays, None, grid, runtime=runtime, known=run.Known(), fallback=fallback, record=record)
        classes = made.values.get("probability", made.values.get("mask"))
        if classes is None:
            raise ReconstructionError(f"network {model} gave no mask")
        inside = classes.argmax(0) > 0 if len(classes) > 1 else classes[0] > probability
        mask = fill_holes(largest_component(inside))
        if not mask.any():
            raise ReconstructionError(f"network {model} found nothing; give a mask, or take another method")
        return eroded(mask, grid, erode_mm)

    return run.or_fallback("mask", runtime, by_network, (magnitude, phase_rad, grid), {}, record)

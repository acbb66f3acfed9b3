"""What every method of background removal asks of its input, and the refusal of an empty result."""

import numpy as np

from qsm_runtime.errors import InputError, ReconstructionError, UsageError
from qsm_runtime.grid import Grid


def masked_field(total_ppm: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """The field in the mask less its mean, zero outside: new contiguous float32 array.

    The mean is background to every method; without it more of float32's digits are left for the rest.
    Raises ShapeError, InputError where a masked voxel is not finite, ReconstructionError where the mask is empty.
    """
    grid.check(total_ppm, "total_ppm")
    grid.check(mask, "mask")
    if not mask.any():
        raise ReconstructionError("the mask is empty: give a mask that covers the object")
    mean = float(total_ppm.mean(where=mask, dtype=np.float64))
    if not np.isfinite(mean):
        bad = int(np.count_nonzero(~np.isfinite(total_ppm) & mask))
        raise InputError(
            f"total_ppm is not finite in {bad} voxel(s) of the mask: repair them or take them out of the mask"
        )
    return np.where(mask, total_ppm - np.float32(mean), np.float32(0)).astype(np.float32, copy=False)


def voxels_of(length_mm: float, grid: Grid) -> tuple[int, int, int]:
    """Voxels along each axis that make up at least `length_mm`."""
    x, y, z = (int(np.ceil(length_mm / v)) for v in grid.voxel_mm)
    return x, y, z


def refuse_empty(valid: np.ndarray, method: str, radius_mm: float) -> None:
    """Raise ReconstructionError where nothing is left of the mask after erosion by `radius_mm`."""
    if not valid.any():
        raise ReconstructionError(
            f"{method}: no voxel of the mask is {radius_mm:g} mm from its edge; use a smaller radius or a larger mask"
        )


def require(condition: bool, name: str, needed: str, value: object) -> None:
    """Raise UsageError that names the option, what it must be and what it was."""
    if not condition:
        raise UsageError(f"{name} must be {needed}, got {value}")

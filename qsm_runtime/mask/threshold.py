"""Mask of an object by its signal: a robust threshold, the largest part, holes filled, eroded in mm.

The threshold is a share of the object's median signal and never within the noise: air's magnitude is
Rayleigh-distributed, and 3 times its median is exceeded by 2 in 1000 voxels.
"""

import numpy as np

from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.distance import distance_outside
from qsm_runtime.kernels.morphology import fill_holes, largest_component
from qsm_runtime.kernels.signal import combine_magnitude

FAINT = 0.1  # of the 98th percentile: what counts as object for its median (Smith 2002, 10.1002/hbm.10062)
NOISE_MEDIANS = 3.0


def threshold(
    magnitude: np.ndarray, phase_rad: np.ndarray, grid: Grid, *, fraction: float = 0.2, erode_mm: float = 0.0
) -> np.ndarray:
    """Largest connected part with signal, for phantoms, organs and brains already cut out.

    magnitude: float32 (echo, x, y, z), any unit; phase_rad: not used.
    fraction: of the object's median signal (root sum of squares over echoes), 0..1.
    erode_mm: how far the surface is moved inwards at the end, >= 0.
    Returns a bool mask (x, y, z). Raises ReconstructionError where nothing is left.
    """
    combined = combined_signal(magnitude, grid)
    mask = fill_holes(largest_component(combined > signal_threshold(combined, fraction)))
    return eroded(mask, grid, erode_mm)


def combined_signal(magnitude: np.ndarray, grid: Grid) -> np.ndarray:
    """Root of the sum of squares over echoes, float32 (x, y, z), of a checked magnitude."""
    if magnitude.ndim != 4 or magnitude.shape[1:] != grid.shape:
        raise ShapeError(f"magnitude has shape {magnitude.shape}, expected (echoes, {', '.join(map(str, grid.shape))})")
    return combine_magnitude(np.ascontiguousarray(magnitude, np.float32))


def signal_threshold(combined: np.ndarray, fraction: float) -> float:
    """The combined signal below which a voxel is empty; `fraction` of the object's median, above the noise."""
    if not 0 <= fraction < 1:
        raise UsageError(f"fraction must lie in [0, 1), got {fraction}")
    steps = tuple(slice(None, None, 2 if n > 64 else 1) for n in combined.shape)
    sample = combined[steps].ravel()
    positive = sample[sample > 0]
    if positive.size == 0:
        raise ReconstructionError(
            "the magnitude is zero everywhere: no mask can be drawn from it; give one with --mask"
        )
    typical = float(np.median(positive[positive > FAINT * np.percentile(positive, 98)]))
    level = fraction * typical
    empty = positive[positive < level]
    noise = NOISE_MEDIANS * float(np.median(empty)) if empty.size else 0.0
    return max(level, min(noise, 0.5 * typical))


def eroded(mask: np.ndarray, grid: Grid, erode_mm: float) -> np.ndarray:
    """The mask's voxels farther than `erode_mm` from its surface; the edge of the field of view is no surface."""
    if not (np.isfinite(erode_mm) and erode_mm >= 0):
        raise UsageError(f"erode_mm must be a length >= 0, got {erode_mm}")
    if erode_mm > 0:
        mask = distance_outside(~mask, grid.voxel_mm) > erode_mm
    if not mask.any():
        raise ReconstructionError("no voxel is left in the mask; lower its thresholds or erode_mm, or give --mask")
    return mask

"""Mask of what carries trustworthy phase: signal, and wrapped phase that runs straight over its neighbours.

The second difference of the wrapped phase needs no unwrapping and is the quality measure behind best-path
(Abdul-Rahman 2007, 10.1364/AO.46.006623) and ROMEO's phase linearity (Dymerska 2021, 10.1002/mrm.28563).
"""

import numpy as np

from qsm_runtime.errors import ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.morphology import dilate, erode, fill_holes, largest_component
from qsm_runtime.kernels.signal import phase_quality
from qsm_runtime.mask.threshold import combined_signal, eroded, signal_threshold


def quality(
    magnitude: np.ndarray,
    phase_rad: np.ndarray,
    grid: Grid,
    *,
    min_quality: float = 0.5,
    fraction: float = 0.1,
    erode_mm: float = 0.0,
) -> np.ndarray:
    """Largest connected part whose phase can be trusted, for any object.

    magnitude, phase_rad: float32 (echo, x, y, z), any unit and rad (wrapped).
    min_quality: 0..1; noise has about 0, tissue at a signal-to-noise ratio of 10 about 0.9.
    fraction: of the object's median signal under which a voxel is empty, 0..1.
    erode_mm: how far the surface is moved inwards at the end, >= 0.
    Returns a bool mask (x, y, z). Raises ReconstructionError where nothing is left.
    """
    combined = combined_signal(magnitude, grid)
    signal = combined > signal_threshold(combined, fraction)
    trusted = signal & (checked_quality(magnitude, phase_rad, signal, min_quality) >= min_quality)
    # closing joins what single noisy voxels took apart, before the largest part is chosen
    reach = 1.01 * min(grid.voxel_mm)
    mask = fill_holes(largest_component(erode(dilate(trusted, reach, grid.voxel_mm), reach, grid.voxel_mm) & signal))
    return eroded(mask, grid, erode_mm)


def checked_quality(magnitude: np.ndarray, phase_rad: np.ndarray, signal: np.ndarray, min_quality: float) -> np.ndarray:
    """Phase quality (float32, x, y, z; 1 is best) of checked input, to be compared with `min_quality`.

    Zero where `signal` (bool, x, y, z) is False.
    """
    if not 0 <= min_quality <= 1:
        raise UsageError(f"min_quality must lie in [0, 1], got {min_quality}")
    if phase_rad.shape != magnitude.shape:
        raise ShapeError(f"phase has shape {phase_rad.shape}, magnitude {magnitude.shape}: they must be the same")
    return phase_quality(
        np.ascontiguousarray(phase_rad, np.float32), np.ascontiguousarray(magnitude, np.float32), signal
    )

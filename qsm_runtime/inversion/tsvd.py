"""Truncated singular value decomposition: the cone around the magic angle is left out.

Source: Wharton 2010, 10.1002/mrm.22334; strength correction Schweser 2013, 10.1002/mrm.24405.
H = 1/D where |D| > delta, 0 elsewhere;  chi = F^-1 (H F f) / mean(D H).
"""

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import Strength, invert
from qsm_runtime.kernels import inverse_filters


def tsvd(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    threshold: float = 0.15,
    strength: Strength = "corrected",
) -> np.ndarray:
    """Susceptibility by truncated k-space division.

    local_ppm  float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask       bool (x, y, z)
    threshold  delta, above 0 and below 2/3 (the largest |D|)
    strength   "corrected" by 1 / mean(D H), or as "filtered": weaker, and quieter
    Returns float32 (x, y, z) in ppm, zero outside the mask; its mean over the padded box is zero, as D(0) = 0.
    Raises UsageError, ShapeError, ReconstructionError (empty mask).
    """
    if not 0 < threshold < 2 / 3:
        raise UsageError(f"tsvd: threshold must lie between 0 and 2/3, got {threshold}")

    def inverse(dipole: np.ndarray, scale: float, last_size: int) -> float:
        return inverse_filters.threshold(dipole, threshold, 0, scale, last_size)

    return invert(local_ppm, mask, grid, inverse, strength)

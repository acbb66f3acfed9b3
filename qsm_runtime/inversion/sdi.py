"""Superfast dipole inversion: division with a continuous taper into the cone, and the strength corrected.

    H = 1/D where |D| > delta, D/delta^2 inside the cone;   chi = F^-1 (H F f) / mean(D H)

From Schweser 2013, 10.1002/mrm.24405: inversion in one multiplication, and the division by mean(D H) that gives back
the strength which any such H takes from a point source. The taper is a choice made here, not taken from that paper:
continuous at |D| = delta and 0 where D is 0, where a sign would jump.
"""

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import invert
from qsm_runtime.kernels import inverse_filters


def sdi(local_ppm: np.ndarray, mask: np.ndarray, grid: Grid, *, threshold: float = 0.1) -> np.ndarray:
    """Susceptibility by tapered k-space division.

    local_ppm  float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask       bool (x, y, z)
    threshold  delta, above 0 and below 2/3 (the largest |D|)
    Returns float32 (x, y, z) in ppm, zero outside the mask; its mean over the padded box is zero, as D(0) = 0.
    Raises UsageError, ShapeError, ReconstructionError (empty mask).
    """
    if not 0 < threshold < 2 / 3:
        raise UsageError(f"sdi: threshold must lie between 0 and 2/3, got {threshold}")

    def inverse(dipole: np.ndarray, scale: float, last_size: int) -> float:
        return inverse_filters.threshold(dipole, threshold, 2, scale, last_size)

    return invert(local_ppm, mask, grid, inverse)

"""In-painting of voxels whose field is not to be trusted, before the background is removed.

An outlier of a few tenths of a ppm is a strong local source to every method, and streaks through the inversion. Most
of the total field is background, which is harmonic, so the harmonic function that continues the trusted neighbours
is the guess that adds no source:

    Laplacian f = 0   in untrusted voxels,   f = the total field in the trusted ones around them
"""

import numpy as np

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.inpaint import inpaint


def repair(total_ppm: np.ndarray, mask: np.ndarray, grid: Grid, *, reliability: np.ndarray) -> np.ndarray:
    """The field with untrusted voxels of the mask replaced: new float32 (x, y, z), zero outside the mask.

    total_ppm    float32 (x, y, z), total field in ppm; what untrusted voxels hold does not matter, NaN included
    mask         bool (x, y, z)
    reliability  float32 (x, y, z), inverse noise level in 1/ppm; 0, or not finite, marks a voxel not to be trusted
    Raises ReconstructionError where no voxel of the mask can be trusted.
    """
    for array, name in ((total_ppm, "total_ppm"), (mask, "mask"), (reliability, "reliability")):
        grid.check(array, name)
    trusted = mask & np.isfinite(reliability) & (reliability > 0) & np.isfinite(total_ppm)
    if not trusted.any():
        raise ReconstructionError("no voxel of the mask has a field that can be trusted: check phase and echo times")
    return inpaint(total_ppm, trusted, mask & ~trusted, grid.voxel_mm)

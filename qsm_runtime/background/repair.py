"""In-painting of voxels whose field is not to be trusted, before the background is removed.

An outlier of a few tenths of a ppm is a strong local source to every method, and streaks through the inversion. Most
of the total field is background, which is harmonic, so the harmonic function that continues the trusted neighbours
is the guess that adds no source:

    Laplacian f = 0   in untrusted voxels,   f = the total field in the trusted ones around them
"""

import numpy as np
from scipy.ndimage import distance_transform_edt

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.laplacian import minus_laplacian
from qsm_runtime.kernels.poisson import PoissonSolver


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
    field = np.where(trusted, total_ppm, 0).astype(np.float32)
    untrusted = mask & ~trusted
    if not untrusted.any():
        return field
    # at the mask's edge there is nothing to continue from: outside counts what the nearest trusted voxel has
    nearest = distance_transform_edt(~trusted, sampling=grid.voxel_mm, return_distances=False, return_indices=True)
    padded = np.pad(field[tuple(nearest)], 1, mode="edge")
    unknown = np.pad(untrusted, 1)
    start = minus_laplacian(padded, unknown, grid.voxel_mm)
    correction, _ = PoissonSolver(unknown, grid.voxel_mm).solve(-start, tolerance=1e-5)
    return np.where(mask, (padded + correction)[1:-1, 1:-1, 1:-1], np.float32(0))

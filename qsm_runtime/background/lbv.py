"""LBV: the background is harmonic in the mask and taken equal to the total field on the mask's boundary.

Zhou 2014, 10.1002/nbm.3064

    Laplacian f_local = Laplacian f   in the mask,   f_local = 0   on its boundary voxels
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.background.masked import masked_field, refuse_empty, require
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.poisson import PoissonSolver, minus_laplacian
from qsm_runtime.kernels.sphere import six_neighbours


def lbv(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    peel_mm: float = 0.0,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm (float32) and the voxels where it is valid: the mask without its boundary voxels.

    total_ppm       float32 (x, y, z), total field in ppm
    mask            bool (x, y, z)
    peel_mm         eroded from the mask first, where its edge carries a field that cannot be trusted
    tolerance       relative residual at which the solver stops
    max_iterations  multigrid cycles at most
    """
    require(peel_mm >= 0, "peel_mm", "0 or more", peel_mm)
    require(0 < tolerance < 1, "tolerance", "between 0 and 1", tolerance)
    require(max_iterations >= 1, "max_iterations", "1 or more", max_iterations)
    field = masked_field(total_ppm, mask, grid)
    core = distance_inside(mask, grid.voxel_mm) > peel_mm
    valid = six_neighbours(core)
    refuse_empty(valid, "LBV", peel_mm)
    rhs = minus_laplacian(field, valid, grid.voxel_mm)
    solver = PoissonSolver(valid, grid.voxel_mm)
    local, _ = solver.solve(rhs, tolerance=tolerance, max_iterations=max_iterations, progress=progress)
    return local, valid

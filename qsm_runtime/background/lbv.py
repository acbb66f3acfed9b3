"""LBV: the background is harmonic in the mask, so it is known once it is known on the mask's boundary.

Zhou 2014, 10.1002/nbm.3064

    Laplacian (f - f_local) = 0 in the mask,   f_local = b on its boundary voxels

Zhou takes b = 0. Here b is the field of the sources that the solution so far shows (see sources.py), and the equation
is solved again. The Laplacian is fourth order (nineteen points) where the mask holds them all and seven points at its
edge; multigrid solves the seven-point equation for the correction.
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.background.masked import Masked, refuse_empty, require
from qsm_runtime.background.sources import Sources, sources_box
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.laplacian import minus_laplacian_fourth_order
from qsm_runtime.kernels.poisson import PoissonSolver
from qsm_runtime.kernels.sphere import six_neighbours


def lbv(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    peel_mm: float = 0.0,
    source_passes: int = 3,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm (float32) and the voxels where it is valid: the mask without its boundary voxels.

    total_ppm       float32 (x, y, z), total field in ppm
    mask            bool (x, y, z)
    peel_mm         eroded from the mask first, where its edge carries a field that cannot be trusted
    source_passes   times the boundary is taken from the sources found so far; 0 is Zhou's method
    tolerance       relative residual at which the solver stops, in each pass
    max_iterations  multigrid cycles at most, in each pass
    """
    require(peel_mm >= 0, "peel_mm", "0 or more", peel_mm)
    require(source_passes >= 0, "source_passes", "0 or more", source_passes)
    require(0 < tolerance < 1, "tolerance", "between 0 and 1", tolerance)
    require(max_iterations >= 1, "max_iterations", "1 or more", max_iterations)
    masked = Masked(total_ppm, mask, grid)
    field, mask, grid = masked.field, masked.mask, masked.grid
    core = distance_inside(mask, grid.voxel_mm, peel_mm) > peel_mm if peel_mm else mask
    valid = six_neighbours(core)
    refuse_empty(valid, "LBV", peel_mm + max(grid.voxel_mm))
    solver = PoissonSolver(valid, grid.voxel_mm)
    sources = Sources(core, grid, sources_box(core, grid)) if source_passes else None

    local, known = np.zeros_like(field), np.zeros_like(field)
    for done in range(source_passes + 2):  # the second solve is for the order of the stencil
        if sources is not None and done > 1:
            found = sources.field_of(local)
            local += found - known
            known = found
        rhs = minus_laplacian_fourth_order(field - local, valid, core, grid.voxel_mm)
        local += solver.solve(rhs, tolerance=tolerance, max_iterations=max_iterations)[0]
        if progress is not None:
            progress((done + 1) / (source_passes + 2))
    return masked.restore(local, valid)

"""iSMV: the background is its own spherical mean inside the mask, and the total field in a shell at its edge.

Wen 2014, 10.1002/mrm.24998

    f_B <- M S f_B + (1 - M) f      M: voxels whose ball lies in the mask; until f_B stands still
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from qsm_runtime.background.masked import Masked, refuse_empty, require, voxels_of
from qsm_runtime.background.sources import ERODED_MARGIN_MM, with_sources
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import box_of, embed, extract
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.laplacian import minus_laplacian
from qsm_runtime.kernels.poisson import PoissonSolver
from qsm_runtime.kernels.sphere import multiply_quadrant, sphere_fits, sphere_quadrant


def ismv(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    radius_mm: float = 5.0,
    tolerance: float = 1e-3,
    max_iterations: int = 200,
    source_passes: int = 1,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm (float32) and the voxels where it is valid: those `radius_mm` inside the mask.

    total_ppm       float32 (x, y, z), total field in ppm
    mask            bool (x, y, z)
    radius_mm       radius of the ball
    tolerance       stops when a step changes the background by less than this, relative to the field's norm
    max_iterations  steps at most, in each pass
    source_passes   repetitions that give the sources' own smooth field back (sources.py); 0 is the paper's method
    """
    require(radius_mm > 0, "radius_mm", "above 0", radius_mm)
    require(0 < tolerance < 1, "tolerance", "between 0 and 1", tolerance)
    require(max_iterations >= 1, "max_iterations", "1 or more", max_iterations)
    require(source_passes >= 0, "source_passes", "0 or more", source_passes)
    masked = Masked(total_ppm, mask, grid)
    field, mask, grid = masked.field, masked.mask, masked.grid
    valid = sphere_fits(mask, distance_inside(mask, grid.voxel_mm, radius_mm), grid.voxel_mm, radius_mm)
    refuse_empty(valid, "iSMV", radius_mm)

    box = box_of(mask, voxels_of(max(radius_mm + max(grid.voxel_mm), ERODED_MARGIN_MM), grid))
    plan = fft.plan(box.fft_shape)
    mean = sphere_quadrant(plan.shape, grid.voxel_mm, radius_mm, plan.scale)
    solver = PoissonSolver(valid, grid.voxel_mm)
    background = plan.new_real()

    def remove(field: np.ndarray) -> np.ndarray:
        # the harmonic field with the same shell is all but the fixed point: a start that saves most of the steps
        local, _ = solver.solve(minus_laplacian(field, valid, grid.voxel_mm), tolerance=1e-3)
        embed(field - local, box, background)
        enough = tolerance * float(np.linalg.norm(field[mask]))
        for step in range(max_iterations):
            multiply_quadrant(plan.forward(background), mean, plan.spectrum)
            change = float(np.sqrt(_replace(background, plan.inverse(), valid).sum()))
            if progress is not None:
                progress((step + 1) / max_iterations)
            if change <= enough:
                break
        return field - extract(background, box, grid.shape)

    local = with_sources(remove, field, mask, grid, source_passes, box)
    return masked.restore(local, valid)


@njit(parallel=True, cache=True)
def _replace(x, y, mask):
    """x = y in the mask (in the low corner of both), in place; returns the squared change, summed over each plane."""
    changes = np.zeros(mask.shape[0])
    for i in prange(mask.shape[0]):
        change = 0.0
        for j in range(mask.shape[1]):
            for k in range(mask.shape[2]):
                if mask[i, j, k]:
                    change += (np.float64(y[i, j, k]) - x[i, j, k]) ** 2
                    x[i, j, k] = y[i, j, k]
        changes[i] = change
    return changes

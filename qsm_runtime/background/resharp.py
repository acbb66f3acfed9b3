"""RESHARP: SHARP as a regularised least-squares problem instead of a truncated deconvolution.

Sun 2014, 10.1002/mrm.24765

    min_x |M (d - S) * (x - f)|^2 + lambda |x|^2       M: voxels whose ball lies in the mask

Of all fields that explain M (d - S) * f it takes the one with the least norm, so that nothing harmonic is left in it.
The unknown is kept in k-space, where d - S is a product: one iteration of conjugate gradients is two transforms.
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.background.masked import Masked, refuse_empty, require, voxels_of
from qsm_runtime.background.sources import ERODED_MARGIN_MM, with_sources
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.cg import cg, combine
from qsm_runtime.kernels.convolve import box_of, embed, extract, keep
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.sphere import multiply_quadrant, sphere_fits, sphere_quadrant

SMALLEST = 1e-4  # keeps the preconditioner finite at k = 0


def resharp(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    radius_mm: float = 6.0,
    regularisation: float = 1e-4,
    tolerance: float = 1e-4,
    max_iterations: int = 30,
    source_passes: int = 1,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm (float32) and the voxels where it is valid: those `radius_mm` inside the mask.

    total_ppm       float32 (x, y, z), total field in ppm
    mask            bool (x, y, z)
    radius_mm       radius of the ball
    regularisation  lambda, the weight of the field's own norm
    tolerance       relative residual of the normal equations at which the iteration stops
    max_iterations  iterations at most, in each pass
    source_passes   repetitions that give the sources' own smooth field back (sources.py); 0 is the paper's method
    """
    require(radius_mm > 0, "radius_mm", "above 0", radius_mm)
    require(regularisation >= 0, "regularisation", "0 or more", regularisation)
    require(0 < tolerance < 1, "tolerance", "between 0 and 1", tolerance)
    require(max_iterations >= 1, "max_iterations", "1 or more", max_iterations)
    require(source_passes >= 0, "source_passes", "0 or more", source_passes)
    masked = Masked(total_ppm, mask, grid)
    field, mask, grid = masked.field, masked.mask, masked.grid
    valid = sphere_fits(mask, distance_inside(mask, grid.voxel_mm, radius_mm), grid.voxel_mm, radius_mm)
    refuse_empty(valid, "RESHARP", radius_mm)

    box = box_of(mask, voxels_of(max(radius_mm + max(grid.voxel_mm), ERODED_MARGIN_MM), grid))
    plan = fft.plan(box.fft_shape)
    difference = 1 - sphere_quadrant(plan.shape, grid.voxel_mm, radius_mm)
    normalised = difference * np.float32(plan.scale)

    def project(spectrum: np.ndarray, out: np.ndarray) -> None:
        """(d - S) M (d - S) x"""
        multiply_quadrant(spectrum, normalised, plan.spectrum)
        keep(plan.inverse(), valid)
        multiply_quadrant(plan.forward(out=out), difference, out)

    def apply(spectrum: np.ndarray, out: np.ndarray) -> None:
        project(spectrum, out)
        combine(spectrum, out, regularisation, 1.0)

    inverse = 1 / (difference**2 + np.float32(max(regularisation, SMALLEST)))

    def precondition(spectrum: np.ndarray, out: np.ndarray) -> None:
        """The inverse, were the mask everywhere."""
        multiply_quadrant(spectrum, inverse, out)

    def remove(field: np.ndarray) -> np.ndarray:
        rhs = [plan.new_spectrum()]
        project(plan.forward(embed(field, box, plan.real)), rhs[0])
        spectrum, _ = cg(
            apply,
            rhs.pop(),
            tolerance=tolerance,
            max_iterations=max_iterations,
            precondition=precondition,
            spectrum_of=plan.shape[2],
            progress=progress,
        )
        local = plan.inverse(spectrum)
        local *= np.float32(plan.scale)
        return extract(local, box, grid.shape) * mask

    local = with_sources(remove, field, mask, grid, source_passes, box)
    return masked.restore(local, valid)

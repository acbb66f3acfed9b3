"""V-SHARP: SHARP with the largest ball that fits at each voxel, down to the mask's last voxel but one.

Li 2011, 10.1016/j.neuroimage.2010.11.088; Wu 2012, 10.1002/mrm.23000

    g = sum_i M_i (d - S_i) * f                M_i: voxels where ball i is the largest that fits
    F f_local = F[g] / (1 - S_0^)              S_0 the largest ball, where |1 - S_0^| >= threshold, else 0
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from qsm_runtime.background.masked import Masked, refuse_empty, require, voxels_of
from qsm_runtime.background.sharp import inverse_of_difference
from qsm_runtime.background.sources import sources_box, with_sources
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import box_of, embed, extract, keep
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.sphere import multiply_quadrant, sphere_fits, sphere_quadrant


def vsharp(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    radius_mm: float = 12.0,
    smallest_radius_mm: float = 1.0,
    radius_step_mm: float = 1.0,
    threshold: float = 0.05,
    source_passes: int = 2,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm (float32) and the voxels where it is valid: those in which the smallest ball fits.

    total_ppm           float32 (x, y, z), total field in ppm
    mask                bool (x, y, z)
    radius_mm           radius of the largest ball
    smallest_radius_mm  radius of the smallest; below a voxel's width it is the seven-point Laplacian
    radius_step_mm      from one radius to the next
    threshold           spatial frequencies with |1 - S_0^| below it are not deconvolved, 0..1
    source_passes       repetitions that give the sources' own smooth field back (sources.py); 0 is the paper's method
    """
    require(0 < smallest_radius_mm <= radius_mm, "smallest_radius_mm", "above 0, up to radius_mm", smallest_radius_mm)
    require(radius_step_mm > 0, "radius_step_mm", "above 0", radius_step_mm)
    require(0 < threshold < 1, "threshold", "between 0 and 1", threshold)
    require(source_passes >= 0, "source_passes", "0 or more", source_passes)
    masked = Masked(total_ppm, mask, grid)
    field, mask, grid = masked.field, masked.mask, masked.grid
    radii = radii_between(radius_mm, smallest_radius_mm, radius_step_mm)
    box = box_of(mask, voxels_of(radius_mm + max(grid.voxel_mm), grid))
    plan = fft.plan(box.fft_shape)
    ball = largest_ball(mask, grid, radii)
    valid = ball >= 0
    refuse_empty(valid, "V-SHARP", smallest_radius_mm)

    used = [n for n in range(len(radii)) if (ball == n).any()]
    balls = {n: sphere_quadrant(plan.shape, grid.voxel_mm, radii[n], plan.scale) for n in used}
    mean = sphere_quadrant(plan.shape, grid.voxel_mm, radii[0])
    deconvolution = inverse_of_difference(mean, threshold, plan.scale)
    residual, spectrum = plan.new_real(), plan.new_spectrum()
    done = 0

    def remove(field: np.ndarray) -> np.ndarray:
        nonlocal done
        plan.forward(embed(field, box, residual), spectrum)
        for n in used:
            multiply_quadrant(spectrum, balls[n], plan.spectrum)
            _subtract_where(residual, plan.inverse(), ball, n)
            done += 1
            if progress is not None:
                progress(done / (len(used) * (source_passes + 1)))
        keep(residual, valid)
        multiply_quadrant(plan.forward(residual), deconvolution, plan.spectrum)
        return extract(keep(plan.inverse(), valid), box, grid.shape)

    local = with_sources(remove, field, mask, grid, source_passes, sources_box(mask, grid))
    return masked.restore(local, valid)


def radii_between(largest_mm: float, smallest_mm: float, step_mm: float) -> list[float]:
    """Radii from the largest down by `step_mm`, the smallest always among them."""
    count = int(np.ceil((largest_mm - smallest_mm) / step_mm - 1e-6))
    return [largest_mm - n * step_mm for n in range(count)] + [smallest_mm]


def largest_ball(mask: np.ndarray, grid: Grid, radii_mm: list[float]) -> np.ndarray:
    """Index of the largest ball that fits at each voxel (radii from large to small), -1 where none does: int8."""
    distance_mm = distance_inside(mask, grid.voxel_mm, radii_mm[0])
    ball = np.full(mask.shape, -1, np.int8)
    for n in reversed(range(len(radii_mm))):
        ball[sphere_fits(mask, distance_mm, grid.voxel_mm, radii_mm[n])] = n
    return ball


@njit(parallel=True, cache=True)
def _subtract_where(x, y, index, n):
    """x -= y where index == n, in place; `index` lies in the low corner of both."""
    for i in prange(index.shape[0]):
        for j in range(index.shape[1]):
            for k in range(index.shape[2]):
                if index[i, j, k] == n:
                    x[i, j, k] -= y[i, j, k]

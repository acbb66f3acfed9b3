"""SHARP: a field without sources in a ball equals its mean over the ball, so what differs from the mean is local.

Schweser 2011, 10.1016/j.neuroimage.2010.10.070

    M (d - S) * f = M (d - S) * f_local        M: voxels whose ball lies in the mask
    F f_local = F[M (d - S) * f] / (1 - S^)    where |1 - S^| >= threshold, else 0
"""

import numpy as np

from qsm_runtime.background.masked import Masked, refuse_empty, require, voxels_of
from qsm_runtime.background.sources import ERODED_MARGIN_MM, with_sources
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import box_of, embed, extract, keep
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.sphere import multiply_quadrant, sphere_fits, sphere_quadrant


def sharp(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    radius_mm: float = 6.0,
    threshold: float = 0.03,
    source_passes: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm (float32) and the voxels where it is valid: those `radius_mm` inside the mask.

    total_ppm      float32 (x, y, z), total field in ppm
    mask           bool (x, y, z)
    radius_mm      radius of the ball; a larger one keeps more of the slowly varying local field, and erodes more
    threshold      spatial frequencies with |1 - S^| below it are not deconvolved, 0..1
    source_passes  repetitions that give the sources' own smooth field back (sources.py); 0 is the paper's method
    """
    require(radius_mm > 0, "radius_mm", "above 0", radius_mm)
    require(0 < threshold < 1, "threshold", "between 0 and 1", threshold)
    require(source_passes >= 0, "source_passes", "0 or more", source_passes)
    masked = Masked(total_ppm, mask, grid)
    field, mask, grid = masked.field, masked.mask, masked.grid
    valid = sphere_fits(mask, distance_inside(mask, grid.voxel_mm, radius_mm), grid.voxel_mm, radius_mm)
    refuse_empty(valid, "SHARP", radius_mm)

    box = box_of(mask, voxels_of(max(radius_mm + max(grid.voxel_mm), ERODED_MARGIN_MM), grid))
    plan = fft.plan(box.fft_shape)
    mean = sphere_quadrant(plan.shape, grid.voxel_mm, radius_mm)

    difference = (1 - mean) * np.float32(plan.scale)
    deconvolution = inverse_of_difference(mean, threshold, plan.scale)

    def remove(field: np.ndarray) -> np.ndarray:
        spectrum = plan.forward(embed(field, box, plan.real))
        multiply_quadrant(spectrum, difference, spectrum)
        keep(plan.inverse(), valid)
        multiply_quadrant(plan.forward(), deconvolution, spectrum)
        return extract(keep(plan.inverse(), valid), box, grid.shape)

    return masked.restore(with_sources(remove, field, mask, grid, source_passes, box), valid)


def inverse_of_difference(mean: np.ndarray, threshold: float, scale: float) -> np.ndarray:
    """scale / (1 - S^) where |1 - S^| >= threshold, else 0."""
    difference = 1 - mean
    kept = np.abs(difference) >= threshold
    return np.where(kept, np.float32(scale) / np.where(kept, difference, 1), 0).astype(np.float32)

"""PDF: the background is the field of dipoles outside the mask, those that explain the total field best.

Liu 2011, 10.1002/nbm.1670

    min_y |W (f - D w y)|^2,   f_local = f - D w y        w = 0 in the mask

Conjugate gradients from y = 0: what is explained late is the local field that outside dipoles mimic only with great
effort, so the iteration stops early. Dipoles stand in every voxel outside the mask up to the padded array's rim. Close
to the mask they can mimic any field of its outermost voxels, tissue or not: w rises from there over NEAR_MM, and the
boundary voxels are not called valid. The repetitions of sources.py start from the dipoles found before.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from qsm_runtime.background.masked import Masked, refuse_empty, require, voxels_of
from qsm_runtime.background.sources import with_sources
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.cg import cg
from qsm_runtime.kernels.convolve import box_of, convolve, embed, extract
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.distance import distance_outside
from qsm_runtime.kernels.sphere import six_neighbours

NEAR_MM = 10.0


def pdf(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    reliability: np.ndarray | None = None,
    padding_mm: float = 20.0,
    tolerance: float = 1e-3,
    max_iterations: int = 50,
    source_passes: int = 1,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm (float32) and the voxels where it is valid: the mask without its boundary voxels.

    total_ppm       float32 (x, y, z), total field in ppm
    mask            bool (x, y, z)
    reliability     float32 (x, y, z), inverse noise level in 1/ppm, 0 where the field is not known; None: the same
    padding_mm      room for dipoles around the mask
    tolerance       relative residual of the normal equations at which the iteration stops
    max_iterations  iterations at most, in each pass
    source_passes   repetitions that give the sources' own smooth field back (sources.py); 0 is the paper's method
    """
    require(padding_mm > 0, "padding_mm", "above 0", padding_mm)
    require(0 < tolerance < 1, "tolerance", "between 0 and 1", tolerance)
    require(max_iterations >= 1, "max_iterations", "1 or more", max_iterations)
    require(source_passes >= 0, "source_passes", "0 or more", source_passes)
    if reliability is not None:
        grid.check(reliability, "reliability")
    masked = Masked(total_ppm, mask, grid)
    field, mask, grid = masked.field, masked.mask, masked.grid
    valid = six_neighbours(mask)
    refuse_empty(valid, "PDF", max(grid.voxel_mm))
    weight = mask.astype(np.float32)
    if reliability is not None:
        weight = data_weight(masked.cut(reliability), mask)

    padding = voxels_of(padding_mm, grid)
    box = box_of(mask, voxels_of(2 * padding_mm, grid))
    plan = fft.plan(box.fft_shape)
    dipole = dipole_kernel(plan.shape, grid.voxel_mm, grid.b0_dir, plan.scale)
    weight2 = embed(weight**2, box, plan.new_real())
    # the array is periodic: in its middle the mask has room on both sides
    centred = np.roll(embed(mask, box, plan.real), padding, (0, 1, 2)) > 0
    away = np.minimum(distance_outside(centred, grid.voxel_mm) / np.float32(NEAR_MM), 1)
    away = np.ascontiguousarray(np.roll(away, [-n for n in padding], (0, 1, 2)))
    rhs, dipoles = plan.new_real(), plan.new_real()
    dipoles[...] = 0

    def adjoint(residual: np.ndarray, out: np.ndarray) -> None:
        """w D W^2 residual"""
        _product(residual, weight2, out)
        _product(convolve(out, dipole, plan, out), away, out)

    def apply(y: np.ndarray, out: np.ndarray) -> None:
        _product(y, away, out)
        adjoint(convolve(out, dipole, plan, out), out)

    def remove(field: np.ndarray) -> np.ndarray:
        nonlocal dipoles
        data = embed(field, box, plan.new_real())
        adjoint(data, rhs)
        dipoles, _ = cg(apply, rhs, tolerance=tolerance, max_iterations=max_iterations, x0=dipoles, progress=progress)
        _product(dipoles, away, data)
        return (field - extract(convolve(data, dipole, plan, data), box, grid.shape)) * mask

    local = with_sources(remove, field, mask, grid, source_passes)
    return masked.restore(local, valid)


def data_weight(reliability: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Reliability over its median in the mask, cut at 1, zero outside: float32.

    The local field is no noise, so voxels better measured than the median count no more than it.
    """
    trusted = reliability[mask & (reliability > 0)]
    scale = np.float32(np.median(trusted)) if trusted.size else np.float32(1)
    return np.where(mask, np.clip(reliability / scale, 0, 1), 0).astype(np.float32)


@njit(parallel=True, cache=True)
def _product(x, w, out):
    """out = x * w; `out` may be `x`."""
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                out[i, j, k] = x[i, j, k] * w[i, j, k]

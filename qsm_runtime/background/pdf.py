"""PDF: the background is the field of dipoles outside the mask, those that explain the total field best.

Liu 2011, 10.1002/nbm.1670

    min_y |W (f - D w y)|^2,   f_local = f - D w y        w = 0 in the mask

Conjugate gradients from y = 0: what is explained late is the local field that outside dipoles mimic only with great
effort, so the iteration stops early. Dipoles stand in every voxel outside the mask up to the padded array's rim. Close
to the mask they can mimic any field of its outermost voxels, tissue or not: w rises from there over NEAR_MM, and the
boundary voxels are not called valid. W saturates (kernels/weights): the local field is no noise, and beside a cavity,
where the field is steep and ill known, strong dipoles stand that only those voxels can tell. The repetitions of
sources.py start from the dipoles found before.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from qsm_runtime.background.masked import Masked, refuse_empty, require, voxels_of
from qsm_runtime.background.sources import with_sources
from qsm_runtime.errors import ReconstructionError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.cg import cg
from qsm_runtime.kernels.convolve import Box, box_of, convolve, extract
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.distance import distance_outside
from qsm_runtime.kernels.sphere import six_neighbours
from qsm_runtime.kernels.splitting import place, take
from qsm_runtime.kernels.weights import data_weights

NEAR_MM = 10.0


def pdf(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    reliability: np.ndarray | None = None,
    padding_mm: float = 12.0,
    tolerance: float = 4e-4,
    max_iterations: int = 45,
    source_passes: int = 2,
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
    padding = voxels_of(padding_mm, grid)
    box = box_of(mask, voxels_of(2 * padding_mm, grid))
    plan = fft.plan(box.fft_shape)
    away = _away(mask, box, padding, grid)
    dipole = dipole_kernel(plan.shape, grid.voxel_mm, grid.b0_dir, plan.scale)
    weight2 = mask.astype(np.float32) if reliability is None else data_weights(masked.cut(reliability), mask) ** 2
    if not weight2.any():
        raise ReconstructionError("reliability is zero throughout the mask: no voxel can be trusted")
    dipoles = np.zeros(plan.shape, np.float32)

    def adjoint(out: np.ndarray) -> np.ndarray:
        """out = w D of the plan's real array"""
        return take(convolve(plan.real, dipole, plan, plan.real), away, out)

    def apply(y: np.ndarray, out: np.ndarray) -> None:
        take(y, away, plan.real)
        _weigh(convolve(plan.real, dipole, plan, plan.real), weight2)
        adjoint(out)

    def remove(field: np.ndarray) -> np.ndarray:
        nonlocal dipoles
        place(field, weight2, plan.real)
        dipoles, _ = cg(
            apply,
            adjoint(plan.new_real()),
            tolerance=tolerance,
            max_iterations=max_iterations,
            x0=dipoles,
            progress=progress,
        )
        take(dipoles, away, plan.real)
        return (field - extract(convolve(plan.real, dipole, plan, plan.real), box, grid.shape)) * mask

    local = with_sources(remove, field, mask, grid, source_passes, box)
    return masked.restore(local, valid)


def _away(mask: np.ndarray, box: Box, padding: tuple[int, int, int], grid: Grid) -> np.ndarray:
    """w over the padded array: float32. The array is periodic: in its middle the mask has room on both sides."""
    centred = np.zeros(box.fft_shape, np.bool_)
    centred[tuple(slice(p, p + n) for p, n in zip(padding, box.size, strict=True))] = mask[box.slices]
    away = distance_outside(centred, grid.voxel_mm, NEAR_MM)
    away /= np.float32(NEAR_MM)
    np.minimum(away, 1, out=away)
    return np.roll(away, [-n for n in padding], (0, 1, 2))


@njit(parallel=True, cache=True)
def _weigh(x, weight):
    """x *= weight, which lies in its low corner, in place; 0 beyond."""
    nx, ny, nz = weight.shape
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            if i < nx and j < ny:
                for k in range(nz):
                    x[i, j, k] *= weight[i, j, k]
                for k in range(nz, x.shape[2]):
                    x[i, j, k] = 0
            else:
                for k in range(x.shape[2]):
                    x[i, j, k] = 0

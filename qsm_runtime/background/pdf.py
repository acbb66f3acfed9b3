"""PDF: the background is the field of dipoles outside the mask, those that explain the total field best.

Liu 2011, 10.1002/nbm.1670

    min_x |W (f - D (1 - M) x)|^2,   f_local = f - D (1 - M) x

Conjugate gradients from x = 0: what is explained late is the local field that outside dipoles mimic only with great
effort, so the iteration stops early, where the residual has fallen to the tolerance. Dipoles stand in every voxel
outside the mask, out to the padded array's rim; padding keeps periodic images away.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from qsm_runtime.background.masked import masked_field, require
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.cg import cg
from qsm_runtime.kernels.convolve import box_of, convolve, embed, extract
from qsm_runtime.kernels.dipole import dipole_kernel


def pdf(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    reliability: np.ndarray | None = None,
    padding_mm: float = 40.0,
    tolerance: float = 1e-2,
    max_iterations: int = 60,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Local field in ppm (float32) and the voxels where it is valid: the whole mask.

    total_ppm       float32 (x, y, z), total field in ppm
    mask            bool (x, y, z)
    reliability     float32 (x, y, z), inverse noise level in 1/ppm, 0 where the field is not known; None: the same
    padding_mm      room for dipoles around the mask
    tolerance       relative residual of the normal equations at which the iteration stops
    max_iterations  iterations at most
    """
    require(padding_mm > 0, "padding_mm", "above 0", padding_mm)
    require(0 < tolerance < 1, "tolerance", "between 0 and 1", tolerance)
    require(max_iterations >= 1, "max_iterations", "1 or more", max_iterations)
    field = masked_field(total_ppm, mask, grid)
    weight = mask.astype(np.float32) if reliability is None else data_weight(reliability, mask, grid)

    margin = tuple(2 * int(np.ceil(padding_mm / v)) for v in grid.voxel_mm)
    box = box_of(mask, margin)
    plan = fft.plan(box.fft_shape)
    dipole = dipole_kernel(plan.shape, grid.voxel_mm, grid.b0_dir, plan.scale)
    weight2 = embed(weight**2, box, plan.new_real())
    outside = embed(mask, box, plan.new_real()) == 0

    def apply(x: np.ndarray, out: np.ndarray) -> None:
        """(1 - M) D W^2 D (1 - M) x; x is zero in the mask"""
        _weigh(convolve(x, dipole, plan, out), weight2)
        _weigh(convolve(out, dipole, plan, out), outside)

    rhs = embed(field, box, plan.new_real())
    _weigh(rhs, weight2)
    _weigh(convolve(rhs, dipole, plan, rhs), outside)
    sources, _ = cg(apply, rhs, tolerance=tolerance, max_iterations=max_iterations, progress=progress)
    background = extract(convolve(sources, dipole, plan, sources), box, grid.shape)
    return np.where(mask, field - background, np.float32(0)), mask.copy()


def data_weight(reliability: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Reliability over its median in the mask, cut at 1, zero outside: float32.

    The local field is no noise, so voxels better measured than the median count no more than it.
    """
    grid.check(reliability, "reliability")
    trusted = reliability[mask & (reliability > 0)]
    scale = np.float32(np.median(trusted)) if trusted.size else np.float32(1)
    return np.where(mask, np.clip(reliability / scale, 0, 1), 0).astype(np.float32)


@njit(parallel=True, cache=True)
def _weigh(x, w):
    """x *= w, in place."""
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                x[i, j, k] *= w[i, j, k]

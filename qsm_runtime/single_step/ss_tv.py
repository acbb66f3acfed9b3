"""Single-step total variation: the background is removed inside the data term, by balls of variable size.

Source: Chatnuntawech, McDaniel, Cauley, Gagoski, Langkammer, Martin, Grant, Wald, Setsompop, Adalsteinsson and Bilgic
2017, 10.1002/nbm.3570.
    min_x  sum_r 1/2 |M_r (H_r D x - H_r f)|^2 + lambda sum c |g x|,     H_r = delta - mean over a ball of radius r
H_r annuls what is harmonic in the ball; M_r are the voxels at which r is the largest ball that fits, so each voxel is
seen once. The weights c = knee / (knee + |g x|) are renewed on the way (Candes 2008, 10.1007/s00041-008-9045-x).
Solved by ADMM, coarse to fine.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import convolve, embed, extract
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.distance import distance_inside
from qsm_runtime.kernels.sphere import sphere_fits, sphere_kernel
from qsm_runtime.single_step.levels import Level, coarse_to_fine
from qsm_runtime.single_step.prepare import chosen_regularisation, finished, interior_field, require_positive
from qsm_runtime.single_step.split import Fields, TotalVariation, solve, solver_box


def ss_tv(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    radii_mm: tuple[float, ...] = (12.0, 6.0, 3.0, 1.0),
    regularisation: float | Literal["auto"] = "auto",
    knee_ppm_per_mm: float = 0.005,
    outlier_sigmas: float = 6.0,
    iterations: tuple[int, ...] = (100, 50, 24),
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """Susceptibility in ppm, mean zero in the mask: float32 (x, y, z), zero outside.

    total_ppm         total field in ppm, float32 (x, y, z)
    mask              bool (x, y, z); nothing of it is lost, its outermost layer is continued from the inside
    radii_mm          balls to choose from; below a voxel's width it is the seven-point Laplacian
    regularisation    lambda (ppm mm), or "auto": from the noise of the field
    knee_ppm_per_mm   slope above which the penalty levels off; "inf" is the plain total variation
    outlier_sigmas    residual, in robust standard deviations, from which a voxel's weight falls
    iterations        on voxels of 4, 2, 1 mm, coarse grids first (levels.coarse_to_fine)
    reliability       inverse standard deviation of the field in 1/ppm; balls keep clear of voxels of 0
    Raises UsageError for options out of range, ReconstructionError where the mask has no interior.
    """
    require_positive(knee_ppm_per_mm=knee_ppm_per_mm, outlier_sigmas=outlier_sigmas)
    if not radii_mm or min(radii_mm) <= 0:
        raise UsageError(f"radii_mm must be one or more positive lengths, got {radii_mm}")
    field, weight = interior_field(total_ppm, mask, grid, reliability)
    chosen = chosen_regularisation(regularisation, field, weight, grid, reliability, record)

    def on(level: Level, count: int, start: np.ndarray | None) -> np.ndarray:
        box, voxel_mm = solver_box(level.mask, level.voxel_mm), level.voxel_mm
        plan, dipole = fft.plan(box.fft_shape), dipole_kernel(box.fft_shape, voxel_mm, grid.b0_dir)
        known = level.weight > 0
        distance_mm, left = distance_inside(known, voxel_mm, max(radii_mm)), known
        filters, fields, weights = [], [], []
        for radius_mm in sorted(radii_mm, reverse=True):
            seen = left & sphere_fits(known, distance_mm, voxel_mm, radius_mm)
            if not seen.any():
                continue
            high_pass = np.float32(1) - sphere_kernel(box.fft_shape, voxel_mm, radius_mm)
            passed = convolve(embed(level.field, box, plan.real), high_pass * np.float32(plan.scale), plan)
            fields.append(np.where(seen, extract(passed, box, known.shape), np.float32(0)))
            weights.append(level.weight * seen)
            filters.append(high_pass * dipole)
            left = left & ~seen
        if not filters:
            raise UsageError(f"radii_mm: no ball of {min(radii_mm):g} mm fits in the mask; give a smaller one")
        data = Fields(filters, fields, weights, box, outlier_sigmas)
        prior = TotalVariation(level.mask, box, voxel_mm, knee_ppm_per_mm)
        strength = chosen * level.edge_mm / full.edge_mm
        return solve(data, prior, box, level.mask.shape, voxel_mm, strength, count, start)

    full = Level(field, weight, mask.astype(bool), grid.voxel_mm, (1, 1, 1))
    return finished(coarse_to_fine(full, iterations, on, progress), mask, grid)

"""Total generalised variation from the total field, the background left free.

Source: Langkammer, Bredies, Poser, Barth, Reishofer, Fan, Bilgic, Fazekas, Mainero and Ropele 2015,
10.1016/j.neuroimage.2015.02.041.
    min_(x, psi) 1/2 |psi|^2 + TGV(x),   lap psi = box x - lap f  in the mask,   box = lap/3 - (b.grad)^2
The constraint has no boundary values, so psi is D x - f up to any function harmonic in the mask: the same as fitting
D x, x free outside the mask, to the field less its harmonic part. In that form x is solved for in k-space (ADMM, coarse
to fine) and the number of iterations no longer grows with the distance that a stencil has to carry boundary values.
    TGV(x) = min_s sum c lambda |g x - s| + lambda ratio |E s|,  E s = (grad s + grad s^T) / 2
The weights c = knee / (knee + |g x|) are renewed on the way (Candes 2008, 10.1007/s00041-008-9045-x).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.single_step.levels import Level, coarse_to_fine
from qsm_runtime.single_step.prepare import chosen_regularisation, finished, interior_field, require_positive
from qsm_runtime.single_step.split import Fields, GeneralisedVariation, solve, solver_box


def tgv(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    ratio_mm: float = 4.0,
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
    regularisation    lambda (ppm mm), or "auto": from the noise of the field
    ratio_mm          weight of the second order over the first
    knee_ppm_per_mm   slope above which the penalty levels off; "inf" is the plain generalised variation
    outlier_sigmas    residual, in robust standard deviations, from which a voxel's weight falls
    iterations        on voxels of 4, 2, 1 mm, coarse grids first (levels.coarse_to_fine)
    reliability       inverse standard deviation of the field in 1/ppm; voxels of 0 carry no data
    Raises UsageError for options out of range, ReconstructionError where the mask has no interior.
    """
    require_positive(ratio_mm=ratio_mm, knee_ppm_per_mm=knee_ppm_per_mm, outlier_sigmas=outlier_sigmas)
    field, weight = interior_field(total_ppm, mask, grid, reliability)
    chosen = chosen_regularisation(regularisation, field, weight, grid, reliability, record)

    def on(level: Level, count: int, start: np.ndarray | None) -> np.ndarray:
        box = solver_box(level.mask, level.voxel_mm)
        dipole = dipole_kernel(box.fft_shape, level.voxel_mm, grid.b0_dir)
        data = Fields([dipole], [level.field], [level.weight], box, outlier_sigmas)
        prior = GeneralisedVariation(level.mask, box, level.voxel_mm, knee_ppm_per_mm, ratio_mm)
        strength = chosen * level.edge_mm / full.edge_mm
        return solve(data, prior, box, level.mask.shape, level.voxel_mm, strength, count, start)

    full = Level(field, weight, mask.astype(bool), grid.voxel_mm, (1, 1, 1))
    return finished(coarse_to_fine(full, iterations, on, progress), mask, grid)

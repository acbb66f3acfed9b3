"""Susceptibility and background together: total variation in the mask, everything outside it free.

    min_x  1/2 |W (D x - f)|^2 + lambda sum_mask c(r) |g x|,        g x: differences a mm between voxels of the mask
The unknown fills the box. Outside the mask it is not penalised, so that it stands for whatever makes a harmonic field
in the mask (Liu 2011, 10.1002/nbm.1670; Liu 2017, 10.1002/mrm.26331), and what background and susceptibility can both
explain is settled by the total variation instead of by the background method (Chatnuntawech 2017, 10.1002/nbm.3570;
Milovic 2019, 10.1002/mrm.27483). The strong part of the background is taken off first by its boundary values
(Zhou 2014, 10.1002/nbm.3064), which is exact up to a harmonic field and therefore changes nothing in the minimum.
The weights c = knee / (knee + |g x|) are renewed on the way (Candes 2008, 10.1007/s00041-008-9045-x): a logarithmic
penalty, which takes the shrinkage off the edges that the plain total variation flattens, and Huber's weight (1964,
10.1214/aoms/1177703732) is put on voxels that the model cannot explain. Solved by ADMM with over-relaxation
(single_step/split) from the coarse grid to the fine one.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.single_step.levels import Level, coarse_to_fine
from qsm_runtime.single_step.prepare import chosen_regularisation, finished, interior_field, require_positive, with_rim
from qsm_runtime.single_step.split import Fields, TotalVariation, solve, solver_box


def joint_tv(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
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
    regularisation    lambda (ppm mm), or "auto": from the noise of the field
    knee_ppm_per_mm   slope above which the penalty levels off; "inf" is the plain total variation
    outlier_sigmas    residual, in robust standard deviations, from which a voxel's weight falls
    iterations        on voxels of 4, 2, 1 mm, coarse grids first (levels.coarse_to_fine)
    reliability       inverse standard deviation of the field in 1/ppm; voxels of 0 carry no data
    Raises UsageError for options out of range, ReconstructionError where the mask has no interior.
    """
    require_positive(knee_ppm_per_mm=knee_ppm_per_mm, outlier_sigmas=outlier_sigmas)
    field, weight = interior_field(total_ppm, mask, grid, reliability)
    chosen = chosen_regularisation(regularisation, field, weight, grid, reliability, record)
    weight = with_rim(weight, mask, reliability)

    def on(level: Level, count: int, start: np.ndarray | None) -> np.ndarray:
        box = solver_box(level.mask, level.voxel_mm)
        dipole = dipole_kernel(box.fft_shape, level.voxel_mm, grid.b0_dir)
        data = Fields([dipole], [level.field], [level.weight], box, outlier_sigmas)
        prior = TotalVariation(level.mask, box, level.voxel_mm, knee_ppm_per_mm)
        strength = chosen * level.edge_mm / full.edge_mm
        return solve(data, prior, box, level.mask.shape, level.voxel_mm, strength, count, start)

    full = Level(field, weight, mask.astype(bool), grid.voxel_mm, (1, 1, 1))
    return finished(coarse_to_fine(full, iterations, on, progress), mask, grid)

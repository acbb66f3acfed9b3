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
(kernels/split_tv) from the coarse grid to the fine one.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.single_step.levels import Level, coarser, finer
from qsm_runtime.single_step.prepare import interior_field, mean_free, noise_ppm
from qsm_runtime.single_step.split import solve

REGULARISATION_PER_NOISE = 0.28  # lambda in units of noise times voxel size: flat optimum on simulated heads
SMALLEST = 16  # voxels along an axis, below which a grid is not made coarser
MODEL_ERROR_PPM = 6e-4  # voxels are no dipoles at their own edges: what a noise-free field still leaves unexplained


def joint_tv(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    knee_ppm_per_mm: float = 0.005,
    outlier_sigmas: float = 5.0,
    iterations: tuple[int, ...] = (100, 50, 24),
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """Susceptibility in ppm, mean zero in the mask: float32 (x, y, z), zero outside.

    total_ppm         total field in ppm, float32 (x, y, z)
    mask              bool (x, y, z); nothing of it is lost, though its outermost layer carries no data of its own
    regularisation    lambda (ppm mm), or "auto": from the noise of the field
    knee_ppm_per_mm   slope above which the penalty levels off; "inf" is the plain total variation
    outlier_sigmas    residual, in robust standard deviations, from which a voxel's weight falls
    iterations        on each grid from the coarsest to the full one; voxels double in size from one to the next
    reliability       inverse standard deviation of the field in 1/ppm; voxels of 0 are treated as outside
    Raises UsageError for options out of range, ReconstructionError where the mask has no interior.
    """
    if regularisation != "auto" and not (isinstance(regularisation, int | float) and regularisation > 0):
        raise UsageError(f'regularisation must be positive or "auto", got {regularisation!r}')
    for name, value in (("knee_ppm_per_mm", knee_ppm_per_mm), ("outlier_sigmas", outlier_sigmas)):
        if not value > 0:
            raise UsageError(f"{name} must be positive, got {value}")
    if not iterations or min(iterations) < 1:
        raise UsageError(f"iterations must be one or more counts of 1 or more, got {iterations}")
    field, weight = interior_field(total_ppm, mask, grid, reliability)
    if regularisation == "auto":
        noise = np.hypot(noise_ppm(field, weight, reliability), MODEL_ERROR_PPM)
        regularisation = REGULARISATION_PER_NOISE * float(noise) * grid.voxel_volume_mm3 ** (1 / 3)
        if record is not None:
            record("regularisation_auto", regularisation)
    grids = [Level(field, weight, mask.astype(bool), grid.voxel_mm, (1, 1, 1))]
    while len(grids) < len(iterations) and min(grids[-1].mask.shape) > SMALLEST:
        grids.append(coarser(grids[-1]))
    chi = None
    total, done = sum(n * level.mask.size for n, level in zip(iterations[::-1], grids, strict=False)), 0
    for depth in range(len(grids) - 1, -1, -1):
        level, count = grids[depth], iterations[len(iterations) - 1 - depth]
        stretch = (float(np.prod(level.voxel_mm)) / grid.voxel_volume_mm3) ** (1 / 3)
        chi = solve(
            level.field, level.weight, level.mask, level.voxel_mm, grid.b0_dir, regularisation * stretch, count, chi,
            knee=knee_ppm_per_mm, outlier_sigmas=outlier_sigmas,
        )  # fmt: skip
        if depth:
            chi = finer(chi, level.factors, grids[depth - 1].mask.shape)
        done += count * level.mask.size
        if progress is not None:
            progress(done / total)
    return mean_free(chi, mask)

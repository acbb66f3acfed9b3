"""Least-norm total-field inversion: the smallest sources that explain the field, none of them removed beforehand.

Source: Sun, Ma, MacDonald and Pike 2018, 10.1016/j.neuroimage.2018.06.036.
    min_x 1/2 |W (D x - f)|^2 + lambda sum |g x| + alpha/2 |x|^2
The least norm settles what the dipole's cones and the unknown background leave open, in the mask and outside it; the
total variation counts inside. What boundary values alone tell of the background is taken off first (Zhou 2014,
10.1002/nbm.3064), so that the norm weighs sources of the tissue's own size.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import embed, extract
from qsm_runtime.single_step.newton import chosen_convex, solve
from qsm_runtime.single_step.prepare import finished, interior_field, require_positive
from qsm_runtime.single_step.split import solver_box


def ln_qsm(
    total_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    least_norm: float = 5e-4,
    outlier_sigmas: float = 1e6,
    steps: int = 8,
    cg_iterations: int = 20,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Callable[[str, object], None] | None = None,
) -> np.ndarray:
    """Susceptibility in ppm, mean zero in the mask: float32 (x, y, z), zero outside.

    total_ppm       total field in ppm, float32 (x, y, z)
    mask            bool (x, y, z); nothing of it is lost, its outermost layer is continued from the inside
    regularisation  lambda (ppm mm), or "auto": from the noise of the field
    least_norm      alpha, > 0
    outlier_sigmas  residual, in robust standard deviations, from which a voxel's weight falls; off at 1e6, because
                    the least-norm term pulls strong sources down and their own voxels would count as outliers
    reliability     inverse standard deviation of the field in 1/ppm; voxels of 0 carry no data
    Raises UsageError for options out of range, ReconstructionError where the mask has no interior.
    """
    require_positive(least_norm=least_norm, steps=steps, cg_iterations=cg_iterations)
    require_positive(outlier_sigmas=outlier_sigmas)
    field, weight = interior_field(total_ppm, mask, grid, reliability)
    chosen = chosen_convex(regularisation, field, weight, grid, reliability, record)
    box = solver_box(mask, grid.voxel_mm)
    f, w, m = (embed(a, box, np.empty(box.fft_shape, np.float32)) for a in (field, weight, mask))
    x = solve(
        f, w, m > 0, np.ones_like(f), np.full_like(f, chosen), box, grid.voxel_mm, grid.b0_dir,
        tikhonov=least_norm, outlier_sigmas=outlier_sigmas, steps=steps, cg_iterations=cg_iterations, progress=progress,
    )  # fmt: skip
    return finished(extract(x, box, grid.shape), mask, grid)

"""Least squares by LSQR, whose early stop is the only regularisation: no further than the noise allows.

minimise |W (D x - f)|, x = 0 outside the mask.   Source: Paige and Saunders 1982, 10.1145/355984.355989.
What a voxel's noise does to the map nothing takes out again: W falls from lower deviations on than elsewhere. Nor do
residuals tell outliers from what is yet to be fitted, so that weights are not taken from them.
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import check
from qsm_runtime.inversion._noise import EARLY_STOP_SATURATION, noise_ppm, weights
from qsm_runtime.inversion._operator import MaskedDipole
from qsm_runtime.kernels import cg


def lsqr(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    tolerance: float = 0.01,
    max_iterations: int = 50,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Susceptibility by weighted least squares, stopped early.

    local_ppm    float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask         bool (x, y, z)
    tolerance    stop when |A^T r| <= tolerance |A| |r|, or the residual is that share of the data; it stops in any
                 case where the residual is what the noise explains (Morozov's discrepancy): sqrt(sum w^2 sigma^2 / 2)
    reliability  float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not tolerance >= 0 or max_iterations < 1:
        raise UsageError("lsqr: tolerance must not be negative and max_iterations at least 1")
    model = MaskedDipole(local_ppm, weights(mask, grid, reliability, EARLY_STOP_SATURATION), mask, grid)
    x, _ = cg.lsqr(
        model.apply,
        model.adjoint,
        model.field * model.weight,
        model.field,
        tolerance=tolerance,
        max_iterations=max_iterations,
        residual=model.stop_ppm(noise_ppm(local_ppm, mask, reliability), reliability),
        progress=progress,
    )
    return model.result(x)

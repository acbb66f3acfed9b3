"""Hybrid data fidelity: absolute differences first, squares after.

Source: Lambert 2022 (HD-QSM), 10.1002/mrm.29218; Milovic 2022 (L1-QSM), 10.1002/mrm.28957.
1. minimise  a |W (D x - f)|_1 + lambda |g x|_1: a voxel whose field is wrong pulls no harder than one that is a off
2. minimise  1/2 |W' (D x - f)|^2 + lambda |g x|_1 from there, W' lowered where stage 1 left a residual beyond the
   noise (MERIT, Liu 2013, 10.1002/mrm.24272);  x = 0 outside the mask in both.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting, absolute_data
from qsm_runtime.inversion._direct import check, part
from qsm_runtime.inversion._noise import Record, chosen, noise_ppm, weights
from qsm_runtime.inversion.tv import regularisation_from_noise
from qsm_runtime.kernels.splitting import squares_step


def hdqsm(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    first_iterations: int = 20,
    tolerance: float = 0.005,
    max_iterations: int = 40,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility by hybrid data fidelity and total variation.

    local_ppm         float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask              bool (x, y, z)
    regularisation    lambda in ppm; "auto" takes it from the noise
    first_iterations  iterations of stage 1; max_iterations those of stage 2
    tolerance         stop a stage when an iteration changes the map by less than this share of its norm
    reliability       float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    record            called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not tolerance >= 0 or min(first_iterations, max_iterations) < 1:
        raise UsageError("hdqsm: tolerance must not be negative, and both iteration counts at least 1")
    noise = noise_ppm(local_ppm, mask, reliability)
    value = chosen("hdqsm", regularisation, lambda: regularisation_from_noise(noise), record)
    state = Splitting(local_ppm, weights(mask, grid, reliability) ** 2, mask, grid)
    state.start()
    state.run(
        absolute_data(noise),
        regularisation=value,
        tolerance=tolerance,
        max_iterations=first_iterations,
        progress=part(progress, 0.0, 0.4),
    )
    state.reweight(noise)
    state.run(
        squares_step,
        regularisation=value,
        tolerance=tolerance,
        max_iterations=max_iterations,
        progress=part(progress, 0.4, 1.0),
    )
    return state.result()

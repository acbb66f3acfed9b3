"""Total-variation inversion of a weighted field.

minimise  1/2 |W (D x - f)|^2 + lambda |g x|_1,  x = 0 outside the mask, g in units of the mean voxel size.
Sources: Bilgic 2014, 10.1002/mrm.25029 (ADMM for TV). With outlier_rounds the field need not be right everywhere: a
first round measures it by absolute differences (Lambert 2022, 10.1002/mrm.29218), and voxels whose residual the model
cannot explain then lose weight (MERIT: Liu 2013, 10.1002/mrm.24272).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting, absolute_data
from qsm_runtime.inversion._direct import check
from qsm_runtime.inversion._noise import Record, chosen, noise_ppm, weights
from qsm_runtime.kernels.splitting import squares_step

NOISE_FACTOR = 0.06  # lambda over the noise
FLOOR_PPM = 2e-5  # lambda of a field without noise: what partial volume leaves unexplained


def regularisation_from_noise(noise_ppm: float) -> float:
    """lambda in ppm for a field with white noise of `noise_ppm`."""
    return max(NOISE_FACTOR * noise_ppm, FLOOR_PPM)


def tv(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    tolerance: float = 0.005,
    max_iterations: int = 36,
    outlier_rounds: int = 1,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility by total variation.

    local_ppm       float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask            bool (x, y, z)
    regularisation  lambda in ppm; "auto" takes it from the noise
    tolerance       stop when an iteration changes the map by less than this share of its norm
    max_iterations  of all rounds together
    outlier_rounds  how often voxels with a residual beyond 6 standard deviations lose weight, after a first round
                    of absolute differences; 0 trusts every voxel and takes squares alone
    reliability     float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    record          called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not tolerance >= 0 or max_iterations < 1 or outlier_rounds < 0:
        raise UsageError("tv: tolerance and outlier_rounds must not be negative, max_iterations at least 1")
    noise = noise_ppm(local_ppm, mask, reliability)
    value = chosen("tv", regularisation, lambda: regularisation_from_noise(noise), record)
    state = Splitting(local_ppm, weights(mask, grid, reliability) ** 2, mask, grid)
    state.start()
    state.run_rounds(
        squares_step,
        rounds=outlier_rounds + 1,
        noise_ppm=noise,
        first=absolute_data(noise),
        regularisation=value,
        tolerance=tolerance,
        max_iterations=max_iterations,
        progress=progress,
    )
    return state.result()

"""Weak-harmonic inversion: total variation beside a smooth field that background removal left behind.

Source: Milovic 2019 (WH-QSM), 10.1002/mrm.27483.
minimise  1/2 |W (D x + h - f)|^2 + lambda |g x|_1 + beta/2 |Laplacian h|^2,  x = 0 outside the mask.
h is eliminated in k-space: susceptibility must explain the share g(k) = K^2 / (K^2 + K0^2) of each wavelength
(K the Laplacian's symbol, K0 its value at `harmonic_mm`), and no transform is added. The Laplacian is kept small over
the whole padded box, where the paper asks it of the mask alone. Outliers are dealt with as in tv.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import Splitting, absolute_data
from qsm_runtime.inversion._direct import check
from qsm_runtime.inversion._noise import Record, chosen, noise_ppm, weights
from qsm_runtime.inversion.tv import regularisation_from_noise
from qsm_runtime.kernels.splitting import squares_step


def weak_harmonic(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    harmonic_mm: float = 25.0,
    tolerance: float = 0.005,
    max_iterations: int = 36,
    outlier_rounds: int = 1,
    reliability: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility by total variation with a weak harmonic field.

    local_ppm       float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask            bool (x, y, z)
    regularisation  lambda in ppm; "auto" takes it from the noise
    harmonic_mm     wavelength in mm beyond which the field is put down to remaining background, above 0
    tolerance       stop when an iteration changes the map by less than this share of its norm
    max_iterations  of all rounds together
    outlier_rounds  how often voxels with a residual beyond 6 standard deviations lose weight, after a first round
                    of absolute differences; 0 trusts every voxel and takes squares alone
    reliability     float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    record          called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not harmonic_mm > 0:
        raise UsageError(f"weak_harmonic: harmonic_mm must be above 0, got {harmonic_mm}")
    if not tolerance >= 0 or max_iterations < 1 or outlier_rounds < 0:
        raise UsageError("weak_harmonic: tolerance and outlier_rounds must not be negative, max_iterations at least 1")
    w = weights(mask, grid, reliability)
    noise = noise_ppm(local_ppm, mask, reliability)
    value = chosen("weak_harmonic", regularisation, lambda: regularisation_from_noise(noise), record)
    state = Splitting(local_ppm, w * w, mask, grid)
    state.leave_smooth_fields(harmonic_mm / grid.voxel_volume_mm3 ** (1 / 3))
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

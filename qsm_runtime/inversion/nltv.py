"""Nonlinear total variation: the phase's own misfit, blind to whole turns, and total variation.

Source: Milovic 2018 (FANSI), 10.1002/mrm.27073.
minimise  |W (exp(i s D x) - exp(i s f))|^2 / (2 s^2) + lambda |g x|_1,  x = 0 outside the mask,  s rad a ppm;
ADMM with y = D x, whose proximal map takes a few Newton steps a voxel. With outlier_rounds, voxels whose residual the
model cannot explain lose weight after a round (MERIT: Liu 2013, 10.1002/mrm.24272).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._admm import DataStep, Splitting
from qsm_runtime.inversion._direct import check
from qsm_runtime.inversion._noise import Record, chosen, noise_ppm, weights
from qsm_runtime.inversion._phase import phase_scale
from qsm_runtime.inversion.tv import regularisation_from_noise
from qsm_runtime.kernels.splitting import phase_step


def phase_data(scale: np.float32) -> DataStep:
    """The nonlinear data term at `scale` rad a ppm."""

    def step(y: np.ndarray, u: np.ndarray, f: np.ndarray, w2: np.ndarray, r: np.float32) -> None:
        phase_step(y, u, f, w2, r, scale)

    return step


def nltv(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    tolerance: float = 0.005,
    max_iterations: int = 60,
    outlier_rounds: int = 1,
    reliability: np.ndarray | None = None,
    b0_tesla: float | None = None,
    echo_times_s: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility by nonlinear total variation.

    local_ppm       float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask            bool (x, y, z)
    regularisation  lambda in ppm; "auto" takes it from the noise
    tolerance       stop when an iteration changes the map by less than this share of its norm
    max_iterations  of all rounds together
    outlier_rounds  how often voxels with a residual beyond 6 standard deviations lose weight, after a first round;
                    0 trusts every voxel
    reliability     float32 (x, y, z), inverse standard deviation of the field in 1/ppm, 0 = not to be trusted
    b0_tesla, echo_times_s  set the phase that a ppm makes by the middle echo; without them 3 T and 20 ms are taken
    record          called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask. Raises UsageError, ShapeError, ReconstructionError.
    """
    check(local_ppm, mask, grid)
    if not tolerance >= 0 or max_iterations < 1 or outlier_rounds < 0:
        raise UsageError("nltv: tolerance and outlier_rounds must not be negative, max_iterations at least 1")
    w = weights(mask, grid, reliability)
    noise = noise_ppm(local_ppm, mask, reliability)
    value = chosen("nltv", regularisation, lambda: regularisation_from_noise(noise), record)
    state = Splitting(local_ppm, w * w, mask, grid)
    state.start()
    state.run_rounds(
        phase_data(phase_scale(b0_tesla, echo_times_s)),
        rounds=outlier_rounds + 1,
        noise_ppm=noise,
        regularisation=value,
        tolerance=tolerance,
        max_iterations=max_iterations,
        progress=progress,
    )
    return state.result()

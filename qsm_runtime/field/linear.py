"""Weighted linear fit of phase against echo time, offset left free; and its complex, branch-free refinement.

linear     min over (p, w) of sum_e m_e^2 (phi_e - p - w TE_e)^2                     on unwrapped phase
nonlinear  min over (p, w) of sum_e |S_e - m_e exp(i (p + w TE_e))|^2, Gauss-Newton   (Liu et al. 2013,
           10.1002/mrm.24272); fitting before any Laplacian step was most accurate (Biondetti 2022).
"""

import numpy as np

from qsm_runtime.errors import MetadataError, ReconstructionError, UsageError
from qsm_runtime.field.weighted import in_ppm
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.echo_fit import channel_noise, fit_line


def linear(
    phase_rad: np.ndarray,
    magnitude: np.ndarray,
    echo_times_s: tuple[float, ...],
    b0_tesla: float,
    mask: np.ndarray,
    grid: Grid,
) -> tuple[np.ndarray, np.ndarray]:
    """Total field in ppm and reliability in 1/ppm; arguments as for `weighted`, every echo unwrapped.

    Raises MetadataError with fewer than two echoes.
    """
    return _fit(phase_rad, magnitude, echo_times_s, b0_tesla, mask, grid, 0)


def nonlinear(
    phase_rad: np.ndarray,
    magnitude: np.ndarray,
    echo_times_s: tuple[float, ...],
    b0_tesla: float,
    mask: np.ndarray,
    grid: Grid,
    *,
    iterations: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Total field in ppm and reliability in 1/ppm; arguments as for `weighted`, every echo unwrapped (the start).

    iterations  Gauss-Newton steps, 1..50. Raises MetadataError with fewer than two echoes, UsageError.
    """
    if not 1 <= iterations <= 50:
        raise UsageError(f"field.iterations must lie between 1 and 50, got {iterations}")
    return _fit(phase_rad, magnitude, echo_times_s, b0_tesla, mask, grid, iterations)


def _fit(
    phase_rad: np.ndarray,
    magnitude: np.ndarray,
    echo_times_s: tuple[float, ...],
    b0_tesla: float,
    mask: np.ndarray,
    grid: Grid,
    iterations: int,
) -> tuple[np.ndarray, np.ndarray]:
    if len(echo_times_s) < 2:
        raise MetadataError("fitting phase against echo time needs at least two echoes; use --field weighted")
    noise = channel_noise(magnitude[0], phase_rad[0], mask)
    if noise <= 0:
        raise ReconstructionError("the phase carries no measurable noise inside the mask; is it constant there?")
    rate, deviation = np.empty(grid.shape, np.float32), np.empty(grid.shape, np.float32)
    te_s = np.asarray(echo_times_s, np.float64)
    fit_line(phase_rad, magnitude, te_s, mask, noise, iterations, rate, deviation)
    return in_ppm(rate, deviation, b0_tesla, echo_times_s[0])

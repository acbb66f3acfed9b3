"""Weighted mean of the echoes' frequencies, with weights that know noise and dephasing. Needs the offset removed.

Robinson et al. 2017, 10.1002/nbm.3601:  f = sum(w_e phi_e / TE_e) / sum(w_e),  w_e = TE_e^2 / var(phi_e).
Thermal noise gives var = (noise / m_e)^2, the usual (m_e TE_e)^2 weights. Where the field changes across a voxel
by `spread`, the voxel's phase departs from w TE in second order of the spread it has built up, so late echoes near
air, veins and bleeds are wrong rather than noisy: var += (dephasing (spread TE_e)^2)^2 keeps them from pulling.
The spread comes from a first estimate of the field itself.
"""

import warnings

import numpy as np

from qsm_runtime.errors import QsmWarning, ReconstructionError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.echo_fit import channel_noise, combine_echoes, spread_across_voxel
from qsm_runtime.units import rad_per_ppm

LOST_RAD = 1.0  # standard deviation of a phase above which its branch cannot be told
MISFIT = 1.0  # noise levels that phases may typically lie off before it is said; about 0.5 where the model holds
_NO_SPREAD = np.empty((0, 0, 0), np.float32)


def weighted(
    phase_rad: np.ndarray,
    magnitude: np.ndarray,
    echo_times_s: tuple[float, ...],
    b0_tesla: float,
    mask: np.ndarray,
    grid: Grid,
    *,
    dephasing: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Total field in ppm and its reliability in 1/ppm (inverse standard deviation), float32 (x, y, z).

    phase_rad   float32 (echo, x, y, z): offset removed, at least the first echo unwrapped in space; later echoes
                are taken to the branch nearest the estimate that the earlier ones give
    magnitude   float32 (echo, x, y, z); mask bool (x, y, z)
    dephasing   rad of bias per rad^2 of phase spread across a voxel, >= 0; 0 is the plain (m TE)^2 weighting

    Reliability is 0 outside the mask, and where no echo has signal or the field cannot be told.
    Raises UsageError, ReconstructionError.
    """
    if not dephasing >= 0:
        raise UsageError(f"field.dephasing must not be negative, got {dephasing}")
    te_s = np.asarray(echo_times_s, np.float64)
    noise = channel_noise(magnitude[0], phase_rad[0], mask)
    if noise <= 0:
        raise ReconstructionError("the phase carries no measurable noise inside the mask; is it constant there?")
    rate, deviation = np.empty(grid.shape, np.float32), np.empty(grid.shape, np.float32)
    combine_echoes(phase_rad, magnitude, te_s, mask, _NO_SPREAD, dephasing, noise, rate, deviation)
    if dephasing > 0 and len(te_s) > 1:
        spread = np.empty(grid.shape, np.float32)
        spread_across_voxel(rate, mask, spread)
        combine_echoes(phase_rad, magnitude, te_s, mask, spread, dephasing, noise, rate, deviation)
    if len(te_s) > 1:
        misfit = _misfit(phase_rad, magnitude, te_s, mask, noise, rate)
        if misfit > MISFIT:
            warnings.warn(
                f"the echoes' phases do not grow with echo time (typically {misfit:.1f} times the noise off): fat, a "
                "phase offset that is not smooth, a bipolar readout or wrong echo times; compare with --field linear",
                QsmWarning,
                stacklevel=2,
            )
    return in_ppm(rate, deviation, b0_tesla, echo_times_s[0])


def _misfit(
    phase_rad: np.ndarray, magnitude: np.ndarray, te_s: np.ndarray, mask: np.ndarray, noise: float, rate: np.ndarray
) -> float:
    """Median over some masked voxels and all echoes of |phi_e - w TE_e| in standard deviations of its noise."""
    some = np.flatnonzero(mask)[:: max(1, np.count_nonzero(mask) // 50_000)]
    residual = phase_rad.reshape(len(te_s), -1)[:, some] - rate.ravel()[some] * te_s[:, None]
    residual -= 2 * np.pi * np.rint(residual / (2 * np.pi))
    return float(np.median(np.abs(residual) * magnitude.reshape(len(te_s), -1)[:, some])) / noise


def in_ppm(
    rate: np.ndarray, deviation: np.ndarray, b0_tesla: float, first_echo_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """(total_ppm, reliability) from a rate and its standard deviation in rad/s.

    Reliability is 0 where nothing was fitted, and where the phase of the first echo is uncertain by more than
    LOST_RAD: its branch is a guess there.
    """
    rad_per_s_ppm = np.float32(rad_per_ppm(b0_tesla, 1.0))
    known = (deviation > 0) & (deviation * np.float32(first_echo_s) < LOST_RAD)
    reliability = np.divide(rad_per_s_ppm, deviation, out=np.zeros_like(deviation), where=known)
    return rate / rad_per_s_ppm, reliability

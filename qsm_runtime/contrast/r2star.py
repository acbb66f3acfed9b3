"""R2* from the decay of the magnitude over echoes, s = s0 exp(-R2* TE).

Least squares for any echo times, with the Rician noise floor taken off (Gudbjartsson 1995,
10.1002/mrm.1910340618); ARLO (Pei 2015, 10.1002/mrm.25137) for three or more equally spaced echoes.
"""

from typing import Literal

import numpy as np

from qsm_runtime.errors import MetadataError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.decay import decay_arlo, decay_least_squares

SPACING_TOLERANCE = 0.01  # relative differences of echo spacings that still count as equal
FASTEST = 5.0  # largest R2* told from "gone at the second echo": in units of 1 / (first spacing)
RAYLEIGH_MEDIAN = float(np.sqrt(2 * np.log(2)))
RAYLEIGH_TENTH = float(np.sqrt(-2 * np.log(0.9)))


def r2star(
    magnitude: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    echo_times_s: tuple[float, ...],
    fit: Literal["least_squares", "arlo"] = "least_squares",
    noise: float | None = None,
) -> np.ndarray:
    """R2* in 1/s, float32 (x, y, z), zero outside the mask; within [0, 5 / first echo spacing].

    magnitude: float32 (echo, x, y, z), any unit, two echoes or more. mask: bool (x, y, z).
    echo_times_s: increasing. noise: standard deviation of the real part in the magnitude's unit, >= 0; None takes it
    from the voxels outside the mask (0 where they are blank); used by least_squares only.
    Raises MetadataError for a single echo, or unequal spacing with ARLO.
    """
    times = np.asarray(echo_times_s, float)
    if magnitude.ndim != 4 or len(times) != len(magnitude):
        raise ShapeError(f"magnitude has shape {magnitude.shape}, expected ({len(times)} echoes, x, y, z)")
    grid.check(magnitude[0], "magnitude")
    grid.check(mask, "mask")
    if len(times) < 2:
        raise MetadataError("R2* needs two echoes or more and there is one: leave R2* out, or give all echoes")
    spacing = np.diff(times)
    if not spacing.min() > 0:
        raise MetadataError(f"echo times must increase, got {times.tolist()} s")
    magnitude = np.ascontiguousarray(magnitude, np.float32)
    mask = np.ascontiguousarray(mask, np.bool_)
    fastest_hz = FASTEST / spacing[0]
    if fit == "least_squares":
        noise = noise_level(magnitude, mask) if noise is None else noise
        if not noise >= 0:
            raise UsageError(f"noise must be >= 0, got {noise}")
        return decay_least_squares(magnitude, times, mask, float(noise), fastest_hz)
    if fit == "arlo":
        if len(times) < 3 or np.ptp(spacing) > SPACING_TOLERANCE * spacing.mean():
            raise MetadataError(
                f"ARLO needs three or more equally spaced echoes, got {times.tolist()} s: use fit least_squares"
            )
        return decay_arlo(magnitude, float(spacing.mean()), mask, fastest_hz)
    raise UsageError(f"fit must be least_squares or arlo, got {fit!r}")


def noise_level(magnitude: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the noise in the real part, from air outside the mask; 0 where there is none.

    magnitude: float32 (echo, x, y, z); the last echo's air is used, taken as Rayleigh-distributed: a first guess from
    the tenth percentile of what is not zero, then the median of what lies below three standard deviations.
    """
    around = magnitude[-1][~mask]
    around = around[around > 0]
    if around.size < 0.1 * mask.sum() or around.size < 1000:
        return 0.0
    sigma = float(np.percentile(around, 10)) / RAYLEIGH_TENTH
    for _ in range(5):
        sigma = float(np.median(around[around < 3 * sigma])) / RAYLEIGH_MEDIAN
    # tissue outside a mask that leaves no air would pass for noise: a floor near the signal is none
    return sigma if sigma < 0.2 * float(np.median(magnitude[0][mask])) else 0.0

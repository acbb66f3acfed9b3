"""Susceptibility-weighted image: magnitude darkened where the high-pass phase is paramagnetic.

Single echo: E. M. Haacke, Magn. Reson. Med. 52:612 (2004), 10.1002/mrm.20198. The phase is divided by its low-pass
(homodyne), phi = arg(S conj(L S)), and the magnitude multiplied by f^power, with f = 1 - phi / pi for phi > 0 and 1
else. (Haacke's phase has the opposite sign; here a vein along B0 is positive.)
Several echoes, after CLEAR-SWI (K. Eckstein, Proc. ISMRM 2020, 3201): the echoes' high-pass frequencies are averaged
with weights (magnitude TE)^2, the inverse variance, and the magnitudes combined by root sum of squares; `sigmoid` is
its phase mask, f = (1 + tanh(1 - phi / m)) / 2 with m = 10 median(phi > 0) / power.
"""

from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter, minimum_filter1d

from qsm_runtime.errors import ReconstructionError, ShapeError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import box_of
from qsm_runtime.kernels.signal import combine_magnitude

TRUNCATE = 3.0  # standard deviations of the low-pass that are summed


def swi(
    magnitude: np.ndarray,
    phase_rad: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    echo_times_s: tuple[float, ...],
    low_pass_mm: float = 3.0,
    power: float = 4.0,
    phase_mask: Literal["linear", "sigmoid"] = "linear",
) -> np.ndarray:
    """Susceptibility-weighted magnitude, float32 (x, y, z), zero outside the mask; phase as at the last echo.

    magnitude, phase_rad: float32 (echo, x, y, z), any unit and rad (wrapped). mask: bool (x, y, z).
    low_pass_mm: standard deviation of the Gaussian that takes the background off, > 0.
    power: times that the linear phase mask is applied, or the sigmoid's strength, > 0.
    """
    for name, array in (("magnitude", magnitude), ("phase", phase_rad)):
        if array.shape != (len(echo_times_s), *grid.shape):
            raise ShapeError(f"{name} has shape {array.shape}, expected {(len(echo_times_s), *grid.shape)}")
    grid.check(mask, "mask")
    if not low_pass_mm > 0 or not power > 0:
        raise UsageError(f"low_pass_mm and power must be > 0, got {low_pass_mm} and {power}")
    if phase_mask not in ("linear", "sigmoid"):
        raise UsageError(f"phase_mask must be linear or sigmoid, got {phase_mask!r}")
    if not mask.any():
        raise ReconstructionError("the mask is empty: there is nothing to weight")
    box = box_of(mask)
    crop = box.slices
    inside = mask[crop]
    phase = high_pass_phase(magnitude[:, *crop], phase_rad[:, *crop], inside, grid.voxel_mm, echo_times_s, low_pass_mm)
    if phase_mask == "linear":
        weight = np.clip(1 - phase / np.float32(np.pi), 0, 1) ** np.float32(power)
    else:
        positive = phase[inside & (phase > 0)]
        middle = 10 * float(np.median(positive)) / power if positive.size else 1.0
        weight = 0.5 * (1 + np.tanh(1 - phase / np.float32(middle)))
    combined = combine_magnitude(np.ascontiguousarray(magnitude[:, *crop], np.float32))
    out = np.zeros(grid.shape, np.float32)
    out[crop] = np.where(inside, combined * weight, np.float32(0))
    return out


def high_pass_phase(
    magnitude: np.ndarray,
    phase_rad: np.ndarray,
    mask: np.ndarray,
    voxel_mm: tuple[float, float, float],
    echo_times_s: tuple[float, ...],
    low_pass_mm: float,
) -> np.ndarray:
    """Homodyne phase in rad at the last echo, float32 (x, y, z), averaged over echoes; zero outside the mask."""
    sigma = [low_pass_mm / v if n > 1 else 0.0 for v, n in zip(voxel_mm, mask.shape, strict=True)]
    last = echo_times_s[-1]
    total = np.zeros(mask.shape, np.float32)
    weights = np.zeros(mask.shape, np.float32)
    for m, phi, echo_time_s in zip(magnitude, phase_rad, echo_times_s, strict=True):
        finite = mask & np.isfinite(m) & np.isfinite(phi)
        signal = np.where(finite, m, np.float32(0)) * np.exp(1j * np.where(finite, phi, np.float32(0)))
        low = [gaussian_filter(part, sigma, truncate=TRUNCATE) for part in (signal.real, signal.imag)]
        high = np.angle(signal * (low[0] - 1j * low[1])).astype(np.float32)
        weight = np.where(finite, m * np.float32(echo_time_s / last), np.float32(0)) ** 2
        total += weight * high * np.float32(last / echo_time_s)
        weights += weight
    return np.where(weights > 0, total / np.where(weights > 0, weights, 1), np.float32(0))


def minimum_projection(
    image: np.ndarray, mask: np.ndarray, grid: Grid, *, thickness_mm: float = 8.0, axis: int = 2
) -> np.ndarray:
    """Sliding minimum-intensity projection over the mask, float32 (x, y, z), zero outside the mask.

    image: float32 (x, y, z). thickness_mm: of the slab around each slice, > 0. axis: 0, 1 or 2.
    """
    grid.check(image, "image")
    grid.check(mask, "mask")
    if not thickness_mm > 0 or axis not in (0, 1, 2):
        raise UsageError(f"thickness_mm must be > 0 and axis 0, 1 or 2; got {thickness_mm} and {axis}")
    slices = max(1, round(thickness_mm / grid.voxel_mm[axis]))
    bright = np.where(mask, image, np.float32(np.inf)).astype(np.float32)
    return np.where(mask, minimum_filter1d(bright, slices, axis=axis, mode="nearest"), np.float32(0))

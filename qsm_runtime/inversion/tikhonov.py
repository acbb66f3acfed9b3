"""Closed-form Tikhonov inversion.

Source: Bilgic 2014, 10.1002/mrm.25029; strength correction Schweser 2013, 10.1002/mrm.24405.
minimise |D x - f|^2 + lambda |G x|^2, G identity or gradient:  H = D / (D^2 + lambda |G|^2),  chi = F^-1 (H F f) / c,
with c = mean(D H) for the identity. A gradient penalty keeps what is large and smooths what is small: no single
factor describes it, and none is applied.
"""

from typing import Literal

import numpy as np

from qsm_runtime.errors import UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import Strength, check, invert
from qsm_runtime.inversion._noise import Record, chosen, noise_ppm, noise_to_signal
from qsm_runtime.kernels import inverse_filters

NOISE_FACTOR = 0.28  # lambda over the noise's share of the susceptibility, in amplitude; from simulated heads
FLOOR = 1.5e-3  # lambda of a field without noise: the cut at the mask


def regularisation_from_noise(noise_to_signal: float) -> float:
    """lambda for noise whose variance is `noise_to_signal` of the susceptibility's.

    Wiener's lambda is the ratio of variances itself, which a few strong sources make small. Contrast is spread over
    decades: each place asks for the lambda of its own, and what serves most of them grows as the ratio's root.
    """
    return max(NOISE_FACTOR * noise_to_signal**0.5, FLOOR)


def tikhonov(
    local_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    regularisation: float | Literal["auto"] = "auto",
    penalty: Literal["identity", "gradient"] = "identity",
    strength: Strength = "corrected",
    reliability: np.ndarray | None = None,
    record: Record = None,
) -> np.ndarray:
    """Susceptibility by Tikhonov regularisation in closed form.

    local_ppm       float32 (x, y, z), local field in ppm; only its values inside the mask are used
    mask            bool (x, y, z)
    regularisation  lambda, without unit; "auto" takes it from the noise
    penalty         what is kept small: the map ("identity") or its differences over one mean voxel ("gradient")
    strength        "corrected" by 1 / mean(D H) where the penalty is the identity, or as "filtered"
    reliability     float32 (x, y, z), inverse standard deviation of the field in 1/ppm: the noise, where given
    record          called with ("regularisation", value used)
    Returns float32 (x, y, z) in ppm, zero outside the mask; its mean over the padded box is zero, as D(0) = 0.
    Raises UsageError, ShapeError, ReconstructionError (empty mask).
    """
    check(local_ppm, mask, grid)
    if penalty not in ("identity", "gradient"):
        raise UsageError(f'tikhonov: penalty must be "identity" or "gradient", got {penalty!r}')

    def automatic() -> float:
        noise = noise_ppm(local_ppm, mask, reliability)
        return regularisation_from_noise(noise_to_signal(noise, local_ppm, mask, reliability))

    value = chosen("tikhonov", regularisation, automatic, record)
    mean = float(np.prod(grid.voxel_mm)) ** (1 / 3)

    def inverse(dipole: np.ndarray, scale: float, last_size: int) -> float:
        sizes = (*dipole.shape[:2], last_size)
        axes = []
        for size, count, voxel in zip(sizes, dipole.shape, grid.voxel_mm, strict=True):
            frequency = np.pi * np.arange(count) / size
            axes.append((2 * np.sin(frequency) * mean / voxel) ** 2 if penalty == "gradient" else np.full(count, 1 / 3))
        kept = inverse_filters.ridge(dipole, (axes[0], axes[1], axes[2]), value, scale, last_size)
        return kept if penalty == "identity" else 1.0

    return invert(local_ppm, mask, grid, inverse, strength)

"""MCPC-3D-S: remove the phase at echo time zero (receive offset), for one or two readout polarities.

Eckstein et al. 2018, 10.1002/mrm.26963:  offset = phi_1 - TE_1 / (TE_b - TE_a) * unwrap(arg(S_b conj(S_a))),
smoothed as a complex number after a low-order polynomial has been taken out. With a bipolar readout odd and even
echoes carry different offsets: the field then comes from two echoes of one polarity (a, b = 1, 3), and each
polarity has its own offset.
"""

from typing import Literal

import numpy as np

from qsm_runtime.errors import MetadataError, UsageError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels.phasor import (
    block_phasors,
    phase_difference,
    polynomial_trend,
    smooth_phasors,
    subtract_phasor,
)
from qsm_runtime.unwrap.romeo import unwrap_volume

BLOCK_MM = 4.0  # the offset is found on blocks of about this size
TREND_ORDER = 3  # receive offsets of a volume coil are nearly quadratic; the Gaussian does the rest


def mcpc3ds(
    phase_rad: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    magnitude: np.ndarray,
    echo_times_s: tuple[float, ...],
    smoothing_mm: float = 7.0,
    readout: Literal["monopolar", "bipolar"] = "monopolar",
) -> np.ndarray:
    """Wrapped phase (echo, x, y, z), rad, without the smooth offset that does not grow with echo time; 0 outside.

    phase_rad, magnitude  float32 (echo, x, y, z); mask bool (x, y, z)
    smoothing_mm          standard deviation of the Gaussian, > 0
    readout               "bipolar" where even echoes are read in the opposite direction (needs 3 echoes)
    """
    if readout not in ("monopolar", "bipolar"):
        raise UsageError(f"offset.readout must be monopolar or bipolar, got {readout!r}")
    if not smoothing_mm > 0:
        raise UsageError(f"offset.smoothing_mm must be positive, got {smoothing_mm}")
    step = 2 if readout == "bipolar" else 1
    if len(echo_times_s) <= step:
        raise MetadataError(
            f"removing the phase offset of a {readout} readout needs at least {step + 1} echoes, got "
            f"{len(echo_times_s)}; use --offset none"
        )
    te = np.asarray(echo_times_s, float)
    bx, by, bz = (max(1, round(BLOCK_MM / v)) for v in grid.voxel_mm)
    sx, sy, sz = (smoothing_mm / (v * b) for v, b in zip(grid.voxel_mm, (bx, by, bz), strict=True))
    block, sigma_blocks = (bx, by, bz), (sx, sy, sz)
    advance = unwrap_volume(phase_difference(phase_rad[step], phase_rad[0]), mask, magnitude=magnitude[step])
    weight = magnitude[0] * magnitude[step]
    out = np.empty_like(phase_rad)
    for polarity in range(step):
        ratio = te[polarity] / (te[step] - te[0])
        blocks = block_phasors(phase_rad[polarity], advance, ratio, weight, mask, block)
        angle = unwrap_volume(np.angle(blocks), blocks != 0, magnitude=np.abs(blocks))
        blocks = smooth_phasors(blocks, polynomial_trend(blocks, angle, TREND_ORDER), sigma_blocks)
        for echo in range(polarity, len(te), step):
            subtract_phasor(phase_rad[echo], mask, blocks, block, out[echo])
    return out

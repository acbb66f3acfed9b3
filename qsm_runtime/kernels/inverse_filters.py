"""Regularised inverses of a real half-spectrum filter D, in place, and what each leaves of a point source.

Every loop turns `d` (float32) into H ~ 1/D times `scale` and returns, row by row, the sums of D H over the whole
spectrum (mirrored samples counted), whose mean c is the strength that a point source keeps after D H.
Source of the correction by 1/c: Schweser 2013, 10.1002/mrm.24405.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)


@njit(parallel=True, cache=True)
def _threshold(d, delta, inside, scale, mirrored_to, sums):
    """1/D outside the cone |D| <= delta; `inside`: 0 zero, 1 sign(D)/delta, 2 D/delta^2."""
    for i in prange(d.shape[0]):
        total = 0.0
        for j in range(d.shape[1]):
            for k in range(d.shape[2]):
                v = d[i, j, k]
                if abs(v) > delta:
                    h = 1.0 / v
                elif inside == 0 or v == 0:
                    h = 0.0
                elif inside == 1:
                    h = 1.0 / delta if v > 0 else -1.0 / delta
                else:
                    h = v / (delta * delta)
                total += v * h * (2.0 if 0 < k < mirrored_to else 1.0)
                d[i, j, k] = h * scale
        sums[i] = total


@njit(parallel=True, cache=True)
def _ridge(d, penalty_x, penalty_y, penalty_z, weight, scale, mirrored_to, sums):
    """D / (D^2 + weight (penalty_x + penalty_y + penalty_z))."""
    for i in prange(d.shape[0]):
        total = 0.0
        for j in range(d.shape[1]):
            for k in range(d.shape[2]):
                v = d[i, j, k]
                below = v * v + weight * (penalty_x[i] + penalty_y[j] + penalty_z[k])
                h = v / below if below > 0 else 0.0
                total += v * h * (2.0 if 0 < k < mirrored_to else 1.0)
                d[i, j, k] = h * scale
        sums[i] = total


def _share(sums: np.ndarray, d: np.ndarray, last_size: int) -> float:
    return float(sums.sum()) / (d.shape[0] * d.shape[1] * last_size)


def threshold(d: np.ndarray, delta: float, inside: int, scale: float, last_size: int) -> float:
    """H = scale/D where |D| > delta; inside the cone 0 (`inside` 0), sign(D)/delta (1) or D/delta^2 (2). Returns c.

    d          float32 (nx, ny, nz//2+1), overwritten
    last_size  nz, the last size of the real array
    """
    sums = np.empty(d.shape[0])
    _threshold(d, float(delta), inside, float(scale), (last_size + 1) // 2, sums)
    return _share(sums, d, last_size)


def ridge(
    d: np.ndarray,
    penalty: tuple[np.ndarray, np.ndarray, np.ndarray],
    weight: float,
    scale: float,
    last_size: int,
) -> float:
    """H = scale D / (D^2 + weight G), G the sum of one float64 penalty an axis. Returns c; `d` is overwritten."""
    sums = np.empty(d.shape[0])
    _ridge(d, *penalty, float(weight), float(scale), (last_size + 1) // 2, sums)
    return _share(sums, d, last_size)

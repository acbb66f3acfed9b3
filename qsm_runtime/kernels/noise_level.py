"""Noise of a smooth image from its own highest frequencies.

The stencil (1, -2, 1) along all three axes annuls any sum of terms that are linear in one coordinate, and turns
white noise of standard deviation sigma into one of sqrt(6^3) sigma; the median of its magnitude ignores edges.
Source: Immerkaer 1996, 10.1006/cviu.1996.0060 (two dimensions; here three, with a median).
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

GAUSSIAN_MEDIAN = 0.6744897501960817  # median of |x| for a unit normal
PLANES = 48  # about as many are looked at, evenly spread: the median needs no more


@njit(parallel=True, cache=True)
def _second_differences(x, mask, stride, out):
    _, ny, nz = x.shape
    for n in prange(out.shape[0]):
        i = 1 + n * stride
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                total = np.float32(0)
                inside = True
                for a in range(-1, 2):
                    for b in range(-1, 2):
                        for c in range(-1, 2):
                            inside = inside and mask[i + a, j + b, k + c]
                            weight = (3 * a * a - 2) * (3 * b * b - 2) * (3 * c * c - 2)
                            total += np.float32(weight) * x[i + a, j + b, k + c]
                out[n, j, k] = abs(total) if inside else np.float32(-1)


def noise_level(x: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the white noise in float32 `x` inside `mask`; 0 where no 3x3x3 block lies inside."""
    inner = max(x.shape[0] - 2, 0)
    stride = max(1, inner // PLANES)
    found = np.full((-(-inner // stride), *x.shape[1:]), -1, np.float32)
    _second_differences(x, mask, stride, found)
    found = found[found >= 0]
    return float(np.median(found)) / (GAUSSIAN_MEDIAN * 216**0.5) if found.size else 0.0

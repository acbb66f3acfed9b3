"""Single voxels that disagree with all around them: wraps and dropouts, values that no source nearby explains."""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

CROWD = 3  # a strong source makes many voxels differ from their neighbours at once: beyond so many, none is isolated


@njit(parallel=True, cache=True)
def _apart(x, mask, step, out):
    nx, ny, nz = x.shape
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                if not mask[i, j, k]:
                    continue
                here, known, near = x[i, j, k], -1, -1
                for a in range(max(0, i - 1), min(nx, i + 2)):
                    for b in range(max(0, j - 1), min(ny, j + 2)):
                        for c in range(max(0, k - 1), min(nz, k + 2)):
                            if mask[a, b, c]:
                                known += 1
                                near += abs(x[a, b, c] - here) <= step
                out[i, j, k] = 2 * near < known


@njit(parallel=True, cache=True)
def _thinned(apart, out):
    nx, ny, nz = apart.shape
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                if not apart[i, j, k]:
                    continue
                crowd = -1
                for a in range(max(0, i - 1), min(nx, i + 2)):
                    for b in range(max(0, j - 1), min(ny, j + 2)):
                        for c in range(max(0, k - 1), min(nz, k + 2)):
                            crowd += apart[a, b, c]
                out[i, j, k] = crowd <= CROWD


def isolated(x: np.ndarray, mask: np.ndarray, step: float) -> np.ndarray:
    """Bool (x, y, z): masked voxels more than `step` from most of their masked neighbours, and few such together."""
    apart, out = np.zeros(x.shape, bool), np.zeros(x.shape, bool)
    _apart(x, mask, np.float32(step), apart)
    _thinned(apart, out)
    return out

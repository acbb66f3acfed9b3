"""Fused loops of a split (ADMM) solver whose field has a nearly harmonic part h beside that of susceptibility x.

Splits v = D x + h (as in split_tv) and l = L h, L the Laplacian of step size 1, with beta/2 |l|^2 counted in a region.
One array, p = L h + b, holds l and its multiplier b: l = p - c p and b = c p, c = beta / (beta + rho) in the region
and 0 outside it, where h may curve as it likes. Arrays are float32 (x, y, z), spectra complex64 of the half spectrum.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

FAST = {"nsz", "contract", "arcp", "reassoc"}  # NaN still travels


@njit(parallel=True, cache=True, fastmath=FAST)
def update_curvature(lh, p, region, share, relax):
    """p <- relax (L h + c p) + (1 - relax) p, in place; c is `share` in the bool region."""
    for i in prange(p.shape[0]):
        for j in range(p.shape[1]):
            for k in range(p.shape[2]):
                c = share if region[i, j, k] else np.float32(0)
                old = p[i, j, k]
                p[i, j, k] = relax * (lh[i, j, k] + c * old) + (np.float32(1) - relax) * old


@njit(parallel=True, cache=True, fastmath=FAST)
def reflect_curvature(p, region, share, out):
    """out = l - b = p - 2 c p."""
    for i in prange(p.shape[0]):
        for j in range(p.shape[1]):
            for k in range(p.shape[2]):
                c = share if region[i, j, k] else np.float32(0)
                out[i, j, k] = p[i, j, k] * (np.float32(1) - np.float32(2) * c)


@njit(parallel=True, cache=True, fastmath=FAST)
def solve_pair(data, differences, curvature, dipole, power, laplacian, rho_data, rho_tv, rho_harmonic, scale):
    """X and H that minimise rho_data |D X + H - data|^2 + rho_tv |g X|^2 .. + rho_harmonic |L H - curvature|^2.

    differences holds F g^T (z - u). On return `data` is scale X, `differences` scale (D X + H) and `curvature`
    scale L H. `dipole`, `power` (of g^T g) and `laplacian` are float32.
    """
    tiny = np.float32(1e-12)
    for i in prange(data.shape[0]):
        for j in range(data.shape[1]):
            for k in range(data.shape[2]):
                d, e, n = dipole[i, j, k], power[i, j, k], laplacian[i, j, k]
                free_x, free_h = rho_tv * e + tiny, rho_harmonic * n * n
                xx, xh, hh = rho_data * d * d + free_x, rho_data * d, rho_data + free_h
                right_x = rho_data * d * data[i, j, k] + rho_tv * differences[i, j, k]
                right_h = rho_data * data[i, j, k] + rho_harmonic * n * curvature[i, j, k]
                below = scale / (free_x * hh + rho_data * d * d * free_h)  # xx hh - xh xh without its cancellation
                x = (hh * right_x - xh * right_h) * below
                h = (xx * right_h - xh * right_x) * below
                data[i, j, k] = x
                differences[i, j, k] = d * x + h
                curvature[i, j, k] = n * h

"""Fused loops of a split (ADMM) solver for  min 1/2 |W (A x - f)|^2 + t-weighted TV(x)  with masked differences.

Splits v = A x and z = g x (g: forward differences a mm, periodic), scaled multipliers a and u. Each pair is held by
one array, q = A x + a and w = g x + u, since both v and a, z and u follow from it:
    v = q + k (f - q), a = k (q - f), k = W^2 / (W^2 + rho)         z = shrink(w, t), u = w - z = clip(w, t)
Over-relaxed by r (Eckstein and Bertsekas 1992, 10.1007/BF01581204), an iteration is
    q <- r (A x + k (q - f)) + (1 - r) q                            w <- r (g x + clip(w)) + (1 - r) w
and the x-update needs v - a = q + 2 k (f - q) and g^T (z - u) = g^T (w - 2 clip(w)).

Clipping cuts the vector's length to the voxel's threshold t weight(r). Differences whose bit is set in `free` (bit a
for axis a: one end lies outside the mask) are not penalised: t = 0 for them, and they add nothing to the length.
Arrays are float32 (x, y, z), w float32 (3, x, y, z), free uint8 (x, y, z).
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

FAST = {"nsz", "contract", "arcp", "reassoc"}  # NaN still travels


@njit(parallel=True, cache=True)
def free_differences(mask, free):
    """Set bit a of `free` where the forward difference along axis a does not have both ends in the bool `mask`."""
    nx, ny, nz = mask.shape
    for i in prange(nx):
        ip = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            jp = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                here = mask[i, j, k]
                bits = 0 if here and mask[ip, j, k] else 1
                bits += 0 if here and mask[i, jp, k] else 2
                bits += 0 if here and mask[i, j, k + 1 if k + 1 < nz else 0] else 4
                free[i, j, k] = bits


@njit(parallel=True, cache=True, fastmath=FAST)
def update_differences(x, w, t, weight, free, hx, hy, hz, relax):
    """w <- relax (g x + clip(w)) + (1 - relax) w, in place; h are 1 / voxel_mm."""
    nx, ny, nz = x.shape
    one, tiny = np.float32(1.0), np.float32(1e-30)
    keep = one - relax
    for i in prange(nx):
        ip = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            jp = j + 1 if j + 1 < ny else 0
            first = x[i, j, 0]
            for k in range(nz):
                a, b, c = w[0, i, j, k], w[1, i, j, k], w[2, i, j, k]
                bits = free[i, j, k]
                fa = one - one * (bits & 1)
                fb = one - np.float32(0.5) * (bits & 2)
                fc = one - np.float32(0.25) * (bits & 4)
                ca, cb, cc = a * fa, b * fb, c * fc
                s = min(one, t * weight[i, j, k] / np.sqrt(ca * ca + cb * cb + cc * cc + tiny))
                here = x[i, j, k]
                after = x[i, j, k + 1] if k + 1 < nz else first
                w[0, i, j, k] = relax * ((x[ip, j, k] - here) * hx + s * ca) + keep * a
                w[1, i, j, k] = relax * ((x[i, jp, k] - here) * hy + s * cb) + keep * b
                w[2, i, j, k] = relax * ((after - here) * hz + s * cc) + keep * c


@njit(cache=True, inline="always", fastmath=FAST)
def _reflected(w, i, j, k, t, weight, free):
    """(w - 2 clip(w)) at one voxel."""
    one, tiny = np.float32(1.0), np.float32(1e-30)
    a, b, c = w[0, i, j, k], w[1, i, j, k], w[2, i, j, k]
    bits = free[i, j, k]
    ca = a * (one - one * (bits & 1))
    cb = b * (one - np.float32(0.5) * (bits & 2))
    cc = c * (one - np.float32(0.25) * (bits & 4))
    s = np.float32(2.0) * min(one, t * weight[i, j, k] / np.sqrt(ca * ca + cb * cb + cc * cc + tiny))
    return a - s * ca, b - s * cb, c - s * cc


@njit(parallel=True, cache=True, fastmath=FAST)
def reflect_differences(w, t, weight, free, hx, hy, hz, out):
    """out = g^T (w - 2 clip(w))."""
    nx, ny, nz = out.shape
    for i in prange(nx):
        im = i - 1 if i > 0 else nx - 1
        row = np.empty(nz, np.float32)
        for j in range(ny):
            jm = j - 1 if j > 0 else ny - 1
            for k in range(nz):
                a, b, c = _reflected(w, i, j, k, t, weight, free)
                ax, _, _ = _reflected(w, im, j, k, t, weight, free)
                _, by, _ = _reflected(w, i, jm, k, t, weight, free)
                row[k] = c
                out[i, j, k] = (ax - a) * hx + (by - b) * hy
            out[i, j, 0] += (row[nz - 1] - row[0]) * hz
            for k in range(1, nz):
                out[i, j, k] += (row[k - 1] - row[k]) * hz


@njit(parallel=True, cache=True, fastmath=FAST)
def update_data(ax, q, f, k_data, relax):
    """q <- relax (A x + k (q - f)) + (1 - relax) q, in place."""
    for i in prange(q.shape[0]):
        for j in range(q.shape[1]):
            for k in range(q.shape[2]):
                old = q[i, j, k]
                q[i, j, k] = (
                    relax * (ax[i, j, k] + k_data[i, j, k] * (old - f[i, j, k])) + (np.float32(1) - relax) * old
                )


@njit(parallel=True, cache=True, fastmath=FAST)
def reflect_data(q, f, k_data, out):
    """out = v - a = q + 2 k (f - q)."""
    for i in prange(q.shape[0]):
        for j in range(q.shape[1]):
            for k in range(q.shape[2]):
                out[i, j, k] = q[i, j, k] + np.float32(2) * k_data[i, j, k] * (f[i, j, k] - q[i, j, k])


@njit(parallel=True, cache=True, fastmath=FAST)
def solve_spectrum(data, differences, normal, power, rho_data, rho_tv, scale):
    """data <- scale (rho_data data + rho_tv differences) / (rho_data normal + rho_tv power), 0 at k = 0."""
    tiny = np.float32(1e-30)
    for i in prange(data.shape[0]):
        for j in range(data.shape[1]):
            for k in range(data.shape[2]):
                s = scale / (rho_data * normal[i, j, k] + rho_tv * power[i, j, k] + tiny)
                data[i, j, k] = (rho_data * data[i, j, k] + rho_tv * differences[i, j, k]) * s
    data[0, 0, 0] = 0


@njit(parallel=True, cache=True, fastmath=FAST)
def sparsity_weight(x, free, hx, hy, hz, knee, out):
    """out = knee / (knee + |g x|) over the penalised differences: the next weight of a logarithmic penalty."""
    nx, ny, nz = x.shape
    one = np.float32(1.0)
    for i in prange(nx):
        ip = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            jp = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                bits = free[i, j, k]
                here = x[i, j, k]
                a = (x[ip, j, k] - here) * hx * (one - one * (bits & 1))
                b = (x[i, jp, k] - here) * hy * (one - np.float32(0.5) * (bits & 2))
                c = (x[i, j, k + 1 if k + 1 < nz else 0] - here) * hz * (one - np.float32(0.25) * (bits & 4))
                out[i, j, k] = knee / (knee + np.sqrt(a * a + b * b + c * c))


@njit(parallel=True, cache=True, fastmath=FAST)
def data_factor(ax, f, weight, limit, rho, out):
    """out = k = W^2 / (W^2 + rho), W = weight min(1, limit / |weight (A x - f)|): the residual's influence falls."""
    one, tiny = np.float32(1.0), np.float32(1e-30)
    for i in prange(f.shape[0]):
        for j in range(f.shape[1]):
            for k in range(f.shape[2]):
                w = weight[i, j, k]
                w *= min(one, limit / (abs(w * (ax[i, j, k] - f[i, j, k])) + tiny)) ** 2
                out[i, j, k] = w * w / (w * w + rho)

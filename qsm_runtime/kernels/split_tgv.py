"""Second-order total generalised variation inside an ADMM split: what split_tv does for the first order.

Prior (Bredies, Kunisch and Pock 2010, 10.1137/090769521)   min_s  t |z - s| + t2 |E s|,  E s = (grad s + grad s^T)/2
With z = g x split off and multiplier u, one array w = g x + u holds both once the slope field s is known:
    u = clip(w - s, t), z = w - u            w <- r (g x + clip(w - s)) + (1 - r) w            g^T (w - 2 clip(w - s))
s follows by one step of Condat (2013, 10.1007/s10957-012-0245-9) an iteration, with its own multiplier e, |e| <= t2:
    s' = s + tau (clip(w - s, t) - E^T e),   e <- cut(e + sigma E (2 s' - s), t2),   tau = .1, sigma = 2.3/(sum 1/v^2)
Slopes and their differences are penalised where both ends are in the mask (`free` as in split_tv).
Arrays float32: w, s (3, x, y, z), e (6, x, y, z) in the order xx xy xz yy yz zz, weight (x, y, z).
s, s_bar and e may end where the last penalised difference does.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

FAST = {"nsz", "contract", "arcp", "reassoc"}
TAU = np.float32(0.1)  # 1/tau - sigma |E|^2 >= 1/2, |E|^2 <= 4 sum 1/v^2


@njit(cache=True, inline="always", fastmath=FAST)
def _clipped(w, s, i, j, k, t, bits):
    if bits == 7:
        zero = np.float32(0)
        return zero, zero, zero
    a = (w[0, i, j, k] - s[0, i, j, k]) * (1 - (bits & 1))
    b = (w[1, i, j, k] - s[1, i, j, k]) * (1 - (bits >> 1 & 1))
    c = (w[2, i, j, k] - s[2, i, j, k]) * (1 - (bits >> 2 & 1))
    cut = min(np.float32(1), t / np.sqrt(a * a + b * b + c * c + np.float32(1e-30)))
    return a * cut, b * cut, c * cut


@njit(parallel=True, cache=True, fastmath=FAST)
def update_first(x, w, s, t, weight, free, hx, hy, hz, relax):
    """w <- relax (g x + clip(w - s)) + (1 - relax) w, in place."""
    nx, ny, nz = x.shape
    keep = np.float32(1) - relax
    for i in prange(nx):
        ip = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            jp = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                a, b, c = _clipped(w, s, i, j, k, t * weight[i, j, k], free[i, j, k])
                here = x[i, j, k]
                after = x[i, j, k + 1 if k + 1 < nz else 0]
                w[0, i, j, k] = relax * ((x[ip, j, k] - here) * hx + a) + keep * w[0, i, j, k]
                w[1, i, j, k] = relax * ((x[i, jp, k] - here) * hy + b) + keep * w[1, i, j, k]
                w[2, i, j, k] = relax * ((after - here) * hz + c) + keep * w[2, i, j, k]


@njit(parallel=True, cache=True, fastmath=FAST)
def reflect_first(w, s, t, weight, free, hx, hy, hz, out):
    """out = g^T (w - 2 clip(w - s))."""
    nx, ny, nz = out.shape
    two = np.float32(2)
    for i in prange(nx):
        im = i - 1 if i > 0 else nx - 1
        row = np.empty(nz, np.float32)
        for j in range(ny):
            jm = j - 1 if j > 0 else ny - 1
            for k in range(nz):
                a, b, c = _clipped(w, s, i, j, k, t * weight[i, j, k], free[i, j, k])
                ax, _, _ = _clipped(w, s, im, j, k, t * weight[im, j, k], free[im, j, k])
                _, by, _ = _clipped(w, s, i, jm, k, t * weight[i, jm, k], free[i, jm, k])
                row[k] = w[2, i, j, k] - two * c
                out[i, j, k] = (w[0, im, j, k] - two * ax - w[0, i, j, k] + two * a) * hx + (
                    w[1, i, jm, k] - two * by - w[1, i, j, k] + two * b
                ) * hy
            out[i, j, 0] += (row[nz - 1] - row[0]) * hz
            for k in range(1, nz):
                out[i, j, k] += (row[k - 1] - row[k]) * hz


@njit(cache=True, inline="always")
def _live(bits, other, axis):
    """1 where the slope along `axis` exists at both voxels."""
    return np.float32(1 - ((bits | other) >> axis & 1))


@njit(parallel=True, cache=True, fastmath=FAST)
def update_slope(w, s, s_bar, e, t, weight, free, hx, hy, hz):
    """s <- s + tau (clip(w - s) - E^T e), s_bar = 2 s' - s. e is zero in the array's first planes."""
    _, nx, ny, nz = s.shape
    half = np.float32(0.5)
    for i in prange(nx):
        ip = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            jp = j + 1 if j + 1 < ny else 0
            for k in range(nz):
                bits = free[i, j, k]
                if bits == 7:
                    continue
                kp = k + 1 if k + 1 < nz else 0
                a, b, c = _clipped(w, s, i, j, k, t * weight[i, j, k], bits)
                d = (a, b, c)
                for n in range(3):
                    if bits >> n & 1:
                        continue
                    cx, cy, cz = (0, 1, 2) if n == 0 else ((1, 3, 4) if n == 1 else (2, 4, 5))
                    m = free[i - 1, j, k] if i > 0 else 7
                    low = _live(bits, m, n)
                    up = _live(bits, free[ip, j, k], n) if i + 1 < nx else np.float32(0)
                    g = (up * e[cx, ip, j, k] - low * e[cx, i, j, k]) * hx
                    m = free[i, j - 1, k] if j > 0 else 7
                    low = _live(bits, m, n)
                    up = _live(bits, free[i, jp, k], n) if j + 1 < ny else np.float32(0)
                    g += (up * e[cy, i, jp, k] - low * e[cy, i, j, k]) * hy
                    m = free[i, j, k - 1] if k > 0 else 7
                    low = _live(bits, m, n)
                    up = _live(bits, free[i, j, kp], n) if k + 1 < nz else np.float32(0)
                    g += (up * e[cz, i, j, kp] - low * e[cz, i, j, k]) * hz
                    old = s[n, i, j, k]
                    new = old + TAU * (d[n] + g)
                    s_bar[n, i, j, k] = new + new - old
    for i in prange(nx):
        for n in range(3):
            for j in range(ny):
                for k in range(nz):
                    s[n, i, j, k] = half * (s[n, i, j, k] + s_bar[n, i, j, k])


@njit(parallel=True, cache=True, fastmath=FAST)
def update_bend(s_bar, e, t2, free, hx, hy, hz):
    """e <- cut(e + sigma E s_bar, t2): backward differences, symmetrised."""
    _, nx, ny, nz = s_bar.shape
    sigma, half, two = np.float32(2.3) / (hx * hx + hy * hy + hz * hz), np.float32(0.5), np.float32(2)
    for i in prange(1, nx):
        d = np.empty((3, 3), np.float32)
        for j in range(1, ny):
            for k in range(1, nz):
                bits = free[i, j, k]
                if bits == 7:
                    continue
                for n in range(3):
                    here = s_bar[n, i, j, k]
                    d[0, n] = (here - s_bar[n, i - 1, j, k]) * hx * _live(bits, free[i - 1, j, k], n)
                    d[1, n] = (here - s_bar[n, i, j - 1, k]) * hy * _live(bits, free[i, j - 1, k], n)
                    d[2, n] = (here - s_bar[n, i, j, k - 1]) * hz * _live(bits, free[i, j, k - 1], n)
                xx, yy, zz = (
                    e[0, i, j, k] + sigma * d[0, 0],
                    e[3, i, j, k] + sigma * d[1, 1],
                    e[5, i, j, k] + sigma * d[2, 2],
                )
                xy = e[1, i, j, k] + sigma * half * (d[0, 1] + d[1, 0])
                xz = e[2, i, j, k] + sigma * half * (d[0, 2] + d[2, 0])
                yz = e[4, i, j, k] + sigma * half * (d[1, 2] + d[2, 1])
                length = np.sqrt(xx * xx + yy * yy + zz * zz + two * (xy * xy + xz * xz + yz * yz) + np.float32(1e-30))
                cut = min(np.float32(1), t2 / length)
                e[0, i, j, k], e[1, i, j, k], e[2, i, j, k] = xx * cut, xy * cut, xz * cut
                e[3, i, j, k], e[4, i, j, k], e[5, i, j, k] = yy * cut, yz * cut, zz * cut

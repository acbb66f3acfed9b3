"""Finite differences on a periodic grid with anisotropic voxels, and the total-variation loops built on them.

Forward differences  (g x)_a(r) = (x(r + e_a) - x(r)) / v_a, adjoint g^T; the transform of g^T g is
E(k) = sum_a (2 sin(pi k_a / n_a) / v_a)^2. Gradients are float32 (3, x, y, z).

Splitting z = g x with a scaled multiplier u, one array w = g x + u holds both: z = shrink(w, t), u = w - z = clip(w, t)
(t = lambda / rho), so an ADMM iteration is w <- g x + clip(w), then g^T (z - u) = g^T (w - 2 clip(w)).
Clipping is that of the isotropic norm: the vector's length is cut to t. Components whose edge bit is set
(bit a of `edges`, for axis a) are free: t = 0 for them, so they are neither shrunk nor counted in the length.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

NO_EDGES = np.zeros((1, 1, 1), np.uint8)  # stands for "no voxel is an edge" without an array of zeros


@njit(parallel=True, cache=True)
def _gradient(x, hx, hy, hz, out):
    nx, ny, nz = x.shape
    for i in prange(nx):
        ip = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            jp = j + 1 if j + 1 < ny else 0
            for k in range(nz - 1):
                out[0, i, j, k] = (x[ip, j, k] - x[i, j, k]) * hx
                out[1, i, j, k] = (x[i, jp, k] - x[i, j, k]) * hy
                out[2, i, j, k] = (x[i, j, k + 1] - x[i, j, k]) * hz
            k = nz - 1
            out[0, i, j, k] = (x[ip, j, k] - x[i, j, k]) * hx
            out[1, i, j, k] = (x[i, jp, k] - x[i, j, k]) * hy
            out[2, i, j, k] = (x[i, j, 0] - x[i, j, k]) * hz


@njit(parallel=True, cache=True)
def _gradient_adjoint(g, hx, hy, hz, out):
    nx, ny, nz = out.shape
    for i in prange(nx):
        im = i - 1 if i > 0 else nx - 1
        for j in range(ny):
            jm = j - 1 if j > 0 else ny - 1
            for k in range(nz):
                out[i, j, k] = (g[0, im, j, k] - g[0, i, j, k]) * hx + (g[1, i, jm, k] - g[1, i, j, k]) * hy
            out[i, j, 0] += (g[2, i, j, nz - 1] - g[2, i, j, 0]) * hz
            for k in range(1, nz):
                out[i, j, k] += (g[2, i, j, k - 1] - g[2, i, j, k]) * hz


def _inverse_mm(voxel_mm: tuple[float, float, float]) -> tuple[np.float32, np.float32, np.float32]:
    hx, hy, hz = (np.float32(1.0 / v) for v in voxel_mm)
    return hx, hy, hz


def gradient(x: np.ndarray, voxel_mm: tuple[float, float, float], out: np.ndarray | None = None) -> np.ndarray:
    """Forward differences a mm of float32 `x`: float32 (3, x, y, z)."""
    out = np.empty((3, *x.shape), np.float32) if out is None else out
    _gradient(x, *_inverse_mm(voxel_mm), out)
    return out


def gradient_adjoint(g: np.ndarray, voxel_mm: tuple[float, float, float], out: np.ndarray | None = None) -> np.ndarray:
    """g^T of float32 (3, x, y, z), minus the divergence: float32 (x, y, z)."""
    out = np.empty(g.shape[1:], np.float32) if out is None else out
    _gradient_adjoint(g, *_inverse_mm(voxel_mm), out)
    return out


def gradient_power(shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], scale: float = 1.0) -> np.ndarray:
    """E(k) of g^T g on the half spectrum: float32 (nx, ny, nz//2+1), times `scale`."""
    x, y, z = ((2.0 * np.sin(np.pi * np.fft.fftfreq(n)) / v) ** 2 for n, v in zip(shape, voxel_mm, strict=True))
    power = np.empty((shape[0], shape[1], shape[2] // 2 + 1), np.float32)
    for plane, here in zip(power, x, strict=True):  # one at a time: double precision of all would cost twice as much
        plane[...] = scale * ((here + y)[:, None] + z[: power.shape[2]])
    return power


@njit(parallel=True, cache=True, fastmath={"nsz", "contract", "arcp"})
def _tv_update(x, w, t, edges, hx, hy, hz):
    nx, ny, nz = x.shape
    with_edges = edges.size > 1
    for i in prange(nx):
        ip = i + 1 if i + 1 < nx else 0
        for j in range(ny):
            jp = j + 1 if j + 1 < ny else 0
            if with_edges:
                for k in range(nz):
                    kp = k + 1 if k + 1 < nz else 0
                    bits = edges[i, j, k]
                    a = np.float32(0) if bits & 1 else w[0, i, j, k]
                    b = np.float32(0) if bits & 2 else w[1, i, j, k]
                    c = np.float32(0) if bits & 4 else w[2, i, j, k]
                    s = min(np.float32(1.0), t / np.sqrt(a * a + b * b + c * c + np.float32(1e-30)))
                    w[0, i, j, k] = a * s + (x[ip, j, k] - x[i, j, k]) * hx
                    w[1, i, j, k] = b * s + (x[i, jp, k] - x[i, j, k]) * hy
                    w[2, i, j, k] = c * s + (x[i, j, kp] - x[i, j, k]) * hz
            else:
                last = x[i, j, 0]
                for k in range(nz):
                    a, b, c = w[0, i, j, k], w[1, i, j, k], w[2, i, j, k]
                    s = min(np.float32(1.0), t / np.sqrt(a * a + b * b + c * c + np.float32(1e-30)))
                    here = x[i, j, k]
                    after = x[i, j, k + 1] if k + 1 < nz else last
                    w[0, i, j, k] = a * s + (x[ip, j, k] - here) * hx
                    w[1, i, j, k] = b * s + (x[i, jp, k] - here) * hy
                    w[2, i, j, k] = c * s + (after - here) * hz


@njit(parallel=True, cache=True, fastmath={"nsz", "contract", "arcp"})
def _tv_reflect(w, t, edges, hx, hy, hz, factor, out):
    """out = factor g^T (w - 2 clip(w))."""
    nx, ny, nz = out.shape
    with_edges = edges.size > 1
    one, two, tiny = np.float32(1.0), np.float32(2.0), np.float32(1e-30)
    for i in prange(nx):
        im = i - 1 if i > 0 else nx - 1
        row = np.empty(nz, np.float32)
        for j in range(ny):
            jm = j - 1 if j > 0 else ny - 1
            for k in range(nz):
                a, b, c = w[0, i, j, k], w[1, i, j, k], w[2, i, j, k]
                ax, bx, cx = w[0, im, j, k], w[1, im, j, k], w[2, im, j, k]
                ay, by, cy = w[0, i, jm, k], w[1, i, jm, k], w[2, i, jm, k]
                fa, fb, fc, fx, fy = one, one, one, one, one
                if with_edges:
                    bits, bits_x, bits_y = edges[i, j, k], edges[im, j, k], edges[i, jm, k]
                    fa = one - one * (bits & 1)
                    fb = one - np.float32(0.5) * (bits & 2)
                    fc = one - np.float32(0.25) * (bits & 4)
                    fx = one - one * (bits_x & 1)
                    bx *= one - np.float32(0.5) * (bits_x & 2)
                    cx *= one - np.float32(0.25) * (bits_x & 4)
                    fy = one - np.float32(0.5) * (bits_y & 2)
                    ay *= one - one * (bits_y & 1)
                    cy *= one - np.float32(0.25) * (bits_y & 4)
                a_, b_, c_ = a * fa, b * fb, c * fc
                s = two * min(one, t / np.sqrt(a_ * a_ + b_ * b_ + c_ * c_ + tiny))
                ax_ = ax * fx
                by_ = by * fy
                sx = two * min(one, t / np.sqrt(ax_ * ax_ + bx * bx + cx * cx + tiny))
                sy = two * min(one, t / np.sqrt(ay * ay + by_ * by_ + cy * cy + tiny))
                row[k] = c - s * c_
                out[i, j, k] = factor * ((ax - sx * ax_ - a + s * a_) * hx + (by - sy * by_ - b + s * b_) * hy)
            out[i, j, 0] += factor * (row[nz - 1] - row[0]) * hz
            for k in range(1, nz):
                out[i, j, k] += factor * (row[k - 1] - row[k]) * hz


def tv_update(x: np.ndarray, w: np.ndarray, t: float, voxel_mm: tuple[float, float, float], edges=NO_EDGES) -> None:
    """w <- g x + clip(w, t), in place. x float32, w float32 (3, x, y, z), edges uint8 (x, y, z)."""
    _tv_update(x, w, np.float32(t), edges, *_inverse_mm(voxel_mm))


def tv_reflect(
    w: np.ndarray, t: float, voxel_mm: tuple[float, float, float], factor: float, out: np.ndarray, edges=NO_EDGES
) -> np.ndarray:
    """out = factor g^T (z - u) = factor g^T (w - 2 clip(w, t))."""
    _tv_reflect(w, np.float32(t), edges, *_inverse_mm(voxel_mm), np.float32(factor), out)
    return out

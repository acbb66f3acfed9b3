"""Pointwise steps of an ADMM for dipole inversion: the data's proximal maps, the support, the k-space solve.

Constraint y = D x with scaled multiplier u: each data step forms q = y + u, v = prox(q), u = q - v, and leaves
v - u in `y`, ready to be transformed. The proximal maps, w2 the squared data weight and r the penalty:
  squares     1/2 w2 (v - f)^2               v = (w2 f + r q) / (w2 + r)
  absolute    w |v - f|                      v = f + shrink(q - f, w / r)
  phase       w2 (1 - cos(s (v - f))) / s^2  v by Newton steps, s in rad a ppm, from the turn of f nearest to q: with
              e = s (v - f) less that turn and p the same of q, |p| <= pi, the least value lies at the only root of
              e + (w2 / r) sin e = p between 0 and p. There the left side is concave in |e|, so that steps from
              e = 0, of which the first gives the linear solution, rise to the root and never pass it.
Where w2 = 0 the field is unknown and v = q: the model fills it in.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)

NEWTON_STEPS = 30  # at most: one or two do, but for a phase half a turn off where w2 is near r
CONVERGED_RAD = 1e-3  # of a step: the error is then about its square


@njit(parallel=True, cache=True)
def squares_step(y, u, f, w2, r):
    """Weighted least squares; y, u, f, w2 float32 of one shape (f and w2 may be smaller: zero beyond)."""
    nx, ny, nz = f.shape
    for i in prange(y.shape[0]):
        for j in range(y.shape[1]):
            if i < nx and j < ny:
                for k in range(nz):
                    q = y[i, j, k] + u[i, j, k]
                    v = (w2[i, j, k] * f[i, j, k] + r * q) / (w2[i, j, k] + r)
                    u[i, j, k] = q - v
                    y[i, j, k] = v + v - q


@njit(parallel=True, cache=True)
def absolute_step(y, u, f, w2, r, corner2):
    """Weighted absolute differences, w = sqrt(w2 corner2)."""
    nx, ny, nz = f.shape
    for i in prange(y.shape[0]):
        for j in range(y.shape[1]):
            if i < nx and j < ny:
                for k in range(nz):
                    q = y[i, j, k] + u[i, j, k]
                    t = np.sqrt(w2[i, j, k] * corner2) / r
                    d = q - f[i, j, k]
                    v = q - min(max(d, -t), t)
                    u[i, j, k] = q - v
                    y[i, j, k] = v + v - q


@njit(parallel=True, cache=True)
def phase_step(y, u, f, w2, r, rad_per_ppm):
    """Weighted cosine distance of phases."""
    nx, ny, nz = f.shape
    turn = np.float32(2 * np.pi)
    for i in prange(y.shape[0]):
        for j in range(y.shape[1]):
            if i < nx and j < ny:
                for k in range(nz):
                    q = y[i, j, k] + u[i, j, k]
                    w = w2[i, j, k]
                    v = q
                    if w > 0:
                        p = rad_per_ppm * (q - f[i, j, k])
                        p -= turn * np.rint(p / turn)
                        e = r * p / (w + r)
                        for _ in range(NEWTON_STEPS):
                            step = (r * (p - e) - w * np.sin(e)) / (r + w * np.cos(e))
                            e += step
                            if abs(step) < CONVERGED_RAD:
                                break
                        v = q + (e - p) / rad_per_ppm
                    u[i, j, k] = q - v
                    y[i, j, k] = v + v - q


@njit(parallel=True, cache=True)
def support_step(x, u, mask, r, rhs):
    """Constraint p = x, p = 0 outside: u <- (x + u) outside the mask, rhs += r (p - u). mask may be smaller."""
    nx, ny, nz = mask.shape
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                if i < nx and j < ny and k < nz and mask[i, j, k]:
                    rhs[i, j, k] += r * x[i, j, k]
                else:
                    u[i, j, k] += x[i, j, k]
                    rhs[i, j, k] -= r * u[i, j, k]


@njit(parallel=True, cache=True)
def spectral_step(spectrum, data, dipole, r, solve, trust, scale):
    """spectrum <- (spectrum + r g D data) solve, the new F x; data <- data + g (D F x - data), the new F y.

    g = `trust` (one element: 1 everywhere) is the share of each wavelength that x must explain; `solve` carries
    `scale`. The rest of y is a smooth field h, the minimiser of r |y - D x - h|^2 + b |Laplacian h|^2,
    g = b K^2 / (r + b K^2).
    """
    everywhere = trust.size == 1
    for i in prange(spectrum.shape[0]):
        for j in range(spectrum.shape[1]):
            for k in range(spectrum.shape[2]):
                d = dipole[i, j, k]
                if everywhere:
                    s = (spectrum[i, j, k] + (r * d) * data[i, j, k]) * solve[i, j, k]
                    data[i, j, k] = d * s
                else:
                    g = trust[i, j, k]
                    s = (spectrum[i, j, k] + (r * g * d) * data[i, j, k]) * solve[i, j, k]
                    data[i, j, k] = (1 - g) * scale * data[i, j, k] + g * d * s
                spectrum[i, j, k] = s


@njit(parallel=True, cache=True)
def change(x, old, mask, sums):
    """Squares of x - old and of x inside the mask, row by row; old <- x there."""
    nx, ny, nz = mask.shape
    for i in prange(nx):
        difference, size = 0.0, 0.0
        for j in range(ny):
            for k in range(nz):
                if mask[i, j, k]:
                    d = x[i, j, k] - old[i, j, k]
                    difference += d * d
                    size += x[i, j, k] * x[i, j, k]
                    old[i, j, k] = x[i, j, k]
        sums[i, 0] = difference
        sums[i, 1] = size


@njit(parallel=True, cache=True)
def inverse_diagonal(dipole, trust, power_x, power_y, power_z, r, rho, support, scale, out):
    """out = scale / (r g D^2 + rho (power_x + power_y + power_z) + support), g = `trust` as in `spectral_step`."""
    everywhere = trust.size == 1
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                known = dipole[i, j, k] * dipole[i, j, k]
                if not everywhere:
                    known *= trust[i, j, k]
                power = np.float32(rho * (power_x[i] + power_y[j] + power_z[k]))
                out[i, j, k] = scale / (known * r + power + support)


@njit(parallel=True, cache=True)
def ridge_start(spectrum, dipole, ridge, scale, data):
    """spectrum *= scale D / (D^2 + ridge), in place; data = D spectrum."""
    for i in prange(spectrum.shape[0]):
        for j in range(spectrum.shape[1]):
            for k in range(spectrum.shape[2]):
                d = dipole[i, j, k]
                spectrum[i, j, k] *= d / (d * d + ridge) * scale
                data[i, j, k] = spectrum[i, j, k] * d


@njit(parallel=True, cache=True)
def spectral_anchor(spectrum, anchor, solve):
    """spectrum <- (spectrum + anchor) solve."""
    for i in prange(spectrum.shape[0]):
        for j in range(spectrum.shape[1]):
            for k in range(spectrum.shape[2]):
                spectrum[i, j, k] = (spectrum[i, j, k] + anchor[i, j, k]) * solve[i, j, k]


@njit(parallel=True, cache=True)
def place(x, weight, out):
    """out = weight x in the low corner, zero beyond."""
    nx, ny, nz = x.shape
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            if i < nx and j < ny:
                for k in range(nz):
                    out[i, j, k] = x[i, j, k] * weight[i, j, k]
                for k in range(nz, out.shape[2]):
                    out[i, j, k] = 0
            else:
                for k in range(out.shape[2]):
                    out[i, j, k] = 0


@njit(parallel=True, cache=True)
def take(y, weight, out):
    """out = weight y, from the low corner of y; returns it."""
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                out[i, j, k] = y[i, j, k] * weight[i, j, k]
    return out


@njit(parallel=True, cache=True)
def phase_residual(y, f, w, rad_per_ppm):
    """y <- w sin(s (y - f)) / s in place: the nonlinear misfit's slope but for the adjoint's weight."""
    for i in prange(y.shape[0]):
        for j in range(y.shape[1]):
            for k in range(y.shape[2]):
                y[i, j, k] = w[i, j, k] * np.sin(rad_per_ppm * (y[i, j, k] - f[i, j, k])) / rad_per_ppm

"""What a complex multi-echo signal says about each voxel: combined magnitude, block means, phase quality."""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401

TWO_PI = np.float32(2 * np.pi)


@njit(parallel=True, cache=True)
def combine_magnitude(magnitude):
    """Root of the sum of squares over echoes, float32 (x, y, z); NaN and infinity count as no signal."""
    echoes, nx, ny, nz = magnitude.shape
    out = np.empty((nx, ny, nz), np.float32)
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                total = np.float32(0)
                for e in range(echoes):
                    value = magnitude[e, i, j, k]
                    if np.isfinite(value):
                        total += value * value
                out[i, j, k] = np.sqrt(total)
    return out


@njit(parallel=True, cache=True)
def block_mean(image, factor):
    """Mean of float32 (x, y, z) over blocks of `factor` (3 ints) voxels; blocks at the end may be smaller."""
    fx, fy, fz = factor
    nx, ny, nz = image.shape
    out = np.empty(((nx + fx - 1) // fx, (ny + fy - 1) // fy, (nz + fz - 1) // fz), np.float32)
    for a in prange(out.shape[0]):
        for b in range(out.shape[1]):
            for c in range(out.shape[2]):
                total, count = 0.0, 0
                for i in range(a * fx, min((a + 1) * fx, nx)):
                    for j in range(b * fy, min((b + 1) * fy, ny)):
                        for k in range(c * fz, min((c + 1) * fz, nz)):
                            total += image[i, j, k]
                            count += 1
                out[a, b, c] = total / count
    return out


@njit(cache=True)
def _bend(before, here, after):
    """|g(second difference)| as a share of pi, g wrapping to [-pi, pi]: 0 where the phase runs straight."""
    bend = before - 2 * here + after
    return abs(bend - TWO_PI * np.round(bend / TWO_PI)) / np.float32(np.pi)


@njit(parallel=True, cache=True)
def phase_quality(phase_rad, magnitude, signal):
    """1 where the wrapped phase is locally linear, about 0 where it is noise; float32 (x, y, z).

    1 - 2 <|g(phi- - 2 phi + phi+)|> / pi over the axes, echoes weighted by squared magnitude (uniform noise has the
    mean |g| pi / 2). An axis without two neighbours with signal does not count: a rim is not to blame for the air
    beside it. NaN anywhere in the stencil counts as noise. Zero where `signal` (bool, x, y, z) is False.
    """
    echoes, nx, ny, nz = phase_rad.shape
    out = np.zeros((nx, ny, nz), np.float32)
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                if not signal[i, j, k]:
                    continue
                total = np.float32(0)
                weights = np.float32(0)
                for e in range(echoes):
                    w = magnitude[e, i, j, k] * magnitude[e, i, j, k]
                    if not (w > 0 and np.isfinite(w)):
                        continue
                    phi = phase_rad[e]
                    here = phi[i, j, k]
                    bend, axes = np.float32(0), 0
                    if 0 < i < nx - 1 and signal[i - 1, j, k] and signal[i + 1, j, k]:
                        bend += _bend(phi[i - 1, j, k], here, phi[i + 1, j, k])
                        axes += 1
                    if 0 < j < ny - 1 and signal[i, j - 1, k] and signal[i, j + 1, k]:
                        bend += _bend(phi[i, j - 1, k], here, phi[i, j + 1, k])
                        axes += 1
                    if 0 < k < nz - 1 and signal[i, j, k - 1] and signal[i, j, k + 1]:
                        bend += _bend(phi[i, j, k - 1], here, phi[i, j, k + 1])
                        axes += 1
                    weights += w
                    if axes == 0:
                        total += w
                    elif np.isfinite(bend):
                        total += w * max(np.float32(0), 1 - 2 * bend / axes)
                if weights > 0:
                    out[i, j, k] = total / weights
    return out


@njit(parallel=True, cache=True)
def exceeds(image, level, factor):
    """Bool: where float32 `image` (x, y, z) lies above `level`, given for each block of `factor` (3 ints) voxels."""
    fx, fy, fz = factor
    out = np.empty(image.shape, np.bool_)
    for i in prange(image.shape[0]):
        for j in range(image.shape[1]):
            for k in range(image.shape[2]):
                out[i, j, k] = image[i, j, k] > level[i // fx, j // fy, k // fz]
    return out

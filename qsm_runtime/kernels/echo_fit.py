"""Per-voxel fits of a frequency (rad/s) to the phase of several echoes, each one pass over the echoes.

All weights are inverse variances of the phase: var = (noise / magnitude)^2, so an estimate's own variance is the
inverse of its normal matrix. It is inflated by the reduced chi^2 of the fit where that exceeds one.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels.phasor import wrap


@njit(parallel=True, cache=True)
def combine_echoes(phase_rad, magnitude, te_s, mask, spread_rad_per_s, dephasing, noise, rate, deviation):
    """Rate w of phi_e = w TE_e, echo after echo: each phase is first taken to the 2 pi branch nearest the estimate
    so far, so that one echo's wrong branch cannot pull the rest.

    spread_rad_per_s  how much the rate changes across a voxel (0-size array: taken as none). Dephasing inside
                      the voxel biases an echo's phase in second order of the spread it has built up, so
                      var_e = (noise / m_e)^2 + (dephasing (spread TE_e)^2)^2.
    rate, deviation   written: estimate and its standard deviation, rad/s; deviation 0 outside the mask
    """
    echoes, nx, ny, nz = phase_rad.shape
    spread_known = spread_rad_per_s.size > 0
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                rate[i, j, k] = 0
                deviation[i, j, k] = 0
                if not mask[i, j, k]:
                    continue
                spread = spread_rad_per_s[i, j, k] if spread_known else np.float32(0)
                sum_w, sum_wr, chi2 = 0.0, 0.0, 0.0
                w = 0.0
                for e in range(echoes):
                    m = magnitude[e, i, j, k]
                    if m <= 0:
                        continue
                    bias = dephasing * (spread * te_s[e]) ** 2
                    weight = te_s[e] ** 2 / ((noise / m) ** 2 + bias * bias)
                    r = phase_rad[e, i, j, k]
                    if sum_w > 0:
                        r = w * te_s[e] + wrap(r - w * te_s[e])
                    r /= te_s[e]
                    # West's running weighted variance: chi2 needs no second pass
                    change = r - w
                    sum_w += weight
                    sum_wr = change * weight / sum_w
                    w += sum_wr
                    chi2 += weight * change * (r - w)
                if sum_w > 0:
                    inflation = max(1.0, chi2 / (echoes - 1)) if echoes > 1 else 1.0
                    rate[i, j, k] = w
                    deviation[i, j, k] = np.sqrt(inflation / sum_w)


@njit(parallel=True, cache=True)
def fit_line(phase_rad, magnitude, te_s, mask, noise, iterations, rate, deviation):
    """Rate w and offset p of phi_e = p + w TE_e, weights (m_e / noise)^2.

    iterations 0 is the linear least-squares line through the unwrapped phase; each further one is a Gauss-Newton
    step on the complex signal, sum |S_e - |S_e| exp(i (p + w TE_e))|^2, which no 2 pi branch can disturb.
    """
    echoes, nx, ny, nz = phase_rad.shape
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                rate[i, j, k] = 0
                deviation[i, j, k] = 0
                if not mask[i, j, k]:
                    continue
                p, w = 0.0, 0.0
                used = 0
                det, s0 = 0.0, 0.0
                for step in range(iterations + 1):
                    s0, s1, s2, b0, b1, chi2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                    used = 0
                    for e in range(echoes):
                        weight = (magnitude[e, i, j, k] / noise) ** 2
                        if weight <= 0:
                            continue
                        r = phase_rad[e, i, j, k] - p - w * te_s[e]
                        if step > 0:
                            r = np.sin(r)
                        s0 += weight
                        s1 += weight * te_s[e]
                        s2 += weight * te_s[e] ** 2
                        b0 += weight * r
                        b1 += weight * te_s[e] * r
                        used += 1
                    det = s0 * s2 - s1 * s1
                    if used < 2 or det <= 1e-12 * s0 * s2:
                        used = 0
                        break
                    p += (s2 * b0 - s1 * b1) / det
                    w += (s0 * b1 - s1 * b0) / det
                if used == 0:
                    continue
                chi2 = 0.0
                for e in range(echoes):
                    r = phase_rad[e, i, j, k] - p - w * te_s[e]
                    # the distance of two points on the circle, so that branches do not count here either
                    chi2 += (magnitude[e, i, j, k] / noise) ** 2 * (2.0 - 2.0 * np.cos(r))
                inflation = max(1.0, chi2 / (used - 2)) if used > 2 else 1.0
                rate[i, j, k] = w
                deviation[i, j, k] = np.sqrt(inflation * s0 / det)


@njit(parallel=True, cache=True)
def spread_across_voxel(rate, mask, out):
    """How much `rate` changes from a voxel to the next: root of the sum over axes of the mean squared difference
    to the neighbours inside the mask."""
    nx, ny, nz = rate.shape
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                out[i, j, k] = 0
                if not mask[i, j, k]:
                    continue
                total = 0.0
                for di, dj, dk in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
                    square, count = 0.0, 0
                    a, b, c = i + di, j + dj, k + dk
                    if a < nx and b < ny and c < nz and mask[a, b, c]:
                        square += (rate[a, b, c] - rate[i, j, k]) ** 2
                        count += 1
                    a, b, c = i - di, j - dj, k - dk
                    if a >= 0 and b >= 0 and c >= 0 and mask[a, b, c]:
                        square += (rate[a, b, c] - rate[i, j, k]) ** 2
                        count += 1
                    if count > 0:
                        total += square / count
                out[i, j, k] = np.sqrt(total)


@njit(parallel=True, cache=True)
def _second_differences(magnitude, phase_rad, mask, axis, stride, out):
    nx, ny, nz = magnitude.shape
    di, dj, dk = (1, 0, 0) if axis == 0 else ((0, 1, 0) if axis == 1 else (0, 0, 1))
    for n in prange(out.shape[0]):
        i = n * stride
        for j in range(ny):
            for k in range(nz):
                out[n, j, k] = -1
                if i < di or j < dj or k < dk or i + di >= nx or j + dj >= ny or k + dk >= nz:
                    continue
                if mask[i, j, k] and mask[i - di, j - dj, k - dk] and mask[i + di, j + dj, k + dk]:
                    # across the phase's local slope: only the imaginary part, relative to the middle voxel, of
                    # the sum of both neighbours carries noise and no magnitude edge
                    low = phase_rad[i - di, j - dj, k - dk] - phase_rad[i, j, k]
                    high = phase_rad[i + di, j + dj, k + dk] - phase_rad[i, j, k]
                    out[n, j, k] = abs(magnitude[i, j, k] * wrap(wrap(low) + wrap(high)))


def channel_noise(magnitude: np.ndarray, phase_rad: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of one complex channel's noise, in the magnitude's unit, from one echo (x, y, z).

    The second difference of the phase times the magnitude has variance 6 noise^2 where the field is smooth; its
    median along the longest axis is robust to the places where it is not. 0 where no three neighbours are masked.
    """
    axis = int(np.argmax(magnitude.shape))
    stride = max(1, magnitude.shape[0] // 64)
    count = (magnitude.shape[0] + stride - 1) // stride
    differences = np.empty((count, *magnitude.shape[1:]), np.float32)
    _second_differences(magnitude, phase_rad, mask, axis, stride, differences)
    found = differences[differences >= 0]
    return float(1.4826 * np.median(found) / np.sqrt(6.0)) if found.size else 0.0

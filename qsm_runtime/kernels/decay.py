"""Mono-exponential decay of a multi-echo magnitude, one voxel at a time."""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401

STEPS = 10  # Gauss-Newton steps at most; a few are enough from the log-linear start


@njit(parallel=True, cache=True)
def decay_arlo(magnitude, spacing_s, mask, fastest_hz):
    """R2* in 1/s, float32 (x, y, z), from equally spaced echoes by auto-regression on linear operations.

    Pei 2015, 10.1002/mrm.25137: with S_i = dTE/3 (s_i + 4 s_i+1 + s_i+2) (Simpson) and d_i = s_i - s_i+2,
    T2* = (sum S^2 + dTE/3 sum S d) / (dTE/3 sum d^2 + sum S d).
    """
    echoes, nx, ny, nz = magnitude.shape
    third = spacing_s / 3
    out = np.zeros((nx, ny, nz), np.float32)
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                if not mask[i, j, k]:
                    continue
                ss = sd = dd = 0.0
                for e in range(echoes - 2):
                    first, last = float(magnitude[e, i, j, k]), float(magnitude[e + 2, i, j, k])
                    area = third * (first + 4.0 * magnitude[e + 1, i, j, k] + last)
                    drop = first - last
                    ss, sd, dd = ss + area * area, sd + area * drop, dd + drop * drop
                above, below = third * dd + sd, ss + third * sd
                if above > 0 and below > 0:
                    out[i, j, k] = min(above / below, fastest_hz)
                elif above > 0:
                    out[i, j, k] = fastest_hz
    return out


@njit(parallel=True, cache=True)
def decay_least_squares(magnitude, times_s, mask, noise, fastest_hz):
    """R2* in 1/s, float32 (x, y, z): s0 exp(-R2* t) fitted to magnitudes at any times.

    The noise floor is taken off first, s^2 = m^2 - 2 noise^2 (E m^2 = s^2 + 2 noise^2 for Rician m; `noise` is the
    standard deviation of the real part), and echoes within it are left out. Starts from a log-linear fit weighted by
    s^2, the inverse variance of log s.
    """
    echoes, nx, ny, nz = magnitude.shape
    floor = 2.0 * noise * noise
    out = np.zeros((nx, ny, nz), np.float32)
    for i in prange(nx):
        s = np.empty(echoes)
        for j in range(ny):
            for k in range(nz):
                if not mask[i, j, k]:
                    continue
                used = 0
                w0 = w1 = w2 = y0 = y1 = 0.0
                for e in range(echoes):
                    power = float(magnitude[e, i, j, k]) ** 2
                    power = power - floor if np.isfinite(power) else 0.0
                    # under twice the floor a magnitude is as likely noise as signal
                    s[e] = np.sqrt(power) if power > floor and power > 0 else 0.0
                    if s[e] > 0:
                        used += 1
                        w, y, t = s[e] * s[e], np.log(s[e]), times_s[e]
                        w0, w1, w2, y0, y1 = w0 + w, w1 + w * t, w2 + w * t * t, y0 + w * y, y1 + w * t * y
                if used == 0:
                    continue
                if used == 1:
                    out[i, j, k] = fastest_hz if s[0] > 0 else 0.0
                    continue
                rate = (w1 * y0 - w0 * y1) / (w0 * w2 - w1 * w1)
                rate = min(max(rate, 0.0), fastest_hz)
                for _ in range(STEPS):
                    # variable projection: s0 is linear; Gauss-Newton on the rate
                    ee = es = te = ts = tt = 0.0
                    for e in range(echoes):
                        if s[e] > 0:
                            t = times_s[e]
                            x = np.exp(-rate * t)
                            ee, es, te = ee + x * x, es + x * s[e], te + t * x * x
                            ts, tt = ts + t * x * s[e], tt + t * t * x * x
                    s0 = es / ee
                    curvature = s0 * (tt - te * te / ee)
                    if not curvature > 0:
                        break
                    step = (s0 * te - ts) / curvature
                    new = min(max(rate + step, 0.0), fastest_hz)
                    done = abs(new - rate) < 1e-4 * (1.0 + rate)
                    rate = new
                    if done:
                        break
                out[i, j, k] = rate
    return out

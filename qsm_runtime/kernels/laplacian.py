"""The discrete Laplacian in a mask: seven points, or nineteen where it meets harmonic fields.

seven     -sum_a d_a^2 / v_a^2,   d_a^2 u = u(r + e_a) - 2 u(r) + u(r - e_a)
nineteen  and -sum_{a<b} (v_a^2 + v_b^2) / 12  d_a^2 d_b^2 / (v_a^2 v_b^2), which takes harmonic fields to zero
          to fourth order (Mehrstellen; Collatz 1960, The numerical treatment of differential equations)
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)


@njit(parallel=True, cache=True)
def mask_spans(mask):
    """First and one past the last mask voxel of each row: int32 (nx, ny, 2)."""
    nx, ny, nz = mask.shape
    spans = np.zeros((nx, ny, 2), np.int32)
    for i in prange(nx):
        for j in range(ny):
            lo = 0
            while lo < nz and not mask[i, j, lo]:
                lo += 1
            hi = nz
            while hi > lo and not mask[i, j, hi - 1]:
                hi -= 1
            spans[i, j, 0], spans[i, j, 1] = lo, hi
    return spans


@njit(parallel=True, cache=True)
def minus_laplacian_spans(u, mask, spans, wx, wy, wz, out):
    """out = -Laplacian u in the mask, 0 elsewhere; differences come first, so a large constant costs no digits."""
    for i in prange(u.shape[0]):
        for j in range(u.shape[1]):
            out[i, j] = 0
            for k in range(spans[i, j, 0], spans[i, j, 1]):
                centre = u[i, j, k]
                across = wx * ((centre - u[i - 1, j, k]) + (centre - u[i + 1, j, k]))
                across += wy * ((centre - u[i, j - 1, k]) + (centre - u[i, j + 1, k]))
                across += wz * ((centre - u[i, j, k - 1]) + (centre - u[i, j, k + 1]))
                out[i, j, k] = across if mask[i, j, k] else np.float32(0)


def minus_laplacian(x: np.ndarray, mask: np.ndarray, voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """-Laplacian of `x` (float32) in the mask, 0 elsewhere; beyond the array `x` counts as 0."""
    wx, wy, wz = (np.float32(1.0 / v**2) for v in voxel_mm)
    rim, out = np.pad(mask, 1), np.zeros([n + 2 for n in x.shape], np.float32)
    minus_laplacian_spans(np.pad(np.asarray(x, np.float32), 1), rim, mask_spans(rim), wx, wy, wz, out)
    return out[1:-1, 1:-1, 1:-1]


@njit(parallel=True, cache=True)
def _minus_laplacian_fourth_order(u, mask, known, wx, wy, wz, out):
    """Nineteen points where `known` holds them all, else seven; cross terms (h_a^2 + h_b^2)/12 d_a^2 d_b^2."""
    wxy, wxz, wyz = (wx + wy) / np.float32(12), (wx + wz) / np.float32(12), (wy + wz) / np.float32(12)
    for i in prange(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            for k in range(1, u.shape[2] - 1):
                if not mask[i, j, k]:
                    continue
                c = u[i, j, k]
                x = (c - u[i - 1, j, k]) + (c - u[i + 1, j, k])
                y = (c - u[i, j - 1, k]) + (c - u[i, j + 1, k])
                z = (c - u[i, j, k - 1]) + (c - u[i, j, k + 1])
                total = wx * x + wy * y + wz * z
                whole = True
                xy, xz, yz = -2 * (x + y), -2 * (x + z), -2 * (y + z)
                for s in (-1, 1):
                    for t in (-1, 1):
                        whole &= known[i + s, j + t, k] & known[i + s, j, k + t] & known[i, j + s, k + t]
                        xy += c - u[i + s, j + t, k]
                        xz += c - u[i + s, j, k + t]
                        yz += c - u[i, j + s, k + t]
                out[i, j, k] = total + (wxy * xy + wxz * xz + wyz * yz if whole else np.float32(0))


def minus_laplacian_fourth_order(
    x: np.ndarray, mask: np.ndarray, known: np.ndarray, voxel_mm: tuple[float, float, float]
) -> np.ndarray:
    """-Laplacian of `x` (float32) in the mask, 0 elsewhere, of fourth order for harmonic `x`.

    known  bool, where `x` holds values: the mask and its six-neighbours at least. Where one of the eighteen nearest
           neighbours is not known, the seven-point Laplacian stands instead.
    """
    wx, wy, wz = (np.float32(1.0 / v**2) for v in voxel_mm)
    out = np.zeros([n + 2 for n in x.shape], np.float32)
    _minus_laplacian_fourth_order(
        np.pad(np.asarray(x, np.float32), 1), np.pad(mask, 1), np.pad(known, 1), wx, wy, wz, out
    )
    return np.ascontiguousarray(out[1:-1, 1:-1, 1:-1])

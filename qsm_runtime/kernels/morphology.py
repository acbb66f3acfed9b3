"""Morphology of masks in mm: a ball stamped on the surface only, components and holes by flooding.

The ball holds the voxels whose centres lie within the radius, so anisotropic voxels need no special care. Beyond the
array lies more of what is at its edge: an object cut by the field of view is not eroded there.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401


def ball(radius_mm: float, voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """Offsets (n, 3) int32 of the voxels whose centres lie within `radius_mm` of a voxel's centre."""
    reach = [int(radius_mm / v + 1e-6) for v in voxel_mm]
    offsets = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.linalg.norm(offsets * np.array(voxel_mm), axis=1) <= radius_mm * (1 + 1e-6)
    return np.ascontiguousarray(offsets[inside], np.int32)


@njit(parallel=True, cache=True)
def _stamp(mask, value, offsets, out):
    """Write `value` into `out` in a ball around each voxel of `mask` == value that touches one that is not."""
    nx, ny, nz = mask.shape
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                if mask[i, j, k] != value:
                    continue
                inner = True
                for d in range(-1, 2, 2):
                    inner &= not (0 <= i + d < nx) or mask[min(max(i + d, 0), nx - 1), j, k] == value
                    inner &= not (0 <= j + d < ny) or mask[i, min(max(j + d, 0), ny - 1), k] == value
                    inner &= not (0 <= k + d < nz) or mask[i, j, min(max(k + d, 0), nz - 1)] == value
                if inner:
                    continue
                for n in range(offsets.shape[0]):
                    a, b, c = i + offsets[n, 0], j + offsets[n, 1], k + offsets[n, 2]
                    if 0 <= a < nx and 0 <= b < ny and 0 <= c < nz:
                        out[a, b, c] = value


def dilate(mask: np.ndarray, radius_mm: float, voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """New bool mask: all voxels within `radius_mm` of the mask."""
    out = mask.copy()
    _stamp(mask, True, ball(radius_mm, voxel_mm), out)
    return out


def erode(mask: np.ndarray, radius_mm: float, voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """New bool mask: the voxels farther than `radius_mm` from every voxel outside the mask."""
    out = mask.copy()
    _stamp(mask, False, ball(radius_mm, voxel_mm), out)
    return out


@njit(cache=True)
def _flood(mask, value, i, j, k, label, labels, stack):
    """Give `label` to what is face-connected to (i, j, k) and == value; returns the number of voxels."""
    nx, ny, nz = mask.shape
    labels[i, j, k] = label
    stack[0] = (i * ny + j) * nz + k
    top, size = 1, 0
    while top > 0:
        top -= 1
        at = stack[top]
        size += 1
        i, j, k = at // (ny * nz), (at // nz) % ny, at % nz
        for side in range(6):
            a = i + (1 if side == 0 else -1 if side == 1 else 0)
            b = j + (1 if side == 2 else -1 if side == 3 else 0)
            c = k + (1 if side == 4 else -1 if side == 5 else 0)
            if not (0 <= a < nx and 0 <= b < ny and 0 <= c < nz):
                continue
            if labels[a, b, c] == 0 and mask[a, b, c] == value:
                labels[a, b, c] = label
                stack[top] = (a * ny + b) * nz + c
                top += 1
    return size


@njit(cache=True)
def _largest(mask):
    nx, ny, nz = mask.shape
    labels = np.zeros(mask.shape, np.int32)
    stack = np.empty(mask.size, np.int32)
    label, best, most = 0, 0, 0
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                if mask[i, j, k] and labels[i, j, k] == 0:
                    label += 1
                    size = _flood(mask, True, i, j, k, label, labels, stack)
                    if size > most:
                        best, most = label, size
    return labels, best


def largest_component(mask: np.ndarray) -> np.ndarray:
    """New bool mask: the largest face-connected part (the first in memory order among equals; empty stays empty)."""
    labels, best = _largest(mask)
    return labels == best if best else np.zeros(mask.shape, bool)


@njit(cache=True)
def _from_border(mask):
    nx, ny, nz = mask.shape
    outside = np.zeros(mask.shape, np.uint8)
    stack = np.empty(mask.size, np.int32)
    for i in range(nx):
        for j in range(ny):
            rim = (nx > 1 and i in (0, nx - 1)) or (ny > 1 and j in (0, ny - 1))
            step = 1 if rim else max(nz - 1, 1)
            for k in range(0, nz if rim or nz > 1 else 0, step):
                if not mask[i, j, k] and outside[i, j, k] == 0:
                    _flood(mask, False, i, j, k, 1, outside, stack)
    return outside


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """New bool mask: with every part of the background that no face-connected path joins to the array's border.

    An axis of one voxel has no border: holes of a single slice are filled in the slice.
    """
    return _from_border(mask) == 0

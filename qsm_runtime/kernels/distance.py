"""Exact Euclidean distance transform in mm, for erosions and dilations that cost the same at any radius.

Source: Felzenszwalb and Huttenlocher 2012, 10.4086/toc.2012.v008a019. Squared distance separates over the axes,
  d2(x, y, z) = min_x' (x - x')^2 + min_y' (y - y')^2 + min_z' (z - z')^2 + [0 where (x', y', z') is a seed, else inf],
and each minimum is the lower envelope of one line's parabolas. Distances run between voxel centres. Where only
distances up to a limit are asked for, a minimum has few candidates, and whole rows are compared at once instead.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)
from qsm_runtime.kernels.convolve import box_of

FAR = np.float32(1e18)  # squared mm: no seed on this line yet
FEW = 24  # voxels within reach a side up to which comparing rows takes less time than envelopes


@njit(cache=True)
def _envelope(line, n, h2, sites, starts):
    """line[i] <- min_j h2 (i - j)^2 + line[j], in place; `sites` and `starts` are work arrays."""
    top = -1
    for j in range(n):
        if line[j] >= FAR:
            continue
        start = -1e30
        while top >= 0:
            s = sites[top]
            # where the parabola from j falls under the one from s
            start = 0.5 * (j + s + (line[j] - line[s]) / (h2 * (j - s)))
            if start > starts[top]:
                break
            top -= 1
        if top < 0:
            start = -1e30
        top += 1
        sites[top] = j
        starts[top] = start
    if top < 0:
        return
    heights = line[:n].copy()
    at = 0
    for i in range(n):
        while at < top and starts[at + 1] < i:
            at += 1
        line[i] = heights[sites[at]] + h2 * (i - sites[at]) ** 2


@njit(parallel=True, cache=True)
def _squared_distance(seeds, hx, hy, hz):
    nx, ny, nz = seeds.shape
    out = np.empty((nx, ny, nz), np.float32)
    for i in prange(nx):
        line = np.empty(ny, np.float64)
        sites = np.empty(ny, np.int64)
        starts = np.empty(ny, np.float64)
        for j in range(ny):
            since = 10 * nz
            for k in range(nz):
                since = 0 if seeds[i, j, k] else since + 1
                out[i, j, k] = since
            since = 10 * nz
            for k in range(nz - 1, -1, -1):
                since = 0 if seeds[i, j, k] else since + 1
                steps = min(since, out[i, j, k])
                out[i, j, k] = FAR if steps >= nz else (hz * steps) ** 2
        for k in range(nz):
            for j in range(ny):
                line[j] = out[i, j, k]
            _envelope(line, ny, hy * hy, sites, starts)
            for j in range(ny):
                out[i, j, k] = line[j]
    for j in prange(ny):
        line = np.empty(nx, np.float64)
        sites = np.empty(nx, np.int64)
        starts = np.empty(nx, np.float64)
        for k in range(nz):
            for i in range(nx):
                line[i] = out[i, j, k]
            _envelope(line, nx, hx * hx, sites, starts)
            for i in range(nx):
                out[i, j, k] = np.sqrt(line[i])
    return out


@njit(parallel=True, cache=True)
def _distance_within(seeds, hx, hy, hz, limit):
    """Distances up to `limit`; beyond it anything larger, as large as 1e9."""
    nx, ny, nz = seeds.shape
    reach_x, reach_y, reach_z = min(nx, int(limit / hx)), min(ny, int(limit / hy)), min(nz, int(limit / hz))
    out = np.empty((nx, ny, nz), np.float32)
    for i in prange(nx):
        for j in range(ny):
            since = 10 * nz
            for k in range(nz):
                since = 0 if seeds[i, j, k] else since + 1
                out[i, j, k] = since
            since = 10 * nz
            for k in range(nz - 1, -1, -1):
                since = 0 if seeds[i, j, k] else since + 1
                steps = min(since, out[i, j, k])
                out[i, j, k] = FAR if steps > reach_z else (hz * steps) ** 2
        _nearest_rows(out[i].copy(), reach_y, hy * hy, out[i])
    for j in prange(ny):
        _nearest_rows(out[:, j].copy(), reach_x, hx * hx, out[:, j])
        for i in range(nx):
            for k in range(nz):
                out[i, j, k] = np.sqrt(np.float64(out[i, j, k]))
    return out


@njit(cache=True)
def _nearest_rows(rows, reach, h2, out):
    """out[i] = min_j rows[j] + h2 (i - j)^2 over |i - j| <= reach."""
    nearest = np.empty(rows.shape[1])
    for i in range(rows.shape[0]):
        nearest[:] = rows[i]
        for j in range(max(0, i - reach), min(rows.shape[0], i + reach + 1)):
            away = h2 * (i - j) ** 2
            for k in range(nearest.size):
                d2 = np.float64(rows[j, k]) + away
                nearest[k] = d2 if d2 < nearest[k] else nearest[k]
        out[i] = nearest


def _distance(seeds: np.ndarray, voxel_mm: tuple[float, float, float], limit_mm: float) -> np.ndarray:
    hx, hy, hz = (float(v) for v in voxel_mm)
    if limit_mm <= FEW * min(hx, hy, hz):
        return _distance_within(seeds, hx, hy, hz, limit_mm * (1 + 1e-5))
    return _squared_distance(seeds, hx, hy, hz)


def distance_outside(
    mask: np.ndarray, voxel_mm: tuple[float, float, float], limit_mm: float = float("inf")
) -> np.ndarray:
    """Distance in mm from each voxel to the nearest voxel of the mask, 0 inside it: float32, the mask's shape.

    `distance_outside(mask, v) <= r` dilates by r mm. An empty mask is infinitely far (at least 1e9 mm).
    Give `limit_mm` where no more is asked than whether a distance is longer: those may come out far too long.
    """
    return _distance(np.ascontiguousarray(mask, np.bool_), voxel_mm, limit_mm)


def distance_inside(
    mask: np.ndarray, voxel_mm: tuple[float, float, float], limit_mm: float = float("inf")
) -> np.ndarray:
    """Distance in mm from each mask voxel to the nearest voxel outside the mask, 0 there: float32, the mask's shape.

    What lies beyond the array counts as outside. `distance_inside(mask, v) > r` erodes by r mm: those are the
    voxels around which no voxel centre within r mm lies outside the mask. `limit_mm` as in `distance_outside`.
    """
    box = box_of(mask)
    rim = np.pad(~np.asarray(mask, np.bool_)[box.slices], 1, constant_values=True)
    out = np.zeros(mask.shape, np.float32)
    out[box.slices] = _distance(rim, voxel_mm, limit_mm)[1:-1, 1:-1, 1:-1]
    return out

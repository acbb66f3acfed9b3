"""Harmonic in-painting of scattered voxels: each becomes the mean of its neighbours, by over-relaxed sweeps.

Meant for few voxels (a list of them is swept); for a whole volume use the multigrid solver.
"""

import numpy as np
from numba import njit

from qsm_runtime.kernels import threads  # noqa: F401

OVER_RELAXATION = 1.7
TOLERANCE = 1e-4  # of the largest value among the known neighbours
MAX_SWEEPS = 500


@njit(cache=True)
def _sweep(values, places, known, weights, over):
    """One Gauss-Seidel sweep; neighbours that are neither known nor to be filled do not count (no flux)."""
    nx, ny, nz = values.shape
    largest = 0.0
    for n in range(places.shape[0]):
        i, j, k = places[n, 0], places[n, 1], places[n, 2]
        total, weight = 0.0, 0.0
        for axis in range(3):
            for side in (-1, 1):
                a = i + (side if axis == 0 else 0)
                b = j + (side if axis == 1 else 0)
                c = k + (side if axis == 2 else 0)
                if 0 <= a < nx and 0 <= b < ny and 0 <= c < nz and known[a, b, c] > 0:
                    total += weights[axis] * values[a, b, c]
                    weight += weights[axis]
        if weight > 0:
            change = total / weight - values[i, j, k]
            if known[i, j, k] < 2:  # reached for the first time: take the mean as it is
                known[i, j, k] = 2
                values[i, j, k] += change
            else:
                values[i, j, k] += over * change
            largest = max(largest, abs(change))
    return largest


def inpaint(
    values: np.ndarray, known: np.ndarray, unknown: np.ndarray, voxel_mm: tuple[float, float, float]
) -> np.ndarray:
    """A copy of `values` (float32, x y z) with the voxels of `unknown` filled from those of `known` (bool masks).

    The discrete Laplacian vanishes in every filled voxel, counting only neighbours in either mask. Voxels that no
    path of unknown voxels joins to a known one become 0.
    """
    filled = np.where(known, values, np.float32(0)).astype(np.float32)
    places = np.argwhere(unknown)
    if not len(places) or not known.any():
        return filled
    state = known.astype(np.uint8) * np.uint8(3)  # 3 known, 2 filled, 0 not reached yet or outside
    weights = 1.0 / np.asarray(voxel_mm, float) ** 2
    scale = float(np.abs(filled).max())
    for sweep in range(MAX_SWEEPS):
        change = _sweep(filled, places, state, weights, 1.0 if sweep < 3 else OVER_RELAXATION)
        if change <= TOLERANCE * scale:
            break
    return filled

"""Best-path unwrapping: neighbours merged in the order of their summed reliability.

Source: Abdul-Rahman et al. 2007, 10.1364/AO.46.006623. With p the phase and g() the wrap to [-pi, pi]:
  D = sum over the 13 lines through the voxel of (g(p_- - p) - g(p - p_+))^2,  R = 1 / sqrt(D)
  an edge's reliability is R_i + R_j, and the most reliable edges are followed first
Lines that leave the mask are left out and D is scaled up to 13. Edges are ordered by sqrt(1 / (R_i + R_j)) in 255
steps, and grown as in `region_growing`: the tree of best edges is the same whether grown or merged.
"""

import numpy as np
from numba import njit, prange

from qsm_runtime.errors import ReconstructionError, ShapeError
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)
from qsm_runtime.kernels.convolve import box_of
from qsm_runtime.unwrap.edges import Edges, best_seed, turns_of, wrap, wrapped
from qsm_runtime.unwrap.region_growing import apply_turns, grow

_WORST = np.float32(13 * np.pi**2)  # of D, where no line stays in the mask
_LINES = np.array(
    [(a, b, c) for a in (0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1) if (a, b, c) > (0, 0, 0)], np.int64
)


def best_path(phase_rad: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Unwrapped phase in rad, float32 (echo, x, y, z): equal to the input but for whole turns, zero outside the mask.

    phase_rad  float32 (echo, x, y, z) or (x, y, z), wrapped; a voxel that is not a number stays so
    mask       bool (x, y, z); in each part and echo the median of the added turns is zero

    Raises ShapeError, or ReconstructionError for an empty mask. Source: 10.1364/AO.46.006623.
    """
    grid.check(mask, "mask")
    if phase_rad.shape[-3:] != grid.shape:
        raise ShapeError(f"phase_rad has shape {phase_rad.shape}, expected (echo, *{grid.shape})")
    if not mask.any():
        raise ReconstructionError("the mask is empty; nothing to unwrap")
    out = np.zeros(phase_rad.shape, np.float32)
    for source, target in zip(phase_rad.reshape(-1, *grid.shape), out.reshape(-1, *grid.shape), strict=True):
        phase = wrapped(source)
        edges = reliability_edges(phase, mask)
        apply_turns(target, phase, mask, edges, grow(edges))
    return out


def reliability_edges(phase_rad: np.ndarray, mask: np.ndarray) -> Edges:
    """Edges of one volume ranked by summed reliability: phase in [-pi, pi] (float32, x, y, z), bool mask."""
    box = box_of(mask)
    sx, sy, sz = box.size
    phase = np.ascontiguousarray(phase_rad[box.slices])
    inside = mask[box.slices] & np.isfinite(phase)
    words = np.zeros((sx + 1) * sy * sz, np.uint32)
    histogram = np.zeros((sx, 256), np.int64)
    _rank(words, histogram, phase, inside, _reliability(phase, inside, _LINES))
    histogram[:, 0] = 0
    return Edges(words, histogram.sum(0), 1, best_seed(words, sy * sz), box)


@njit(parallel=True, cache=True)
def _reliability(phase, mask, lines):
    nx, ny, nz = phase.shape
    out = np.zeros(phase.shape, np.float32)
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                if not mask[x, y, z]:
                    continue
                p, total, count = phase[x, y, z], np.float32(0), 0
                for n in range(lines.shape[0]):
                    a, b, c = lines[n]
                    if not (a <= x < nx - a and abs(b) <= y < ny - abs(b) and abs(c) <= z < nz - abs(c)):
                        continue
                    if mask[x - a, y - b, z - c] and mask[x + a, y + b, z + c]:
                        d = wrap(phase[x - a, y - b, z - c] - p) - wrap(p - phase[x + a, y + b, z + c])
                        total += d * d
                        count += 1
                total = total * np.float32(13) / np.float32(count) if count else _WORST
                out[x, y, z] = np.float32(1) / np.sqrt(max(total, np.float32(1e-6)))
    return out


@njit(parallel=True, cache=True)
def _rank(words, histogram, phase, mask, reliability):
    nx, ny, nz = phase.shape
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                if not mask[x, y, z]:
                    continue
                word = np.uint32(0)
                for axis in range(3):
                    i, j, k = x + (axis == 0), y + (axis == 1), z + (axis == 2)
                    if i < nx and j < ny and k < nz and mask[i, j, k]:
                        # D is at most four times _WORST, so sqrt(1 / (R_i + R_j)) lies below sqrt(sqrt(_WORST))
                        cost = np.sqrt(1 / (reliability[x, y, z] + reliability[i, j, k])) / np.sqrt(np.sqrt(_WORST))
                        level = np.uint32(1 + min(254.0, 254 * cost))
                        turns = np.uint32(turns_of(phase[x, y, z] - phase[i, j, k]) + 1)
                        word |= np.uint32(level << np.uint32(8 * axis)) | np.uint32(turns << np.uint32(24 + 2 * axis))
                        histogram[x, level] += 1
                words[((x + 1) * ny + y) * nz + z] = word

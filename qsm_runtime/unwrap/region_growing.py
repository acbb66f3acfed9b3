"""Unwrapping along the best edges first: a minimum spanning tree grown over the edge words of `edges`.

Prim's algorithm (10.1002/j.1538-7305.1957.tb01515.x) with last-in-first-out buckets, one a bin, and a moving
minimum, as ROMEO does (10.1002/mrm.28563); bins that are all to be trusted share a bucket. An edge is queued at most
once, so the buckets are slices of one array laid out by the edges' histogram. The tree does not depend on the seed
but for ties, so one seed is enough for each connected part of the mask; each part is then shifted so that the median
of its added turns is zero.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit, prange

from qsm_runtime.errors import ReconstructionError
from qsm_runtime.kernels import threads
from qsm_runtime.unwrap.edges import Edges

_VISITED = np.uint32(1 << 31)
_MOST_WORDS = 1 << 29  # an edge is queued as four times its voxel's index plus its axis, in an int32


@njit(cache=True)
def _visit(u, words, strides, trusted, arena, top, low):
    """Mark voxel `u` and queue its edges to voxels not visited yet; returns the lowest bin in use."""
    word = words[u]
    words[u] = word | _VISITED
    for axis in range(3):
        level = (word >> (8 * axis)) & 255
        if level and not words[u + strides[axis]] >> 31:
            level = max(level, trusted)
            arena[top[level]] = u << 2 | axis
            top[level] += 1
            low = min(low, level)
        behind = words[u - strides[axis]]
        level = (behind >> (8 * axis)) & 255
        if level and not behind >> 31:
            level = max(level, trusted)
            arena[top[level]] = (u - strides[axis]) << 2 | axis
            top[level] += 1
            low = min(low, level)
    return low


@njit(cache=True)
def _shift_to_zero_median(turns, members):
    lowest, highest = 0, 0
    for m in members:
        lowest, highest = min(lowest, turns[m]), max(highest, turns[m])
    if lowest == highest:
        return
    tally = np.zeros(highest - lowest + 1, np.int64)
    for m in members:
        tally[turns[m] - lowest] += 1
    median, below = lowest, tally[0]
    while 2 * below < members.size:
        median += 1
        below += tally[median - lowest]
    for m in members:
        turns[m] -= median


@njit(cache=True, nogil=True)
def _grow(words, turns, strides, histogram, trusted, seed):
    bottom = np.zeros(257, np.int64)
    for level in range(1, 256):
        bottom[max(level, trusted) + 1] += histogram[level]
    for level in range(1, 257):
        bottom[level] += bottom[level - 1]
    top = bottom.copy()
    arena = np.empty(bottom[256], np.int32)
    members = np.empty(words.size, np.int32)
    scan = strides[0]
    while seed:
        count, low = 0, bottom.size - 1
        members[count] = seed
        count += 1
        low = _visit(seed, words, strides, trusted, arena, top, low)
        while True:
            while low < 256 and top[low] == bottom[low]:
                low += 1
            if low == 256:
                break
            top[low] -= 1
            edge = arena[top[low]]
            axis = edge & 3
            i = edge >> 2
            j = i + strides[axis]
            word = words[i]
            if word >> 31:
                if words[j] >> 31:
                    continue
                turns[j] = turns[i] + ((word >> (24 + 2 * axis)) & 3) - 1
                new = j
            else:
                turns[i] = turns[j] - ((word >> (24 + 2 * axis)) & 3) + 1
                new = i
            members[count] = new
            count += 1
            low = _visit(new, words, strides, trusted, arena, top, low)
        _shift_to_zero_median(turns, members[:count])
        while scan < words.size and (words[scan] >> 31 or not words[scan] & 0xFFFFFF):
            scan += 1
        seed = scan if scan < words.size else 0


@njit(parallel=True, cache=True)
def _apply(out, phase, mask, turns, lo, size):
    sx, sy, sz = size
    for x in prange(sx):
        for y in range(sy):
            for z in range(sz):
                i, j, k = x + lo[0], y + lo[1], z + lo[2]
                if mask[i, j, k]:
                    turn = turns[((x + 1) * sy + y) * sz + z]
                    out[i, j, k] = phase[i, j, k] + np.float32(2 * np.pi * turn)


def grow(edges: Edges) -> np.ndarray:
    """Turns (int16) to add to each voxel of `edges.words`; marks the words as visited, so grow them once."""
    if edges.words.size > _MOST_WORDS:
        raise ReconstructionError(
            f"the mask's box has {edges.words.size} voxels, at most {_MOST_WORDS} can be unwrapped"
        )
    turns = np.zeros(edges.words.size, np.int16)
    _grow(edges.words, turns, edges.strides, edges.histogram, edges.trusted, edges.seed)
    return turns


def grow_each(edges: list[Edges]) -> list[np.ndarray]:
    """`grow` for several volumes at once: the growing is serial, so each thread takes a volume."""
    if len(edges) == 1:
        return [grow(edges[0])]
    with ThreadPoolExecutor(min(threads.get_threads(), len(edges))) as pool:
        return list(pool.map(grow, edges))


def apply_turns(out: np.ndarray, phase_rad: np.ndarray, mask: np.ndarray, edges: Edges, turns: np.ndarray) -> None:
    """Write phase + 2 pi turns into `out` (float32, x, y, z), within the mask only."""
    _apply(out, phase_rad, mask, turns, edges.box.lo, edges.box.size)

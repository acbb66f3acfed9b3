"""How far the phase difference between two neighbours can be believed: one uint8 bin an edge.

Source: Dymerska et al. 2021 (ROMEO), 10.1002/mrm.28563. For the edge i-j on the line h, i, j, k, with g() the
wrap to [-pi, pi]:
  phase coherence      1 - |g(p_i - p_j)| / pi
  gradient coherence   max(0, 1 - |g(p_i - p_j) - g(p2_i - p2_j) TE / TE2|), with the phase p2 of a second echo
  phase linearity      max(0, 1 - |g(p_h - 2 p_i + p_j)| / 2) max(0, 1 - |g(p_i - 2 p_j + p_k)| / 2)
  magnitude coherence  (min(m_i, m_j) / max(m_i, m_j))^2
  w = prod(0.1 + 0.9 q),  bin = max(1, round(255 (1 - w)));  1 is best, 0 is no edge

Every voxel of the mask's box gets one 32-bit word: the bins of its three forward edges (8 bits each), for each
the wraps gained by crossing it, round((p_i - p_j) / 2 pi) + 1 (2 bits each), and a bit for the region growing.
So the growing reads nothing but these words.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)
from qsm_runtime.kernels.convolve import Box, box_of

NO_VOLUME = np.zeros(0, np.float32)  # stands for an absent magnitude or second echo

# Edges up to this bin have w >= 0.747, so |g(p_i - p_j)| < 0.9 rad: four of them round a face of the lattice cannot
# add up to a turn, and the order in which they are followed makes no difference. One bucket for them all keeps the
# growing local in memory: it took a quarter of the time of 255 buckets, with the same result.
TRUSTED_BIN = 64

_TWO_PI = np.float32(2 * np.pi)
_PER_TURN = np.float32(1 / (2 * np.pi))
_PER_PI = np.float32(1 / np.pi)
_ROUNDER = np.float32(3 << 22)  # adding and subtracting it rounds a float32 to the nearest integer
_ZERO, _TENTH, _HALF, _LESS, _ONE, _TWO = (np.float32(v) for v in (0.0, 0.1, 0.5, 0.9, 1.0, 2.0))
_BINS = np.float32(255)
_IN_RANGE_RAD = 3.5  # phase this near to [-pi, pi] is taken as wrapped
_NO_NEIGHBOUR = np.float32(0.1 + 0.9 * 0.9)  # linearity factor where the line leaves the array
_UNKNOWN = np.float32(0.5)  # linearity where a neighbour on the line is not a number


class Edges(NamedTuple):
    """Edge words of a mask's box.

    words      uint32, one plane of zeros and then the box's voxels in C order
    histogram  int64 (256,), number of edges in each bin
    trusted    highest bin whose edges may be followed in any order
    seed       index into `words` of the voxel with the best three forward edges
    box        crop of the full array that the words stand for
    """

    words: np.ndarray
    histogram: np.ndarray
    trusted: int
    seed: int
    box: Box

    @property
    def strides(self) -> tuple[int, int, int]:
        """Distance in `words` between neighbours along each axis."""
        return self.box.size[1] * self.box.size[2], self.box.size[2], 1


@njit(cache=True)
def turns_of(x):
    """Whole turns nearest to `x` rad, as float32."""
    return (x * _PER_TURN + _ROUNDER) - _ROUNDER


@njit(cache=True)
def wrap(x):
    """`x` rad (float32) less whole turns."""
    return x - _TWO_PI * turns_of(x)


@njit(cache=True, error_model="numpy")
def _phase_factors(weight, h, i, j, k):
    for t in range(weight.size):
        coherence = _ONE - abs(wrap(i[t] - j[t])) * _PER_PI
        before = _ONE - abs(wrap(h[t] - _TWO * i[t] + j[t])) * _HALF
        after = _ONE - abs(wrap(i[t] - _TWO * j[t] + k[t])) * _HALF
        known = before + after
        before = before if before > _ZERO else _ZERO
        after = after if after > _ZERO else _ZERO
        linearity = before * after if known == known else _UNKNOWN
        weight[t] = (_TENTH + _LESS * coherence) * (_TENTH + _LESS * linearity)


@njit(cache=True, error_model="numpy")
def _border_factors(weight, i, j):
    for t in range(weight.size):
        weight[t] = (_TENTH + _LESS * (_ONE - abs(wrap(i[t] - j[t])) * _PER_PI)) * _NO_NEIGHBOUR


@njit(cache=True, error_model="numpy")
def _gradient_factor(weight, i, j, i2, j2, te_ratio):
    for t in range(weight.size):
        q = _ONE - abs(wrap(i[t] - j[t]) - te_ratio * wrap(i2[t] - j2[t]))
        weight[t] *= _TENTH + _LESS * (q if q > _ZERO else _ZERO)


@njit(cache=True, error_model="numpy")
def _magnitude_factor(weight, i, j):
    for t in range(weight.size):
        q = i[t] / j[t] if i[t] < j[t] else j[t] / i[t]
        weight[t] *= _TENTH + _LESS * (q * q if q > _ZERO else _ZERO)


@njit(cache=True, error_model="numpy")
def _pack(words, weight, i, j, mask_i, mask_j, axis):
    for t in range(words.size):
        w = weight[t]
        known = mask_i[t] & mask_j[t] & (w == w)
        level = np.uint32(max((_ONE - w) * _BINS + _HALF, _ONE)) if known else np.uint32(0)
        turns = np.uint32(turns_of(i[t] - j[t]) + _ONE) if known else np.uint32(0)
        words[t] |= np.uint32(level << np.uint32(8 * axis)) | np.uint32(turns << np.uint32(24 + 2 * axis))


@njit(cache=True)
def _row(words, weight, phase, second, te_ratio, magnitude, mask, a, b, step, axis, on_line):
    """Edges from the voxels a..b (flat indices of one row) to those `step` further on."""
    words, weight = words[: b - a], weight[: b - a]
    i, j = phase[a:b], phase[a + step : b + step]
    if on_line:
        _phase_factors(weight, phase[a - step : b - step], i, j, phase[a + 2 * step : b + 2 * step])
    else:
        _border_factors(weight, i, j)
    if second.size:
        _gradient_factor(weight, i, j, second[a:b], second[a + step : b + step], te_ratio)
    if magnitude.size:
        _magnitude_factor(weight, magnitude[a:b], magnitude[a + step : b + step])
    _pack(words, weight, i, j, mask[a:b], mask[a + step : b + step], axis)


@njit(parallel=True, cache=True)
def _words(words, histogram, phase, second, te_ratio, magnitude, mask, shape, lo, size):
    nx, ny, nz = shape
    sx, sy, sz = size
    for x in prange(sx):
        weight = np.empty(sz, np.float32)
        for y in range(sy):
            start = ((x + lo[0]) * ny + y + lo[1]) * nz + lo[2]
            out = ((x + 1) * sy + y) * sz
            row = mask[start : start + sz]
            za, zb = 0, sz
            while za < zb and not row[za]:
                za += 1
            while za < zb and not row[zb - 1]:
                zb -= 1
            if za == zb:
                continue
            line = words[out : out + sz]
            last = zb - 1
            inner_a = min(max(za, 1 - lo[2]), last)
            inner_b = max(min(last, nz - 2 - lo[2]), inner_a)
            # along x, along y, then along z before, within and after the part where four voxels are in line
            for part in range(5):
                axis = min(part, 2)
                a, b, step = za, zb, ny * nz
                on_line = 0 < x + lo[0] < nx - 2
                if part == 1:
                    step = nz
                    on_line = 0 < y + lo[1] < ny - 2
                elif part > 1:
                    a = za if part == 2 else (inner_a if part == 3 else inner_b)
                    b = inner_a if part == 2 else (inner_b if part == 3 else last)
                    step = 1
                    on_line = part == 3
                if a < b and (part != 0 or x + 1 < sx) and (part != 1 or y + 1 < sy):
                    _row(line[a:], weight, phase, second, te_ratio, magnitude, mask, start + a, start + b, step, axis,
                         on_line)  # fmt: skip
            for z in range(za, zb):
                for axis in range(3):
                    histogram[x, (line[z] >> (8 * axis)) & 255] += 1


@njit(cache=True)
def best_seed(words, start):
    """Index from `start` on of the voxel with the lowest sum of forward bins (no edge counts 255), 0 without edges."""
    seed, best = 0, 3 * 255
    for u in range(start, words.size):
        word, bins = words[u], 0
        for axis in range(3):
            level = (word >> (8 * axis)) & 255
            bins += level if level else 255
        if bins < best:
            seed, best = u, bins
    return seed


def wrapped(phase_rad: np.ndarray) -> np.ndarray:
    """The phase itself as contiguous float32, or a copy less whole turns where it leaves [-pi, pi]."""
    phase_rad = np.ascontiguousarray(phase_rad, np.float32)
    low, high = np.fmin.reduce(phase_rad, axis=None), np.fmax.reduce(phase_rad, axis=None)
    if not (low < -_IN_RANGE_RAD or high > _IN_RANGE_RAD):
        return phase_rad
    turn = np.float32(2 * np.pi)
    with np.errstate(invalid="ignore"):
        return phase_rad - turn * np.rint(phase_rad / turn)


def phase_edges(
    phase_rad: np.ndarray,
    mask: np.ndarray,
    magnitude: np.ndarray | None = None,
    second_phase_rad: np.ndarray | None = None,
    te_ratio: float = 1.0,
) -> Edges:
    """ROMEO's edges of one volume: phase in [-pi, pi] (float32, x, y, z; not-a-number has no edges), bool mask.

    magnitude         float32 (x, y, z), any unit; None leaves its factor out
    second_phase_rad  float32 (x, y, z), phase of another echo; None leaves the gradient coherence out
    te_ratio          echo time of `phase_rad` over that of `second_phase_rad`
    """
    box = box_of(mask)
    sx, sy, sz = box.size
    words = np.zeros((sx + 1) * sy * sz, np.uint32)
    histogram = np.zeros((sx, 256), np.int64)
    second = NO_VOLUME if second_phase_rad is None else second_phase_rad.reshape(-1)
    weigh = NO_VOLUME if magnitude is None else magnitude.reshape(-1)
    _words(words, histogram, phase_rad.reshape(-1), second, np.float32(te_ratio), weigh, mask.reshape(-1),
           mask.shape, box.lo, box.size)  # fmt: skip
    counts = histogram.sum(0)
    counts[0] = 0
    return Edges(words, counts, TRUSTED_BIN, best_seed(words, sy * sz), box)


@njit(parallel=True, cache=True)
def _quality(words, quality, lo, size):
    sx, sy, sz = size
    per_bin = np.float32(1 / (6 * 255))
    for x in prange(sx):
        for y in range(sy):
            for z in range(sz):
                u = ((x + 1) * sy + y) * sz + z
                total = 0
                for axis, step in enumerate((sy * sz, sz, 1)):
                    for v in (u, u - step):
                        level = (words[v] >> (8 * axis)) & 255
                        total += 255 - level if level else 0
                quality[x + lo[0], y + lo[1], z + lo[2]] = np.float32(total) * per_bin


def voxel_quality(edges: Edges, shape: tuple[int, int, int]) -> np.ndarray:
    """Sum of the weights of a voxel's six edges over six: float32 `shape`, 0..1, in steps of 1/1530."""
    quality = np.zeros(shape, np.float32)
    _quality(edges.words, quality, edges.box.lo, edges.box.size)
    return quality

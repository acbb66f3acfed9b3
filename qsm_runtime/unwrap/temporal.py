"""Unwrapping in time: each echo by the phase that the echoes known so far predict, in step over a part of the mask.

Source: Dymerska et al. 2021 (ROMEO), 10.1002/mrm.28563: phi_e -= 2 pi round((phi_e - q_e) / 2 pi), where ROMEO takes
q_e = phi_r TE_e / TE_r from the neighbouring echo. Here q_e is the line through the origin fitted to all echoes r
known so far, weighted by the inverse variance of their phase (magnitude squared):
  q_e = TE_e sum_r(m_r^2 TE_r phi_r) / sum_r(m_r^2 TE_r^2)
A part of the mask in which an echo deviates from the prediction by one angle everywhere (a constant phase offset, or
a template that is a turn off) is unwrapped around that angle, so that it is never torn apart.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from scipy import ndimage

from qsm_runtime.kernels import threads  # noqa: F401  (sets the OpenMP wait policy first)
from qsm_runtime.kernels.convolve import box_of

MAX_TEMPLATE_TURNS = 2  # how far a part of the template may be off as a whole
TURN_PENALTY = 0.05  # rad^2 a squared turn: without evidence in the other echoes nothing is moved

_CHUNKS = 8  # partial sums over a fixed number of slabs: the same result for any thread count
_FAR = 0.75 * np.pi  # rad from the prediction: about to be given the wrong turn
_ROUNDER = float(3 << 51)  # adding and subtracting it rounds a float64 to the nearest integer
_MAX_SHIFT = 64  # turns between an echo unwrapped in space and its prediction


class Parts(NamedTuple):
    """Connected parts of a mask: labels int32 (x, y, z), 1..n, 0 outside; all lie in the box [lo, hi)."""

    labels: np.ndarray
    n: int
    lo: tuple[int, int, int]
    hi: tuple[int, int, int]


def connected_parts(mask: np.ndarray) -> Parts:
    """Parts of a bool mask (x, y, z) that share faces."""
    box = box_of(mask)
    labels = np.zeros(mask.shape, np.int32)
    n = ndimage.label(mask[box.slices], output=labels[box.slices])
    return Parts(labels, int(n), box.lo, box.hi)


@njit(cache=True)
def _predicted(echoes, magnitude, times, known, e, x, y, z):
    above, below = 0.0, 0.0
    for r in known:
        weight = times[r]
        if magnitude.shape[0]:
            weight *= magnitude[r, x, y, z] * magnitude[r, x, y, z]
        above += weight * echoes[r, x, y, z]
        below += weight * times[r]
    if below > 0:
        return times[e] * above / below
    return times[e] / times[known[0]] * echoes[known[0], x, y, z]


@njit(cache=True)
def _nearest(x):
    """The integer nearest to the float64 `x`."""
    return (x + _ROUNDER) - _ROUNDER


@njit(cache=True)
def _sine(turns):
    """sin(2 pi turns) to 1e-3, by parabolas."""
    turns -= _nearest(turns)
    y = 8 * turns - 16 * turns * abs(turns)
    return 0.225 * (y * abs(y) - y) + y


@njit(parallel=True, cache=True, error_model="numpy")
def _deviation(sums, phase, echoes, magnitude, times, known, e, labels, lo, hi):
    step = (hi[0] - lo[0] + _CHUNKS - 1) // _CHUNKS
    for c in prange(_CHUNKS):
        for x in range(lo[0] + c * step, min(lo[0] + (c + 1) * step, hi[0])):
            run, cosine, sine = 0, 0.0, 0.0  # sums over a run of voxels of one part
            for y in range(lo[1], hi[1]):
                for z in range(lo[2], hi[2]):
                    part = labels[x, y, z]
                    if part != run:
                        sums[c, run, 0] += cosine
                        sums[c, run, 1] += sine
                        run, cosine, sine = part, 0.0, 0.0
                    if part:
                        d = phase[x, y, z] - _predicted(echoes, magnitude, times, known, e, x, y, z)
                        turns = d / (2 * np.pi)
                        cosine += _sine(turns + 0.25)
                        sine += _sine(turns)
            sums[c, run, 0] += cosine
            sums[c, run, 1] += sine


@njit(parallel=True, cache=True, error_model="numpy")
def _follow(sums, phase, echoes, magnitude, times, known, e, labels, lo, hi, angle):
    step = (hi[0] - lo[0] + _CHUNKS - 1) // _CHUNKS
    for c in prange(_CHUNKS):
        total, far = 0.0, 0.0
        for x in range(lo[0] + c * step, min(lo[0] + (c + 1) * step, hi[0])):
            for y in range(lo[1], hi[1]):
                for z in range(lo[2], hi[2]):
                    part = labels[x, y, z]
                    if part:
                        p = phase[x, y, z]
                        d = p - _predicted(echoes, magnitude, times, known, e, x, y, z) - angle[part]
                        turn = _nearest(d / (2 * np.pi))
                        echoes[e, x, y, z] = np.float32(p - 2 * np.pi * turn)
                        signal = float(magnitude[e, x, y, z]) if magnitude.shape[0] else 1.0
                        total += signal
                        if abs(d - 2 * np.pi * turn) > _FAR:
                            far += signal
        sums[c, 0], sums[c, 1] = total, far


@njit(cache=True, error_model="numpy")
def _tally(tally, echoes, magnitude, times, known, e, labels, lo, hi, angle):
    for x in range(lo[0], hi[0]):
        for y in range(lo[1], hi[1]):
            for z in range(lo[2], hi[2]):
                part = labels[x, y, z]
                if part:
                    d = echoes[e, x, y, z] - _predicted(echoes, magnitude, times, known, e, x, y, z) - angle[part]
                    turn = int(_nearest(d / (2 * np.pi)))
                    tally[part, min(max(turn, -_MAX_SHIFT), _MAX_SHIFT) + _MAX_SHIFT] += 1


@njit(parallel=True, cache=True)
def _add(phase, labels, shift):
    for x in prange(phase.shape[0]):
        for y in range(phase.shape[1]):
            for z in range(phase.shape[2]):
                if labels[x, y, z]:
                    phase[x, y, z] += shift[labels[x, y, z]]


class Echoes:
    """Echoes being unwrapped one after the other in a common array.

    unwrapped  float32 (echo, x, y, z), written in place
    magnitude  float32 (echo, x, y, z), or None for equal weights
    times_s    one echo time an echo
    parts      connected parts of the mask where every echo is finite
    known      indices of the echoes that are unwrapped
    """

    def __init__(
        self,
        unwrapped: np.ndarray,
        magnitude: np.ndarray | None,
        times_s: tuple[float, ...],
        parts: Parts,
        first: int,
    ) -> None:
        self.unwrapped = unwrapped
        self.magnitude = np.zeros((0, 1, 1, 1), np.float32) if magnitude is None else magnitude
        self.times_s = np.asarray(times_s, np.float64)
        self.parts = parts
        self.known = [first]

    def _prediction(self, e: int) -> tuple:
        known = np.array(self.known)
        return self.unwrapped, self.magnitude, self.times_s, known, e, self.parts.labels, self.parts.lo, self.parts.hi

    def deviation(self, e: int, phase: np.ndarray) -> np.ndarray:
        """Circular mean of phase - prediction in each part, in rad."""
        sums = np.zeros((_CHUNKS, self.parts.n + 1, 2))
        _deviation(sums, phase, *self._prediction(e))
        cosine, sine = sums.sum(0).T
        return np.arctan2(sine, cosine)

    def follow(self, e: int, phase: np.ndarray, angle: np.ndarray) -> float:
        """Unwrap echo `e` to the turn nearest to prediction + angle[part].

        Returns the share of the signal further than 3/4 of half a turn from there: what may have got a wrong turn.
        """
        sums = np.zeros((_CHUNKS, 2))
        _follow(sums, phase, *self._prediction(e), angle)  # type: ignore[call-arg]
        total, far = sums.sum(0)
        return float(far / total) if total > 0 else 1.0

    def align(self, e: int, angle: np.ndarray) -> None:
        """Shift echo `e`, already unwrapped in space, by the turns that bring most of each part to the prediction."""
        tally = np.zeros((self.parts.n + 1, 2 * _MAX_SHIFT + 1), np.int32)
        _tally(tally, *self._prediction(e), angle)  # type: ignore[call-arg]
        self.add_turns(e, _MAX_SHIFT - tally.argmax(1))

    def add_turns(self, e: int, turns: np.ndarray) -> None:
        """Add 2 pi turns[part] to echo `e`."""
        turns[0] = 0
        if turns.any():
            _add(self.unwrapped[e], self.parts.labels, (2 * np.pi * turns).astype(np.float32))


def template_turns(angles: np.ndarray, te_ratios: np.ndarray) -> np.ndarray:
    """Turns by which each part of the template is off: those that bring the other echoes nearest to its prediction.

    angles     float64 (echo, part), circular mean of phi_e - phi_template TE_e / TE_template
    te_ratios  float64 (echo,)
    A whole-number ratio carries no evidence, and such a part stays where it is.
    """
    candidates = np.array(sorted(range(-MAX_TEMPLATE_TURNS, MAX_TEMPLATE_TURNS + 1), key=abs))
    off = angles[:, :, None] - 2 * np.pi * candidates * te_ratios[:, None, None]
    off -= 2 * np.pi * np.rint(off / (2 * np.pi))
    return candidates[np.argmin((off**2).mean(0) + TURN_PENALTY * candidates**2, axis=-1)]

"""Convolution with a real, even kernel: crop to what matters, transform, multiply, transform back."""

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from qsm_runtime.kernels import threads  # noqa: F401
from qsm_runtime.kernels.fft import Plan, padded_shape


class Box(NamedTuple):
    """A crop [lo, hi) of an array, and the FFT shape that it is zero-padded to."""

    lo: tuple[int, int, int]
    hi: tuple[int, int, int]
    fft_shape: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        x, y, z = (slice(a, b) for a, b in zip(self.lo, self.hi, strict=True))
        return x, y, z

    @property
    def size(self) -> tuple[int, int, int]:
        x, y, z = (b - a for a, b in zip(self.lo, self.hi, strict=True))
        return x, y, z


def box_of(mask: np.ndarray, margin: tuple[int, int, int] = (0, 0, 0)) -> Box:
    """The mask's bounding box, and an FFT shape with at least `margin` voxels of zeros an axis after it."""
    lo, hi = [], []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        lo.append(int(used[0]) if used.size else 0)
        hi.append(int(used[-1]) + 1 if used.size else 1)
    size = tuple(b - a for a, b in zip(lo, hi, strict=True))
    return Box((lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2]), padded_shape(size, margin))


def embed(x: np.ndarray, box: Box, out: np.ndarray) -> np.ndarray:
    """The crop of `x` (float32 or bool, full grid) in the low corner of `out` (box.fft_shape), zeros elsewhere."""
    nx, ny, nz = box.size
    out[:nx, :ny, :nz] = x[box.slices]
    out[:nx, :ny, nz:] = 0
    out[:nx, ny:] = 0
    out[nx:] = 0
    return out


def extract(y: np.ndarray, box: Box, shape: tuple[int, int, int]) -> np.ndarray:
    """A new float32 array of the full `shape`: the low corner of `y` put back in its place, zeros elsewhere."""
    out = np.zeros(shape, np.float32)
    out[box.slices] = y[tuple(slice(n) for n in box.size)]
    return out


@njit(parallel=True, cache=True)
def keep(x, mask):
    """Zero `x` outside the bool `mask`, which lies in its low corner and may be smaller, in place; returns it."""
    nx, ny, nz = mask.shape
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            if i < nx and j < ny:
                for k in range(nz):
                    if not mask[i, j, k]:
                        x[i, j, k] = 0
                for k in range(nz, x.shape[2]):
                    x[i, j, k] = 0
            else:
                for k in range(x.shape[2]):
                    x[i, j, k] = 0
    return x


@njit(parallel=True, cache=True)
def multiply(spectrum, real_filter):
    """spectrum *= real_filter, in place."""
    for i in prange(spectrum.shape[0]):
        for j in range(spectrum.shape[1]):
            for k in range(spectrum.shape[2]):
                spectrum[i, j, k] *= real_filter[i, j, k]


def convolve(x: np.ndarray, real_filter: np.ndarray, plan: Plan, out: np.ndarray | None = None) -> np.ndarray:
    """out = F^-1 (real_filter . F x); `real_filter` carries plan.scale. Uses plan.spectrum; `out` may be `x`."""
    spectrum = plan.forward(x)
    multiply(spectrum, real_filter)
    return plan.inverse(spectrum, out)

"""What a transform's periodic grid adds to the field of a map: that of the map's images in the boxes all around.

    periodic - free space = F^-1 D F x - (D x in a box twice as wide)
Inside the box this is smooth, since the images lie outside: a few millimetres tell it to 1 to 4 % of itself, where a
double box at full resolution would cost eight times the transform. It is of the size of the noise of a good scan, and
what takes it for field answers with a wrong level and slow shading (cf. Marques and Bowtell 2005, 10.1002/cmr.b.20034,
on the grid to be padded).
"""

import numpy as np
from numba import njit, prange
from scipy import fft  # small transforms of shapes of their own: planning them would cost more

from qsm_runtime.grid import Grid
from qsm_runtime.kernels.convolve import Box
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.threads import get_threads

COARSE_MM = 4.0


def divisor(n: int, most: float) -> int:
    """The largest divisor of `n` up to `most`, else 1."""
    return max(d for d in range(1, max(1, int(most)) + 1) if n % d == 0)


@njit(parallel=True, cache=True)
def _block_means(x, fx, fy, fz, out):
    """Means over blocks of `x`, which ends anywhere in the low corner of what `out` covers and is zero beyond."""
    out[...] = 0
    for i in prange(-(-x.shape[0] // fx)):
        for a in range(i * fx, min((i + 1) * fx, x.shape[0])):
            for b in range(x.shape[1]):
                for c in range(x.shape[2]):
                    out[i, b // fy, c // fz] += x[a, b, c]
    out /= fx * fy * fz


@njit(parallel=True, cache=True)
def _linear(coarse, fx, fy, fz, out):
    """out: `coarse` (cell centres) in between, by linear interpolation."""
    nx, ny, nz = coarse.shape
    for a in prange(out.shape[0]):
        p = min(max((a + 0.5) / fx - 0.5, 0.0), nx - 1.0)
        i = min(int(p), max(nx - 2, 0))
        i1, u = min(i + 1, nx - 1), np.float32(p - i)
        for b in range(out.shape[1]):
            q = min(max((b + 0.5) / fy - 0.5, 0.0), ny - 1.0)
            j = min(int(q), max(ny - 2, 0))
            j1, v = min(j + 1, ny - 1), np.float32(q - j)
            for c in range(out.shape[2]):
                r = min(max((c + 0.5) / fz - 0.5, 0.0), nz - 1.0)
                k = min(int(r), max(nz - 2, 0))
                k1, w = min(k + 1, nz - 1), np.float32(r - k)
                low = (1 - u) * coarse[i, j, k] + u * coarse[i1, j, k]
                high = (1 - u) * coarse[i, j1, k] + u * coarse[i1, j1, k]
                before = (1 - v) * low + v * high
                low = (1 - u) * coarse[i, j, k1] + u * coarse[i1, j, k1]
                high = (1 - u) * coarse[i, j1, k1] + u * coarse[i1, j1, k1]
                out[a, b, c] = (1 - w) * before + w * ((1 - v) * low + v * high)


class Images:
    """Linear in the map; for the transform of `box` on `grid` (shapes: the box's, voxels and B0: the grid's)."""

    def __init__(self, box: Box, grid: Grid) -> None:
        self.size = box.size
        fx, fy, fz = (divisor(n, COARSE_MM / v) for n, v in zip(box.fft_shape, grid.voxel_mm, strict=True))
        self.factor = fx, fy, fz
        x, y, z = (n // f for n, f in zip(box.fft_shape, self.factor, strict=True))
        a, b, c = (f * v for f, v in zip(self.factor, grid.voxel_mm, strict=True))
        self.shapes = (x, y, z), (2 * x, 2 * y, 2 * z)
        self.filters = [dipole_kernel(shape, (a, b, c), grid.b0_dir) for shape in self.shapes]

    def __call__(self, chi_ppm: np.ndarray) -> np.ndarray:
        """The images' field in ppm of a map in the box (float32, of the box's size; larger: in its low corner)."""
        x, y, z = self.shapes[0]
        fx, fy, fz = self.factor
        means = np.empty((x, y, z), np.float32)
        _block_means(chi_ppm[tuple(slice(n) for n in self.size)], fx, fy, fz, means)
        periodic, free = (
            fft.irfftn(fft.rfftn(means, shape, workers=get_threads()) * d, shape, workers=get_threads())[:x, :y, :z]
            for shape, d in zip(self.shapes, self.filters, strict=True)
        )
        out = np.empty(self.size, np.float32)
        _linear(periodic - free, fx, fy, fz, out)
        return out

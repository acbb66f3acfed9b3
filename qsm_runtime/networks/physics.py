"""The dipole model beside a network, on the network's own grid, by the project's FFT layer.

D x = F^-1 (D F x) in float32; D(0) and the zeros around the volume as the network's card says. Filters carry the
plan's scale, spectra are the plan's work arrays: an application is one pair of transforms and one pass in between.
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.kernels.convolve import multiply
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.fft import padded_shape, plan

Sizes = tuple[int, int, int]
Triple = tuple[float, float, float]


class Dipole:
    """D on volumes of one shape.

    shape      of the volumes
    dc         D(0); networks were trained with 0 or 1/3
    margin     zeros appended to each axis before a transform; with any, sizes are made smooth. None: the shape itself,
               whatever its factors, as published networks transform
    kernel     float32 half spectrum of D, without scale
    """

    def __init__(
        self, shape: Sizes, voxel_mm: Triple, b0_dir: Triple, dc: float = 0.0, margin: Sizes | None = None
    ) -> None:
        self.shape = shape
        self.plan = plan(shape if margin is None else padded_shape(shape, margin))
        self.kernel = dipole_kernel(self.plan.shape, voxel_mm, b0_dir)
        self.kernel[0, 0, 0] = dc
        self.scaled = self.kernel * np.float32(self.plan.scale)
        self._corner = tuple(slice(n) for n in shape)

    def filter(self, of_kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A filter for `through`: of_kernel(D), scaled."""
        return of_kernel(self.kernel) * np.float32(self.plan.scale)

    def through(self, x: np.ndarray, real_filter: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """F^-1 (real_filter F x) within the shape, into `out` (a new array by default; may be `x`): float32."""
        p = self.plan
        spectrum = p.forward(self.placed(x))
        multiply(spectrum, real_filter)
        return self.back(spectrum, out)

    def field(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """D x."""
        return self.through(x, self.scaled, out)

    def placed(self, x: np.ndarray) -> np.ndarray:
        """`x` in the plan's real array, zeros around it."""
        real = self.plan.real
        if real.shape != x.shape:
            real[...] = 0
        real[self._corner] = x
        return real

    def back(self, spectrum: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """F^-1 of a spectrum (lost) whose filter was scaled, within the shape."""
        y = self.plan.inverse(spectrum)[self._corner]
        if out is None:
            return y.copy()
        out[...] = y
        return out


def tensor(shape: Sizes, voxel_mm: Triple, b0_dir: Triple, dc: float, order: str) -> np.ndarray:
    """D as an input of a network, float32: `fft` (x, y, z), DC first; `centred`, DC in the middle; `half`."""
    half = dipole_kernel(shape, voxel_mm, b0_dir)
    half[0, 0, 0] = dc
    if order == "half":
        return half
    x, y = (-np.arange(n) % n for n in shape[:2])
    last = np.arange(shape[2] // 2 + 1, shape[2])
    mirror = half[x[:, None, None], y[:, None], (shape[2] - last)]
    full = np.concatenate([half, mirror], axis=2)
    return np.fft.fftshift(full) if order == "centred" else full

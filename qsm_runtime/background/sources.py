"""What background removal takes with it, given back: the field of the sources that a first result shows.

Every method here settles the harmonic part of the local field by an assumption: zero on the boundary, least norm, the
mean over a ball. None of them holds, since the sources inside do reach the boundary, and what is missed there spreads
inwards as a smooth error. A first result shows these sources well, so a method is applied once more to what they do
not explain, and their field is added:

    chi = M F^-1 [D / (D^2 + delta)] F f_local,   d = M D chi,   f_local <- d + method(f - d)

For a method that is linear and takes harmonic fields to zero, f - f_local stays harmonic: only background moves.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from qsm_runtime.background.masked import voxels_of
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import Box, box_of, embed, extract, keep
from qsm_runtime.kernels.dipole import dipole_kernel

DELTA = 0.02  # chi must explain the field near the edge; noise in it, up to 3.5 times the field's, is of no account
MARGIN_MM = 24.0  # around the mask, before the sources' periodic images begin
ERODED_MARGIN_MM = 10.0  # is enough where the local field is known only well inside the mask


def sources_box(mask: np.ndarray, grid: Grid, margin_mm: float = MARGIN_MM) -> Box:
    """The mask's box with room for the sources' field."""
    return box_of(mask, voxels_of(margin_mm, grid))


class Sources:
    """Finds the sources in a mask that explain a local field, and their field there: two convolutions a call.

    box  the mask's, on whose transform they are found: the one that a method has anyway, where its margin is enough
    """

    def __init__(self, mask: np.ndarray, grid: Grid, box: Box) -> None:
        self.shape = mask.shape
        self.box = box
        self.mask = np.ascontiguousarray(mask[box.slices])
        self.plan = fft.plan(box.fft_shape)
        self.dipole = dipole_kernel(self.plan.shape, grid.voxel_mm, grid.b0_dir)

    def field_of(self, local_ppm: np.ndarray) -> np.ndarray:
        """d of the module's head for a local field (float32, zero where it is not known): float32, zero outside."""
        plan, scale = self.plan, np.float32(self.plan.scale)
        _deconvolve(plan.forward(embed(local_ppm, self.box, plan.real)), self.dipole, np.float32(DELTA), scale)
        keep(plan.inverse(), self.mask)
        _convolve(plan.forward(), self.dipole, scale)
        return extract(keep(plan.inverse(), self.mask), self.box, self.shape)


def with_sources(
    remove: Callable[[np.ndarray], np.ndarray],
    field_ppm: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    passes: int,
    box: Box,
) -> np.ndarray:
    """`remove(field)` -> local field, then once more for each of `passes` as the module's head says."""
    local = remove(field_ppm)
    if passes:
        sources = Sources(mask, grid, box)
        for _ in range(passes):
            known = sources.field_of(local)
            del local  # its memory is the next one's
            local = remove(field_ppm - known)
            local += known
    return local


@njit(parallel=True, cache=True)
def _deconvolve(spectrum, dipole, delta, scale):
    """spectrum *= scale D / (D^2 + delta), in place."""
    for i in prange(spectrum.shape[0]):
        for j in range(spectrum.shape[1]):
            for k in range(spectrum.shape[2]):
                d = dipole[i, j, k]
                spectrum[i, j, k] *= d * scale / (d * d + delta)


@njit(parallel=True, cache=True)
def _convolve(spectrum, dipole, scale):
    """spectrum *= scale D, in place."""
    for i in prange(spectrum.shape[0]):
        for j in range(spectrum.shape[1]):
            for k in range(spectrum.shape[2]):
                spectrum[i, j, k] *= dipole[i, j, k] * scale

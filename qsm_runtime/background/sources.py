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

from qsm_runtime.background.masked import voxels_of
from qsm_runtime.grid import Grid
from qsm_runtime.kernels import fft
from qsm_runtime.kernels.convolve import box_of, convolve, embed, extract
from qsm_runtime.kernels.dipole import dipole_kernel

DELTA = 0.02  # chi must explain the field near the edge; noise in it, up to 3.5 times the field's, is of no account
MARGIN_MM = 24.0  # around the mask, before the sources' periodic images begin


class Sources:
    """Finds the sources in a mask that explain a local field, and their field there: two convolutions a call."""

    def __init__(self, mask: np.ndarray, grid: Grid) -> None:
        self.mask = mask
        self.box = box_of(mask, voxels_of(MARGIN_MM, grid))
        self.plan = fft.plan(self.box.fft_shape)
        scale = np.float32(self.plan.scale)
        self.dipole = dipole_kernel(self.plan.shape, grid.voxel_mm, grid.b0_dir)
        self.inverse = self.dipole * scale / (self.dipole**2 + np.float32(DELTA))
        self.dipole *= scale

    def field_of(self, local_ppm: np.ndarray) -> np.ndarray:
        """d of the module's head for a local field (float32, zero where it is not known): float32, zero outside."""
        chi = self._filter(local_ppm, self.inverse)
        return self._filter(chi, self.dipole)

    def _filter(self, x: np.ndarray, filter_: np.ndarray) -> np.ndarray:
        y = convolve(embed(x, self.box, self.plan.real), filter_, self.plan, self.plan.real)
        return extract(y, self.box, self.mask.shape) * self.mask


def with_sources(
    remove: Callable[[np.ndarray], np.ndarray], field_ppm: np.ndarray, mask: np.ndarray, grid: Grid, passes: int
) -> np.ndarray:
    """`remove(field)` -> local field, then once more for each of `passes` as the module's head says."""
    local = remove(field_ppm)
    if passes:
        sources = Sources(mask, grid)
        for _ in range(passes):
            known = sources.field_of(local)
            local = remove(field_ppm - known)
            local += known
    return local

"""The forward model of iterative inversions: W D S, with x on the support S of the mask and the data weighted by W.

Vectors are float32 over the mask's bounding box; each application is one pair of transforms on the padded box.
"""

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import crop
from qsm_runtime.kernels.convolve import multiply
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.splitting import place, take


class MaskedDipole:
    """apply: out = W D S x; adjoint: out = S D W y. `field` is the local field inside the mask, zero elsewhere."""

    def __init__(self, local_ppm: np.ndarray, weight: np.ndarray, mask: np.ndarray, grid: Grid) -> None:
        self.box, self.plan = crop(mask, grid)
        inner = self.box.slices
        self.shape = grid.shape
        self.support = mask[inner].astype(np.float32)
        self.weight = weight[inner] * self.support
        self.field = np.where(mask[inner], local_ppm[inner], np.float32(0))
        self.dipole = dipole_kernel(self.plan.shape, grid.voxel_mm, grid.b0_dir, self.plan.scale)

    def _through(self, x: np.ndarray, before: np.ndarray, after: np.ndarray, out: np.ndarray) -> np.ndarray:
        p = self.plan
        place(x, before, p.real)
        spectrum = p.forward()
        multiply(spectrum, self.dipole)
        take(p.inverse(spectrum), after, out)
        return out

    def apply(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        return self._through(x, self.support, self.weight, out)

    def adjoint(self, y: np.ndarray, out: np.ndarray) -> np.ndarray:
        return self._through(y, self.weight, self.support, out)

    def field_of(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """D S x inside the mask, without weights."""
        return self._through(x, self.support, self.support, out)

    def result(self, x: np.ndarray) -> np.ndarray:
        """`x` on the full grid, zero outside the mask."""
        chi = np.zeros(self.shape, np.float32)
        chi[self.box.slices] = x * self.support
        return chi


class SpectralDipole:
    """W D P from k-space: the unknown is Y, half spectrum of P^-1 chi, P = 1/max(|D|, delta) a preconditioner.

    One transform an application, and only the cone |D| < delta is left ill-conditioned. apply: float32 box from
    complex64 Y; adjoint: the reverse, for the product that counts mirrored samples twice.
    """

    def __init__(self, local_ppm: np.ndarray, weight: np.ndarray, mask: np.ndarray, grid: Grid, delta: float) -> None:
        self.box, self.plan = crop(mask, grid)
        inner = self.box.slices
        self.shape = grid.shape
        self.support = mask[inner].astype(np.float32)
        self.weight = weight[inner] * self.support
        self.field = np.where(mask[inner], local_ppm[inner], np.float32(0))
        self.dipole = dipole_kernel(self.plan.shape, grid.voxel_mm, grid.b0_dir)
        self.root = np.float32(np.sqrt(self.plan.scale))
        self.precondition = self.root / np.maximum(np.abs(self.dipole), np.float32(delta))
        self.filter = self.dipole * self.precondition

    def apply(self, y: np.ndarray, out: np.ndarray) -> np.ndarray:
        p = self.plan
        np.multiply(y, self.filter, out=p.spectrum)
        take(p.inverse(), self.weight, out)
        return out

    def adjoint(self, y: np.ndarray, out: np.ndarray) -> np.ndarray:
        p = self.plan
        place(y, self.weight, p.real)
        multiply(p.forward(p.real, out), self.filter)
        return out

    def map_of(self, y: np.ndarray) -> np.ndarray:
        """The susceptibility over the padded box, from the solution Y."""
        p = self.plan
        np.multiply(y, self.precondition, out=p.spectrum)
        return p.inverse()

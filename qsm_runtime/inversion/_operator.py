"""The forward model of iterative inversions: W D S, with x on the support S of the mask and the data weighted by W.

Vectors are float32 over the mask's bounding box; each application is one pair of transforms on the padded box.
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import crop
from qsm_runtime.inversion._noise import explained_ppm, outlier_factor
from qsm_runtime.kernels import cg
from qsm_runtime.kernels.convolve import multiply
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.images import Images
from qsm_runtime.kernels.splitting import place, take

PRECONDITION = 0.02  # about 0.15 squared: where D is larger the spectrum's own inverse is a good first answer
FITTED = 0.5  # of the noise's sum of squares: the map has about as many unknowns as there are data, and follows it
Progress = Callable[[float], None] | None


class MaskedDipole:
    """apply: out = W D S x; adjoint: out = S D W y.

    field  the local field where its weight is not zero: of free space at first, then on the transform's periodic grid
    """

    def __init__(self, local_ppm: np.ndarray, weight: np.ndarray, mask: np.ndarray, grid: Grid) -> None:
        self.box, self.plan = crop(mask, grid)
        inner = self.box.slices
        self.shape = grid.shape
        self.support = mask[inner].astype(np.float32, order="C")
        self.weight = np.ascontiguousarray(weight[inner] * self.support)
        self.measured = self.field = np.ascontiguousarray(np.where(self.weight > 0, local_ppm[inner], np.float32(0)))
        self.images = Images(self.box, grid)
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

    def least_squares(
        self,
        iterations: int,
        *,
        penalty: float = PRECONDITION,
        damping: float = 0.0,
        start: np.ndarray | None = None,
        progress: Progress = None,
    ) -> np.ndarray:
        """Conjugate gradients on (A^T A + damping) x = A^T W f, from `start` or zero.

        Preconditioned by S F^-1 1/(D^2 + penalty + damping) F S.
        """
        p, between = self.plan, np.empty_like(self.field)
        inverse = np.float32(p.scale) / ((self.dipole / np.float32(p.scale)) ** 2 + np.float32(penalty + damping))

        def normal(x: np.ndarray, out: np.ndarray) -> None:
            self.adjoint(self.apply(x, between), out)
            if damping:
                cg.combine(x, out, damping, 1.0)

        def precondition(r: np.ndarray, out: np.ndarray) -> None:
            place(r, self.support, p.real)
            spectrum = p.forward()
            multiply(spectrum, inverse)
            take(p.inverse(spectrum), self.support, out)

        unexplained, rhs = self.field * self.weight, np.empty_like(self.field)
        if start is not None:
            unexplained -= self.apply(start, between)
        self.adjoint(unexplained, rhs)
        if start is not None and damping:
            cg.combine(start, rhs, -damping, 1.0)
        x, _ = cg.cg(
            normal,
            rhs,
            tolerance=1e-3,
            max_iterations=iterations,
            precondition=precondition,
            progress=progress,
        )
        return x if start is None else x + start

    def stop_ppm(self, noise_ppm: float, reliability: np.ndarray | None) -> float:
        """Norm of the weighted residual at which to stop; `reliability` is on the full grid."""
        known = None if reliability is None else reliability[self.box.slices]
        return (1 - FITTED) ** 0.5 * explained_ppm(self.weight, noise_ppm, known)

    def reweight(self, x: np.ndarray, noise_ppm: float) -> None:
        """Give the field what the periodic images of x add to it; less weight to voxels that x cannot explain."""
        self.field = self.images(x)
        self.field += self.measured
        self.field *= self.weight > 0
        residual = self.field_of(x, np.empty_like(self.field))
        residual -= self.field
        self.weight *= outlier_factor(residual, self.weight, noise_ppm)

    def result(self, x: np.ndarray) -> np.ndarray:
        """`x` on the full grid, zero outside the mask."""
        chi = np.zeros(self.shape, np.float32)
        chi[self.box.slices] = x * self.support
        return chi

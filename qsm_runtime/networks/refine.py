"""Data consistency for any map: what the field says and the map does not is brought back, by the dipole model.

With r = W^2 (f - D x) inside the mask, all steps correct x by a part of D^-1 r:
substitute  x + F^-1 h(D) F r,  h = s(|D|) / D, s rising from 0 to 1 over LOW..HIGH: the well-conditioned part of
            k-space comes from the field, the cone from the map, with a smooth seam; outside the mask the map's own
            field stands for the unknown one. Where noise is not small, D / (D^2 + eta) in the place of 1 / D
gradient    a few conjugate-gradient steps on |W (D x - f)|^2 + mu |x - x0|^2 from x0, preconditioned by 1/(D^2 + mu)
eta         variance of the noise over that of the map's error, of a Wiener filter: the error's is what |W (f - D x)|^2
            has beyond the noise. A map that explains the field to within its noise stays as it is; mu is at least eta
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.inversion._noise import DIPOLE_POWER
from qsm_runtime.kernels import cg
from qsm_runtime.kernels.convolve import box_of, extract
from qsm_runtime.kernels.fft import padded_shape
from qsm_runtime.kernels.images import Images
from qsm_runtime.networks.physics import Dipole

MARGIN_MM = 16.0
LOW, HIGH = 0.08, 0.2  # |D| over which the field takes over: below the first it multiplies noise twelvefold
MU = 0.02  # about LOW HIGH: pull to the network's map
STEPS = 4
Progress = Callable[[float], None] | None


class _Data:
    """The field, its weights and the model on the mask's box."""

    def __init__(self, local_ppm: np.ndarray, weight: np.ndarray, mask: np.ndarray, grid: Grid) -> None:
        x, y, z = (int(np.ceil(MARGIN_MM / v)) for v in grid.voxel_mm)
        self.box, self.shape = box_of(mask), grid.shape
        self.dipole = Dipole(self.box.size, grid.voxel_mm, grid.b0_dir, margin=(x, y, z))
        self.images = Images(self.box._replace(fft_shape=self.dipole.plan.shape), grid)
        self.mask = mask[self.box.slices]
        self.weight2 = np.where(self.mask, np.square(weight[self.box.slices]), np.float32(0))
        self.field = np.where(self.weight2 > 0, local_ppm[self.box.slices], np.float32(0))

    def residual(self, x: np.ndarray, explained_ppm: float) -> tuple[np.ndarray, float]:
        """W^2 (f - D x), D x being the field of free space, and eta."""
        rest = self.dipole.field(x)
        rest -= self.images(x)
        np.subtract(self.field, rest, out=rest)
        weighted = rest * self.weight2
        beyond = float(np.vdot(weighted, rest)) - explained_ppm**2
        return weighted, DIPOLE_POWER * explained_ppm**2 / beyond if beyond > 0 else np.inf

    def full(self, x: np.ndarray) -> np.ndarray:
        return extract(x * self.mask, self.box._replace(fft_shape=padded_shape(self.box.size)), self.shape)


def substitute(
    chi_ppm: np.ndarray,
    local_ppm: np.ndarray,
    weight: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    explained_ppm: float = 0.0,
    low: float = LOW,
    high: float = HIGH,
) -> np.ndarray:
    """The map with the well-conditioned part of k-space from the field. float32 (x, y, z), zero outside the mask.

    weight         float32 (x, y, z) 0..1, the field's data weights
    explained_ppm  what noise alone leaves of |W (f - D x)|
    """
    data = _Data(local_ppm, weight, mask, grid)
    x = chi_ppm[data.box.slices] * data.mask
    rest, eta = data.residual(x, explained_ppm)

    def inverse(d: np.ndarray) -> np.ndarray:
        size = np.abs(d)
        share = np.clip((size - np.float32(low)) / np.float32(high - low), 0, 1)
        share *= share * (3 - 2 * share)
        return share * d / np.maximum(d * d + np.float32(eta), np.float32(low * low))

    return data.full(x + data.dipole.through(rest, data.dipole.filter(inverse), rest))


def gradient(
    chi_ppm: np.ndarray,
    local_ppm: np.ndarray,
    weight: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    explained_ppm: float = 0.0,
    steps: int = STEPS,
    mu: float = MU,
    progress: Progress = None,
) -> np.ndarray:
    """The map after a few weighted steps towards the field. Arguments and result as `substitute`."""
    data = _Data(local_ppm, weight, mask, grid)
    x = chi_ppm[data.box.slices] * data.mask
    rest, eta = data.residual(x, explained_ppm)
    if not np.isfinite(eta):
        return data.full(x)
    mu = max(mu, eta)
    rhs = data.dipole.field(rest)
    rhs *= data.mask
    inverse = data.dipole.filter(lambda d: 1 / (d * d + np.float32(mu)))

    def normal(v: np.ndarray, out: np.ndarray) -> None:
        data.dipole.field(v, out)
        np.multiply(out, data.weight2, out=out)
        data.dipole.field(out, out)
        np.multiply(out, data.mask, out=out)
        cg.combine(v, out, mu, 1.0)

    def precondition(v: np.ndarray, out: np.ndarray) -> None:
        data.dipole.through(v, inverse, out)
        np.multiply(out, data.mask, out=out)

    change, _ = cg.cg(normal, rhs, tolerance=1e-3, max_iterations=steps, precondition=precondition, progress=progress)
    return data.full(x + change)

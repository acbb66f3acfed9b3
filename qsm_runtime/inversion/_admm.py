"""Total variation by alternating directions, with the field known only inside the mask.

minimise  phi(D x - f) over the mask + lambda |g x|_1,  x = 0 outside the mask
by the splittings z = g x (penalty rho), y = D x (penalty r) and p = x on the support (penalty rho_s), after Boyd
2011, 10.1561/2200000016. One update of x in k-space,
    (r D^2 + rho E + rho_s) X = r D F(v - u_y) + F(rho g^T (z - u_z) + rho_s (p - u_p)),
and four transforms an iteration. A field cut off at the mask is not zero beyond it, and a map that ends at the mask
is: stating both is worth more than any other choice made here.
"""

from collections.abc import Callable

import numpy as np

from qsm_runtime.grid import Grid
from qsm_runtime.inversion._direct import crop, part
from qsm_runtime.inversion._noise import outlier_factor
from qsm_runtime.kernels import splitting
from qsm_runtime.kernels.convolve import Box, extract, multiply
from qsm_runtime.kernels.differences import NO_EDGES, gradient_power, tv_reflect, tv_update
from qsm_runtime.kernels.dipole import dipole_kernel
from qsm_runtime.kernels.images import Images

DataStep = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.float32], None]
Progress = Callable[[float], None] | None
GRADIENT_PENALTY = 100.0  # rho over lambda: differences below 0.01 ppm a voxel are shrunk to nothing in one step
DATA_PENALTY = 0.2  # r, for weights near 1
SUPPORT_PENALTY = 3e-3
CORNER = 3.0  # a over the noise: where absolute differences stand for squares
CORNER_FLOOR_PPM = 2e-3
NO_TRUST: np.ndarray = np.ones((1, 1, 1), np.float32)


def mean_voxels(grid: Grid) -> tuple[float, float, float]:
    """Voxel size in units of its geometric mean: differences taken with it make lambda the same at any resolution."""
    x, y, z = grid.voxel_mm
    mean = (x * y * z) ** (1 / 3)
    return x / mean, y / mean, z / mean


def axis_powers(shape: tuple[int, int, int], step_size: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """E(k) of differences.py, axis by axis (float64): their sum at k is that of the gradient."""
    return tuple((2.0 * np.sin(np.pi * np.fft.fftfreq(n)) / v) ** 2 for n, v in zip(shape, step_size, strict=True))


def absolute_data(noise_ppm: float) -> DataStep:
    """a W |y - f|: absolute differences at the scale a of a field with white noise of `noise_ppm`."""
    corner2 = np.float32(max(CORNER * noise_ppm, CORNER_FLOOR_PPM) ** 2)

    def step(y: np.ndarray, u: np.ndarray, f: np.ndarray, w2: np.ndarray, r: np.float32) -> None:
        splitting.absolute_step(y, u, f, w2, r, corner2)

    return step


class Splitting:
    """State of the iteration: box, spectra and multipliers.

    x       float32 (fft shape), the current map;  y  D x, then the data term's message
    field, weight2, mask   the mask's box only; field: of free space at first, then on the transform's periodic grid
    """

    def __init__(self, local_ppm: np.ndarray, weight2: np.ndarray, mask: np.ndarray, grid: Grid) -> None:
        self.box: Box
        self.box, self.plan = crop(mask, grid)
        p, inner = self.plan, self.box.slices
        self.step_size = mean_voxels(grid)
        self.shape = grid.shape
        self.mask = np.ascontiguousarray(mask[inner])
        self.weight2 = np.ascontiguousarray(np.where(self.mask, weight2[inner], np.float32(0)))
        self.measured = self.field = np.ascontiguousarray(np.where(self.weight2 > 0, local_ppm[inner], np.float32(0)))
        self.images = Images(self.box, grid)
        self.dipole = dipole_kernel(p.shape, grid.voxel_mm, grid.b0_dir)
        self.x, self.y = p.new_real(), p.new_real()
        self.spectrum, self.data = p.spectrum, p.new_spectrum()
        self.solve = np.empty_like(self.dipole)
        self.u_y, self.u_p = np.zeros_like(self.field), np.zeros(p.shape, np.float32)
        self.w = np.zeros((3, *p.shape), np.float32)
        self.old = np.zeros_like(self.field)
        self.trust: np.ndarray = NO_TRUST  # share of each wavelength of the field that susceptibility must explain

    def prepare(self, rho: float, r: float, rho_support: float) -> None:
        """Diagonal of the x-update."""
        power_x, power_y, power_z = axis_powers(self.plan.shape, self.step_size)
        given = np.float32(r), float(rho), np.float32(rho_support), np.float32(self.plan.scale)
        splitting.inverse_diagonal(self.dipole, self.trust, power_x, power_y, power_z, *given, self.solve)

    def start(self, ridge: float = 1e-2) -> None:
        """x from the closed form D / (D^2 + ridge), y = D x."""
        p = self.plan
        self.y[...] = 0
        nx, ny, nz = self.field.shape
        self.y[:nx, :ny, :nz] = self.field
        p.forward(self.y, self.spectrum)
        splitting.ridge_start(self.spectrum, self.dipole, np.float32(ridge), np.float32(p.scale), self.data)
        p.inverse(self.spectrum, self.x)
        p.inverse(self.data, self.y)

    def start_from(self, chi_ppm: np.ndarray) -> None:
        """x from a map on the full grid, y = D x."""
        p, inner = self.plan, self.box.slices
        nx, ny, nz = self.field.shape
        self.x[...] = 0
        self.x[:nx, :ny, :nz] = chi_ppm[inner] * self.mask
        p.forward(self.x, self.spectrum)
        np.multiply(self.spectrum, self.dipole * np.float32(p.scale), out=self.data)
        p.inverse(self.data, self.y)

    def run(
        self,
        step: DataStep,
        *,
        regularisation: float,
        rho: float | None = None,
        r: float = DATA_PENALTY,
        rho_support: float = SUPPORT_PENALTY,
        tolerance: float,
        max_iterations: int,
        edges: np.ndarray = NO_EDGES,
        progress: Progress = None,
    ) -> int:
        """Iterate until x changes by less than `tolerance` of its norm within the mask; returns the iterations."""
        rho = GRADIENT_PENALTY * regularisation if rho is None else rho
        p, voxel, threshold = self.plan, self.step_size, regularisation / rho
        self.prepare(rho, r, rho_support)
        sums = np.empty((self.mask.shape[0], 2))
        penalty, support, scale = np.float32(r), np.float32(rho_support), np.float32(self.plan.scale)
        rhs = p.real
        for iteration in range(1, max_iterations + 1):
            step(self.y, self.u_y, self.field, self.weight2, penalty)
            tv_update(self.x, self.w, threshold, voxel, edges)
            tv_reflect(self.w, threshold, voxel, rho, rhs, edges)
            splitting.support_step(self.x, self.u_p, self.mask, support, rhs)
            p.forward(rhs, self.spectrum)
            p.forward(self.y, self.data)
            splitting.spectral_step(self.spectrum, self.data, self.dipole, penalty, self.solve, self.trust, scale)
            p.inverse(self.spectrum, self.x)
            p.inverse(self.data, self.y)
            splitting.change(self.x, self.old, self.mask, sums)
            difference, size = sums.sum(axis=0)
            if progress is not None:
                progress(iteration / max_iterations)
            if difference <= tolerance**2 * size:
                return iteration
        return max_iterations

    def run_rounds(
        self,
        step: DataStep,
        *,
        rounds: int,
        noise_ppm: float,
        first: DataStep | None = None,
        regularisation: float,
        tolerance: float,
        max_iterations: int,
        edges: np.ndarray = NO_EDGES,
        progress: Progress = None,
    ) -> None:
        """`rounds` runs that share `max_iterations`, with a reweighting before each but the first.

        The first of several uses the data step `first`, where one is given.
        """
        for done in range(rounds):
            if done:
                self.reweight(noise_ppm)
            self.run(
                first if first is not None and done == 0 and rounds > 1 else step,
                regularisation=regularisation,
                tolerance=tolerance,
                max_iterations=max(1, max_iterations // rounds),
                edges=edges,
                progress=part(progress, done / rounds, (done + 1) / rounds),
            )

    def leave_smooth_fields(self, beyond: float) -> None:
        """Let a smooth field h explain what varies over more than `beyond` mean voxels (see weak_harmonic)."""
        cut = (2 * np.pi / beyond) ** 2
        power = gradient_power(self.plan.shape, self.step_size) ** 2
        self.trust = (power / (power + cut**2)).astype(np.float32)

    def reweight(self, noise_ppm: float) -> None:
        """Put the map's level right, give the field what the map's images add to it, and less weight to voxels that
        the model cannot explain.

        The level is what converges last: of the field, the mask's edge alone tells it.
        """
        p, (nx, ny, nz) = self.plan, self.field.shape
        low = slice(nx), slice(ny), slice(nz)
        p.real[...] = 0
        p.real[low] = self.mask
        multiply(p.forward(), self.dipole)
        edge = p.inverse()
        edge *= np.float32(p.scale)
        images, of_mask = self.images(self.x), self.images(self.mask)
        free = edge[low] - of_mask
        weighted = self.weight2 * free
        residual = self.y[low] - images
        np.subtract(self.measured, residual, out=residual)
        power = float(np.vdot(weighted, free))
        told = power > 0 and self.trust is NO_TRUST  # a smooth field that is free takes the level with it
        level = np.float32(np.vdot(weighted, residual) / power) if told else np.float32(0)
        self.x[low] += level * self.mask
        self.y += level * edge
        self.field = images
        self.field += level * of_mask
        self.field += self.measured
        self.field *= self.weight2 > 0
        residual = self.y[low] - self.field
        self.weight2 *= outlier_factor(residual, np.sqrt(self.weight2), noise_ppm) ** 2

    def result(self) -> np.ndarray:
        """The map on the full grid, zero outside the mask."""
        chi = extract(self.x, self.box, self.shape)
        chi[self.box.slices] *= self.mask
        return chi
